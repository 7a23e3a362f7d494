"""Builds a `Config` from defaults, weights, files and overrides, for the command, node and Python.

Needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from instaseg_ros.checkpoint import INPUT_SIZE, Checkpoint, describe
from instaseg_ros.config import (
    Config,
    assigned,
    by_name,
    leaves_of,
    merge,
    naming,
    own_leaves,
    read,
)
from instaseg_ros.config.options.schema import replaced
from instaseg_ros.errors import ConfigError


def load_config(
    path: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    **sections: Any,
) -> Config:
    """Start from the defaults of the weights' method, then apply the thresholds and (unless set
    here) the input size stored with the weights, then the file at `path`, then `overrides` (nested
    or dotted, such as `{"decode.min_pixels": 20}`), then `sections`:

        load_config(weights="street", decode={"min_pixels": 20})

    Raises ConfigError for an unusable value and for an option that the method does not have (in a
    file, options of other methods at their defaults are ignored), and WeightsError when the weights
    cannot be read.
    """
    with naming(path):
        in_file = read(path) if path is not None else {}
    given = by_name(overrides or {}) | by_name(sections)
    header, base = _of_weights({**in_file, **given})
    with naming(path):
        asked = own_leaves(base, in_file, ignore_others=True)
    return _with_what_suits(header, base, asked | own_leaves(base, given))


def suited(config: Config) -> Config:
    """`config` as `load_config` gives it for its weights.

    Values that are still defaults, or came from the previous weights, are taken from the new
    weights. Options of the previous weights' method that the new method lacks are dropped."""
    if config.suited_to == config.weights:
        return config
    before = Config().for_method(config.method.name)
    if config.suited_to:
        before = load_config(weights=config.suited_to)
    usual = leaves_of(before)
    asked = {name: value for name, value in leaves_of(config).items() if value != usual[name]}
    header, base = _of_weights({"weights": config.weights})
    if config.suited_to:
        asked = {name: value for name, value in asked.items() if name in leaves_of(base)}
    return _with_what_suits(header, base, own_leaves(base, asked))


def _of_weights(asked: Mapping[str, Any]) -> tuple[Checkpoint, Config]:
    """The header of the weights that `asked` names, and the default config of their method."""
    named = {name: value for name, value in asked.items() if name == "weights"}
    config = merge(Config(), named)
    header = describe(config.weights)
    config = config.for_method(header.method_name)
    return header, replace(config, method=header.method_config)


def _with_what_suits(header: Checkpoint, base: Config, asked: Mapping[str, Any]) -> Config:
    """`base` of `_of_weights` with the values its weights bring, then the checked leaves `asked`
    for; `method.*` leaves are for training only, as these weights bring their own."""
    named = asked.get("method.name", header.method_name)
    if named != header.method_name:
        raise ConfigError(
            f"method.name: the weights {base.weights} are for {header.method_name}, got {named}; "
            "leave it out, or choose other weights"
        )
    asked = {name: value for name, value in asked.items() if not name.startswith("method.")}
    suits = assigned(base, {"decode": header.decode, "input": header.input})
    if asked.keys() & INPUT_SIZE:  # never mix one side from the user with one from the weights
        suits = {name: value for name, value in suits.items() if name not in INPUT_SIZE}
    return replace(replaced(base, {**suits, **asked}), suited_to=base.weights)
