"""Options shared by several methods: described once here, listed by each method that has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from instaseg_ros.config.options.schema import param, shown
from instaseg_ros.errors import ConfigError


@dataclass(frozen=True, slots=True)
class MethodConfig:
    """The method and its network; a checkpoint carries these itself."""

    name: str = param("spatial_embedding", "method, one of instaseg_ros.methods.METHODS")
    profile: str = param(
        "published",
        "network; published: the paper's; fast: ours, with half the work; lite: ours, with less "
        "than half and an encoder pretrained on ImageNet",
        choices=("published", "fast", "lite"),
    )


def shape_of(config: MethodConfig) -> dict[str, Any]:
    """The fields that a method's own `ShapeConfig` adds: arguments of the method's class."""
    base = {f.name for f in fields(MethodConfig)}
    return {name: value for name, value in asdict(config).items() if name not in base}


def dimensions() -> Any:
    return param(
        0, "dimensions of the embedding, where it is learned; 0: as in the paper", low=0, high=256
    )


# Decoding; the defaults are the best for the shipped weights on validation sequences.


def seed_threshold() -> Any:
    return param(0.8, "least seed score that starts an instance", low=0.0, high=1.0, live=True)


def foreground_threshold() -> Any:
    return param(0.1, "seed score above which a pixel takes part", low=0.0, high=1.0, live=True)


def min_pixels() -> Any:
    return param(
        64, "only instances with more pixels than this are kept", low=0, high=1_000_000, live=True
    )


def min_new_fraction() -> Any:
    return param(
        0.5,
        "an instance is kept if more than this share of it is not taken by earlier ones",
        low=0.0,
        high=1.0,
        live=True,
    )


def first_come() -> Any:
    return param(
        True,
        "pixels claimed by two instances of a class go to the more certain one; false: to the "
        "other",
        live=True,
    )


def min_score() -> Any:
    return param(
        0.0,
        "an instance has at least this score; `instaseg tune` finds it for weights",
        low=0.0,
        high=1.0,
        live=True,
    )


def class_values(texts: Sequence[str]) -> dict[str, float]:
    """`("car=0.6",)` as `{"car": 0.6}`; `("",)`: no class has a value of its own. Raises
    ConfigError for another form, or if a class has two."""
    values: dict[str, float] = {}
    for text in texts:
        name, equals, number = text.rpartition("=")
        name = name.strip()
        if not text and len(texts) == 1:
            break
        try:
            value = float(number)
        except ValueError:
            value = float("nan")
        if not name or not equals or value != value or name in values:
            raise ConfigError(
                "expected CLASS=NUMBER, once for a class, as in [car=0.6, person=0.5], or [''] for "
                f"none, got {shown(text)}"
            )
        values[name] = value
    return values


def class_min_scores() -> Any:
    return _of_classes("min_score", "car=0.6", 1.0)


def class_seed_thresholds() -> Any:
    return _of_classes("seed_threshold", "car=0.9", 1.0)


def class_min_pixels() -> Any:
    return _of_classes("min_pixels", "car=100", 1_000_000)


def _of_classes(option: str, example: str, high: float) -> Any:
    """Values of single classes, which can be stricter than the `option` of all."""

    def check(texts: tuple[str, ...]) -> None:
        for name, value in class_values(texts).items():
            if not 0 <= value <= high:
                raise ConfigError(f"{shown(name)}: expected a value from 0 to {high}, got {value}")

    return param(
        ("",),
        f"stricter {option} of classes, such as [{example}]; ['']: none",
        live=True,
        check=check,
    )


# The loss.


def weight_instance() -> Any:
    return param(1.0, "weight of the instance term", low=0.0)


def weight_seed() -> Any:
    return param(1.0, "weight of the seed term", low=0.0)


def weight_semantic() -> Any:
    return param(1.0, "weight of the pixels' classes in a semantic head", low=0.0)


def bootstrap_px() -> Any:
    return param(
        0,
        "pixel losses leave out pixels that are already right, but keep at least this many per "
        "image, the hardest; 0: keep all; Wu et al. 2016: 512",
        low=0,
    )
