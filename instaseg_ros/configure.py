"""The one door to a `Config`, which the command, the node and Python share. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from instaseg_ros.checkpoint import INPUT_SIZE, describe
from instaseg_ros.config import Config, assigned, merge, parameters, read


def load_config(
    path: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    **sections: Any,
) -> Config:
    """The defaults; over them what suits the weights, their thresholds, and their input size where
    none is set here; over that the file at `path`, `overrides` (nested or dotted, such as
    `{"decode.min_pixels": 20}`), and `sections`:

        load_config(weights="street", decode={"min_pixels": 20})

    Raises ConfigError for a value that cannot be used, WeightsError where the weights cannot be
    read.
    """
    asked = read(path) if path is not None else {}
    for given in (overrides or {}, sections):
        asked |= assigned(Config, given)
    return _with_what_suits(asked)


def suited(config: Config) -> Config:
    """`config` as `load_config` gives it for its weights: what still has its default, or the value
    of the weights that it had before, takes theirs."""
    if config.suited_to == config.weights:
        return config
    before = load_config(weights=config.suited_to) if config.suited_to else Config()
    usual = {leaf.name: leaf.value for leaf in parameters(before)}
    asked = {leaf.name: leaf.value for leaf in parameters(config)}
    asked = {name: value for name, value in asked.items() if value != usual[name]}
    return _with_what_suits({**asked, "weights": config.weights})


def _with_what_suits(asked: Mapping[str, Any]) -> Config:
    """asked: checked leaves by dotted name."""
    weights = asked.get("weights", Config().weights)
    header = describe(weights)
    suits = assigned(Config, {"decode": header.decode, "input": header.input})
    if asked.keys() & INPUT_SIZE:  # never one side of the user's and one of the weights'
        suits = {name: value for name, value in suits.items() if name not in INPUT_SIZE}
    return replace(merge(Config(), {**suits, **asked}), suited_to=weights)
