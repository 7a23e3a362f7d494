"""What a version promises, in the form in which it is kept and compared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml
from small_networks import SMALL

from instaseg_ros.checkpoint import FORMAT, Checkpoint, description
from instaseg_ros.config import Config, parameters, plain
from instaseg_ros.config.options import METHODS
from instaseg_ros.contract import INTERFACE
from instaseg_ros.model.erfnet import PROFILES
from instaseg_ros.recordings.result_messages import DEPTH_TOPICS, NODE_NAME, TOPICS
from instaseg_ros.ros.parameter_file import node_parameters

SETTINGS = [
    word
    for setting in ("runtime.name=torch", "runtime.precision=fp32", "runtime.threads=1")
    for word in ("--set", setting)
]


@contextmanager
def small_profiles() -> Iterator[None]:
    """The profiles of SMALL, as the kept weights have them, are profiles of the package."""
    before = dict(PROFILES)
    PROFILES.update(SMALL)
    try:
        yield
    finally:
        PROFILES.clear()
        PROFILES.update(before)


def headers() -> dict[str, Any]:
    """The header of weights of every method, with all their thresholds."""
    made = {}
    for method in METHODS:
        config = Config().for_method(method)
        checkpoint = Checkpoint({}, ("person", "car"), method, profile="small")
        decode = {p.name: p.value for p in parameters(config.decode)}
        size = {"height": 0, "width": 0, "scale": 1.0, "min_height": 480, "max_height": 1024}
        notes = {"licence": "Apache-2.0"}
        about = description(checkpoint)
        made[method] = {"format": FORMAT, **about, "decode": decode, "input": size, "notes": notes}
    return made


def interface() -> dict[str, Any]:
    """The node's topics, and the parameters of every method, those for training included, by name
    and type."""
    return {
        "interface": INTERFACE,
        "node": NODE_NAME,
        "topics": {name: t._asdict() for name, t in TOPICS.items()},
        "depth topics": {name: t._asdict() for name, t in DEPTH_TOPICS.items()},
        "parameters": {
            method: {p.name: _kind(p.kind) for p in parameters(Config().for_method(method))}
            for method in METHODS
        },
    }


def kept_parameters() -> str:
    """A parameter file for the node in which every parameter is set, to its default."""
    tree: dict[str, Any] = {}
    for parameter in node_parameters():
        group, _, name = parameter.name.rpartition(".")
        (tree.setdefault(group, {}) if group else tree)[name] = plain(parameter.value)
    return str(yaml.safe_dump({f"/**/{NODE_NAME}": {"ros__parameters": tree}}, sort_keys=False))


def keys_of(content: Any, prefix: str = "") -> dict[str, str]:
    """Every key of a JSON tree, as `a.b`, with the kind of its value; of a list its first entry's.
    What is null may be anything."""
    if isinstance(content, dict):
        found: dict[str, str] = {}
        for key, value in content.items():
            found |= keys_of(value, f"{prefix}.{key}")
        return found
    if isinstance(content, list):
        return keys_of(content[0], f"{prefix}[]") if content else {prefix: "list"}
    kind = "number" if type(content) in (int, float) else type(content).__name__
    return {prefix: "any" if content is None else kind}


def _kind(kind: Any) -> str:
    return getattr(kind, "__name__", None) or str(kind)
