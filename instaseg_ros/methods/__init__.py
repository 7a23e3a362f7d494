"""The methods, one paper to a file."""

from __future__ import annotations

from collections.abc import Callable

from instaseg_ros.errors import ConfigError
from instaseg_ros.methods.base import BACKGROUND, Method, Targets
from instaseg_ros.methods.box_regression import BoxRegression
from instaseg_ros.methods.discriminative import Discriminative
from instaseg_ros.methods.metric_learning import MetricLearning
from instaseg_ros.methods.spatial_embedding import SpatialEmbedding
from instaseg_ros.methods.spatio_temporal import SpatioTemporal

__all__ = ["BACKGROUND", "METHODS", "Method", "Targets", "make_method"]

METHODS: dict[str, Callable[[int, int, int], Method]] = {
    "spatial_embedding": lambda classes, n_sigma, _: SpatialEmbedding(classes, n_sigma),
    "box_regression": lambda classes, *_: BoxRegression(classes),
    "metric_learning": lambda classes, _, dimensions: MetricLearning(classes, dimensions),
    "discriminative": lambda classes, _, dimensions: Discriminative(classes, dimensions),
    "spatio_temporal": lambda classes, _, dimensions: SpatioTemporal(classes, dimensions),
}


def make_method(name: str, n_classes: int, n_sigma: int = 2, dimensions: int = 0) -> Method:
    """The method called `name`. Raises ConfigError for an unknown one.

    n_sigma: of spatial_embedding. dimensions: of the embedding of methods that learn a space of
    their own; 0: the paper's.
    """
    if name not in METHODS:
        raise ConfigError(f"method '{name}' is unknown; known: {', '.join(METHODS)}")
    return METHODS[name](n_classes, n_sigma, dimensions)
