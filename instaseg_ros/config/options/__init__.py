"""The options of each method, one file per method, and the table of methods.

A method's options are three frozen dataclasses in its file: `ShapeConfig` (of its heads),
`DecodeConfig` and `LossConfig`; `METHOD` says where its class is found. Options are parameters of
the node, lines of a recipe and entries of a checkpoint's header, all of which are read without
torch, whose import takes seconds: hence not in `methods`. A method whose import may take that
long can be one file with everything in it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Protocol

from instaseg_ros.config.options.shared import MethodConfig
from instaseg_ros.config.options.training import TrainConfig
from instaseg_ros.errors import ConfigError

METHODS = {
    "spatial_embedding": "instaseg_ros.config.options.spatial_embedding",
    "box_regression": "instaseg_ros.config.options.box_regression",
    "metric_learning": "instaseg_ros.config.options.metric_learning",
    "discriminative": "instaseg_ros.config.options.discriminative",
    "spatio_temporal": "instaseg_ros.config.options.spatio_temporal",
}


class Options(Protocol):
    """What each module named in METHODS declares.

    METHOD: "module:class" of its `methods.Method`, made as `class(n_classes, **shape)` with the
        fields that `ShapeConfig` adds to `MethodConfig`.
    """

    METHOD: str

    @property
    def ShapeConfig(self) -> type[MethodConfig]: ...

    @property
    def DecodeConfig(self) -> type: ...

    @property
    def LossConfig(self) -> type[TrainConfig]: ...


def options_of(method: str) -> Options:
    """The options of the method with this name. Raises ConfigError for an unknown one."""
    if method not in METHODS:
        raise ConfigError(f"method '{method}' is unknown; known: {', '.join(METHODS)}")
    return import_module(METHODS[method])
