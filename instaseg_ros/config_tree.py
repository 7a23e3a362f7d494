"""Trees of frozen dataclasses as parameters: each leaf with its description and range.

Overrides are checked, unknown names refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_type_hints

import yaml

from instaseg_ros.errors import ConfigError

T = TypeVar("T")


def param(
    default: Any,
    help: str,  # noqa: A002
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] | None = None,
    live: bool = False,
) -> Any:
    """A dataclass field with what its users must know: bounds are inclusive; `live` parameters
    may be changed while the node runs."""
    meta = {"help": help, "low": low, "high": high, "choices": choices, "live": live}
    return field(default=default, metadata=meta)


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


def parameters(config: Any, prefix: str = "") -> Iterator[Parameter]:
    """The leaves of a config dataclass in order, named `group.field`."""
    types = get_type_hints(type(config))
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            yield from parameters(value, f"{prefix}{f.name}.")
        else:
            yield Parameter(prefix + f.name, value, types[f.name], **f.metadata)


def _checked(name: str, kind: type, value: Any, meta: Mapping[str, Any]) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is float and isinstance(value, str):  # YAML 1.1 reads 1e-3 as a string
        with contextlib.suppress(ValueError):
            value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        expected = getattr(kind, "__name__", kind)  # of `Mapping | str` there is no name
        raise ConfigError(f"{name}: expected {expected}, got {type(value).__name__} {value!r}")
    if meta["choices"] and value not in meta["choices"]:
        raise ConfigError(f"{name}: expected one of {', '.join(meta['choices'])}, got {value!r}")
    low, high = meta["low"], meta["high"]
    inside = (low is None or value >= low) and (high is None or value <= high)
    if (low is not None or high is not None) and not inside:  # NaN is outside of every range
        raise ConfigError(
            f"{name}: expected a value from {'-inf' if low is None else low} to "
            f"{'inf' if high is None else high}, got {value!r}"
        )
    return value


def merge(config: T, overrides: Mapping[str, Any], prefix: str = "") -> T:
    """A copy of `config` with nested (`{"decode": {...}}`) or dotted (`"decode.min_pixels"`)
    overrides, each checked against its field's type and range.

    Raises ConfigError for an unknown key (naming the nearest known one) or a bad value.
    """
    types = get_type_hints(type(config))
    fields = {f.name: f for f in dataclasses.fields(config)}  # type: ignore[arg-type]
    changes: dict[str, Any] = {}
    for key, value in overrides.items():
        head, _, rest = str(key).partition(".")
        if head not in fields:
            near = difflib.get_close_matches(head, fields, n=1)
            hint = f"; did you mean '{prefix}{near[0]}'?" if near else ""
            raise ConfigError(f"unknown parameter '{prefix}{key}'{hint} Known: {', '.join(fields)}")
        if dataclasses.is_dataclass(types[head]):
            nested = {rest: value} if rest else value
            if not isinstance(nested, Mapping):
                raise ConfigError(f"{prefix}{head}: expected a mapping, got {value!r}")
            current = changes.get(head, getattr(config, head))
            changes[head] = merge(current, nested, f"{prefix}{head}.")
        elif rest:
            raise ConfigError(f"unknown parameter '{prefix}{key}': '{prefix}{head}' has no parts")
        else:
            changes[head] = _checked(prefix + head, types[head], value, fields[head].metadata)
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """`["decode.min_pixels=64"]` -> `{"decode.min_pixels": 64}`; values are read as YAML."""
    overrides = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text}: expected name=value")
        overrides[name] = yaml.safe_load(value)
    return overrides


def dump(config: Any) -> str:
    """YAML of the tree, in field order; `load` reads it back to an equal Config."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)
