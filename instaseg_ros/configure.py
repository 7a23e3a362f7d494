"""The one door to a `Config`, which the command, the node and Python share. Needs no torch."""

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
    """The defaults of the method of the weights; over them what suits the weights, their
    thresholds, and their input size where none is set here; over that the file at `path`,
    `overrides` (nested or dotted, such as `{"decode.min_pixels": 20}`), and `sections`:

        load_config(weights="street", decode={"min_pixels": 20})

    Raises ConfigError for a value that cannot be used and for an option that the method does not
    have (in a file, one of other methods at its default is ignored), WeightsError where the weights
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
    """`config` as `load_config` gives it for its weights: what still has its default, or the value
    of the weights that it had before, takes theirs. Options that the method of the weights before
    had, and this one has not, are left out."""
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
    """What the weights that are asked for say of themselves, and the defaults of their method."""
    named = {name: value for name, value in asked.items() if name == "weights"}
    config = merge(Config(), named)
    header = describe(config.weights)
    config = config.for_method(header.method_name)
    return header, replace(config, method=header.method_config)


def _with_what_suits(header: Checkpoint, base: Config, asked: Mapping[str, Any]) -> Config:
    """`base` of `_of_weights` with what its weights bring, and over that the checked leaves that
    are asked for; those of the method are for a training: these weights have their own."""
    named = asked.get("method.name", header.method_name)
    if named != header.method_name:
        raise ConfigError(
            f"method.name: the weights {base.weights} are of {header.method_name}, got {named}; "
            "leave it out, or choose other weights"
        )
    asked = {name: value for name, value in asked.items() if not name.startswith("method.")}
    suits = assigned(base, {"decode": header.decode, "input": header.input})
    if asked.keys() & INPUT_SIZE:  # never one side of the user's and one of the weights'
        suits = {name: value for name, value in suits.items() if name not in INPUT_SIZE}
    return replace(replaced(base, {**suits, **asked}), suited_to=base.weights)
