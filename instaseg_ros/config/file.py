"""Reads parameter files: plain YAML, or those of a ROS node.

Files are not trusted: their size and number of values are limited, and whatever the parser
stumbles over becomes a ConfigError.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from instaseg_ros.config.options.schema import shown
from instaseg_ros.errors import ConfigError

MAX_BYTES = 1 << 18
MAX_VALUES = 10_000  # nested aliases turn a few bytes into billions of values
NODE_NAME = "instaseg_node"
PARAMETERS = "ros__parameters"
OF_ROS = (
    "qos_overrides",
    "use_sim_time",
    "start_type_description_service",
)  # parameters of every node


def parse_yaml(text: str | bytes) -> Any:
    """Plain data of a YAML text. Raises ConfigError with the parser's reason."""
    try:
        tree = yaml.safe_load(text)
    except Exception as error:  # Python itself raises for bad dates, long numbers and depth
        reason = str(error) if isinstance(error, yaml.YAMLError) else repr(error)
        raise ConfigError(f"not readable as YAML: {reason}") from error
    seen, todo = 0, [tree]
    while todo:
        value = todo.pop()
        seen += 1
        if seen > MAX_VALUES:
            raise ConfigError(f"expected at most {MAX_VALUES} values, counting aliases, got more")
        if isinstance(value, Mapping):
            todo += value.values()
        elif isinstance(value, (list, set, tuple)):
            todo += value
    return tree


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """`["decode.min_pixels=64"]` -> `{"decode.min_pixels": 64}`; values are read as YAML."""
    overrides = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text}: expected name=value")
        try:
            overrides[name] = parse_yaml(value)
        except ConfigError as error:
            raise ConfigError(f"--set {text}: {error}") from error
    return overrides


def trees_in(path: str | Path) -> list[Mapping[str, Any]]:
    """The trees of parameters in a file; later ones override earlier ones.

    Plain YAML gives one tree. A ROS parameter file gives the sections that apply to a node called
    `instaseg_node`, or its only section.
    Raises ConfigError, without the file's name, when it cannot be read as either.
    """
    try:
        with Path(path).open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: not a file name
        raise ConfigError(str(getattr(error, "strerror", None) or error)) from error
    if len(text) > MAX_BYTES:
        raise ConfigError(f"expected at most {MAX_BYTES} bytes, got more")
    tree = parse_yaml(text)
    if tree is None:
        return []
    if not isinstance(tree, Mapping):
        raise ConfigError(f"expected a mapping of parameters, got {shown(tree)}")
    if not any(str(key).startswith("/") or _is_node(value) for key, value in tree.items()):
        return [tree]
    return _for_our_node(list(_sections(tree)))


def _is_node(value: Any) -> bool:
    """Whether this is the section of a node, or of a namespace that contains one."""
    inner = value.items() if isinstance(value, Mapping) else ()
    return any(name == PARAMETERS or _is_node(below) for name, below in inner)


def _sections(tree: Mapping[Any, Any], namespace: str = "") -> Iterator[tuple[str, Any]]:
    """(name with namespace, parameters) of every node, in file order."""
    for key, value in tree.items():
        name = f"{namespace}/{str(key).strip('/')}"
        if not isinstance(value, Mapping) or not value:
            raise ConfigError(f"'{name}': expected '{PARAMETERS}' of a node, got {shown(value)}")
        for inner, content in value.items():
            if inner != PARAMETERS:
                yield from _sections({inner: content}, name)
            elif isinstance(content, Mapping):
                yield name, content
            elif content is not None:  # None: all its lines were removed
                raise ConfigError(
                    f"'{name}' {PARAMETERS}: expected a mapping of parameters, got {shown(content)}"
                )


def _for_our_node(sections: list[tuple[str, Mapping[Any, Any]]]) -> list[Mapping[str, Any]]:
    names = {name for name, _ in sections}
    wildcards = {name for name in names if "*" in name and name.endswith(("*", f"/{NODE_NAME}"))}
    nodes = {name for name in names if "*" not in name}
    ours = {name for name in nodes if name.endswith(f"/{NODE_NAME}")}
    if not ours and not wildcards:
        ours = nodes  # a node of ours may have any name
    if len(ours) > 1:
        raise ConfigError(f"expected the parameters of one node, got {', '.join(sorted(ours))}")
    return [
        {key: value for key, value in content.items() if not str(key).startswith(OF_ROS)}
        for name, content in sections
        if name in ours | wildcards
    ]
