"""Options that several methods have: described once, and listed by each that has them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from instaseg_ros.config.options.schema import param


@dataclass(frozen=True, slots=True)
class MethodConfig:
    """The method and its network; a checkpoint carries its own."""

    name: str = param("spatial_embedding", "method, one of instaseg_ros.methods.METHODS")
    profile: str = param(
        "published",
        "the network: as published; fast: ours of half the work; lite: ours whose encoder has seen "
        "ImageNet, of less than half",
        choices=("published", "fast", "lite"),
    )


def shape_of(config: MethodConfig) -> dict[str, Any]:
    """What a method's own `ShapeConfig` says beyond this: how the method is made."""
    base = {f.name for f in fields(MethodConfig)}
    return {name: value for name, value in asdict(config).items() if name not in base}


def dimensions() -> Any:
    return param(
        0, "of the embedding, for methods that learn its space; 0: as in the paper", low=0, high=256
    )


# Of decoding: best for the shipped weights on validation sequences.


def seed_threshold() -> Any:
    return param(0.8, "least seed score that starts an instance", low=0.0, high=1.0, live=True)


def foreground_threshold() -> Any:
    return param(
        0.1, "a pixel takes part when its seed score is above this", low=0.0, high=1.0, live=True
    )


def min_pixels() -> Any:
    return param(64, "an instance has more pixels than this", low=0, high=1_000_000, live=True)


def min_new_fraction() -> Any:
    return param(
        0.5,
        "an instance is kept when more than this share of it was not taken before",
        low=0.0,
        high=1.0,
        live=True,
    )


def first_come() -> Any:
    return param(
        True,
        "pixels that two instances of a class claim go to the surer one; false: to the other",
        live=True,
    )


def min_score() -> Any:
    return param(
        0.0,
        "an instance has at least this score; `instaseg calibrate` finds one for weights",
        low=0.0,
        high=1.0,
        live=True,
    )


# Of the loss.


def weight_instance() -> Any:
    return param(1.0, "weight of the instance term", low=0.0)


def weight_seed() -> Any:
    return param(1.0, "weight of the seed term", low=0.0)


def weight_semantic() -> Any:
    return param(1.0, "weight of pixels' classes, in a semantic head", low=0.0)


def bootstrap_px() -> Any:
    return param(
        0,
        "losses of pixels leave out those that are right, but keep this many of an image, the "
        "hardest; 0: keep all; Wu et al. 2016: 512",
        low=0,
    )
