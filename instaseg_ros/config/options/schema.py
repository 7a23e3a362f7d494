"""Turns trees of frozen dataclasses into parameters: each leaf has a description and a range.

Overrides are checked and unknown names refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import reprlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_origin, get_type_hints

import yaml

from instaseg_ros.errors import ConfigError, nearest

T = TypeVar("T")

_types: Callable[[type], dict[str, Any]] = functools.cache(get_type_hints)


class UnknownParameterError(ConfigError):
    """A name that is no parameter of this configuration."""


def param(
    default: Any,
    help: str,  # noqa: A002
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] | None = None,
    live: bool = False,
    check: Callable[[Any], None] | None = None,
) -> Any:
    """A dataclass field with its help and range: bounds are inclusive; `live` parameters may be
    changed while the node runs.

    check: raises ConfigError for a value of the right type that is none of the allowed ones.
    """
    meta = {"help": help, "low": low, "high": high, "choices": choices, "live": live}
    return field(default=default, metadata={**meta, "check": check})


@dataclass(frozen=True, slots=True)
class Parameter:
    """One leaf of a config tree: dotted name, current value, and the field's metadata."""

    name: str
    value: Any
    kind: type
    help: str
    low: float | None
    high: float | None
    choices: tuple[str, ...] | None
    live: bool
    check: Callable[[Any], None] | None = None


def _parameter_fields(config: Any) -> dict[str, dataclasses.Field[Any]]:
    """The fields of a config dataclass that are groups or parameters, by name; a field with neither
    help nor parts is internal."""
    fields = dataclasses.fields(config)
    groups = {f.name for f in fields if dataclasses.is_dataclass(getattr(config, f.name))}
    return {f.name: f for f in fields if f.metadata or f.name in groups}


def parameters(config: Any, prefix: str = "") -> Iterator[Parameter]:
    """The leaves of a config dataclass in order, named `group.field`."""
    types = _types(type(config))
    for name, f in _parameter_fields(config).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            yield from parameters(value, f"{prefix}{name}.")
        else:
            yield Parameter(prefix + name, value, types[name], **f.metadata)


def shown(value: Any) -> str:
    """A short `repr` of any value, for messages."""
    try:
        return _SHORT.repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits
        return "something too large to print"


_SHORT = reprlib.Repr()
_SHORT.maxlevel = 3
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100


def _checked(name: str, kind: Any, value: Any, meta: Mapping[str, Any]) -> Any:
    if get_origin(kind) is tuple:
        return _checked_texts(name, value, meta)
    if kind is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):  # YAML 1.1 reads 1e-3 as a string
            value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        expected = getattr(kind, "__name__", kind)  # `Mapping | str` has no name
        if value is None:
            empty = "; an empty text is written ''" if kind is str else ""
            raise ConfigError(f"{name}: expected {expected}, got nothing{empty}")
        raise ConfigError(f"{name}: expected {expected}, got {type(value).__name__} {shown(value)}")
    if isinstance(value, str) and any(letter < " " for letter in value):
        raise ConfigError(f"{name}: expected no control characters, got {shown(value)}")
    if meta["choices"] and value not in meta["choices"]:
        raise ConfigError(
            f"{name}: expected one of {', '.join(meta['choices'])}, got {shown(value)}"
        )
    low, high = meta["low"], meta["high"]
    inside = (low is None or value >= low) and (high is None or value <= high)
    if (low is not None or high is not None) and not inside:  # NaN is outside every range
        raise ConfigError(
            f"{name}: expected a value from {'-inf' if low is None else low} to "
            f"{'inf' if high is None else high}, got {shown(value)}"
        )
    return value


def _checked_texts(name: str, value: Any, meta: Mapping[str, Any]) -> tuple[str, ...]:
    """A `tuple[str, ...]`, from any sequence of strings but a string."""
    if not isinstance(value, (list, tuple)) or not all(isinstance(one, str) for one in value):
        raise ConfigError(f"{name}: expected a list of str, got {shown(value)}")
    texts = tuple(value)
    try:
        if meta["check"]:
            meta["check"](texts)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
    return texts


def assigned(config: Any, overrides: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of a config dataclass, by dotted name, that nested (`{"decode": {...}}`) or dotted
    (`"decode.min_pixels"`) overrides set, each checked against its field's type and range.

    Raises UnknownParameterError for an unknown key, with the nearest known one, and ConfigError
    for a bad value.
    """
    types = _types(type(config))
    fields = _parameter_fields(config)
    leaves: dict[str, Any] = {}
    for key, value in overrides.items():
        head, _, rest = str(key).partition(".")
        if head not in fields:
            near = nearest(head, fields)
            hint = f"; did you mean '{prefix}{near}'?" if near else "."
            name = shown(f"{prefix}{key}")
            raise UnknownParameterError(
                f"unknown parameter {name}{hint} Known: {', '.join(fields)}"
            )
        group = getattr(config, head)
        if dataclasses.is_dataclass(group):
            nested = {rest: value} if rest else value
            if not isinstance(nested, Mapping):
                raise ConfigError(f"{prefix}{head}: expected a mapping, got {shown(value)}")
            leaves |= assigned(group, nested, f"{prefix}{head}.")
        elif rest:
            name = shown(f"{prefix}{key}")
            raise ConfigError(f"unknown parameter {name}: '{prefix}{head}' has no parts")
        else:
            leaves[prefix + head] = _checked(
                prefix + head, types[head], value, fields[head].metadata
            )
    return leaves


def replaced(config: T, leaves: Mapping[str, Any]) -> T:
    """A copy of `config` with these leaves (by dotted name, checked by `assigned`) replaced."""
    changes: dict[str, Any] = {}
    groups: dict[str, dict[str, Any]] = {}
    for name, value in leaves.items():
        head, _, rest = name.partition(".")
        if rest:
            groups.setdefault(head, {})[rest] = value
        else:
            changes[head] = value
    for head, inner in groups.items():
        changes[head] = replaced(getattr(config, head), inner)
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def dump(config: Any) -> str:
    """YAML of the tree, in field order; `load` reads it back to an equal Config."""
    return yaml.safe_dump(_tree(config), sort_keys=False)


def _tree(config: Any) -> dict[str, Any]:
    values = {name: getattr(config, name) for name in _parameter_fields(config)}
    return {n: _tree(v) if dataclasses.is_dataclass(v) else plain(v) for n, v in values.items()}


def plain(value: Any) -> Any:
    """The value of a leaf as YAML and ROS know it: a list for a tuple."""
    return list(value) if isinstance(value, tuple) else value
