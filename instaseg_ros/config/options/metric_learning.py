"""Options of metric learning with seediness (Fathi et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass

from instaseg_ros.config.options import shared
from instaseg_ros.config.options.training import TrainConfig

METHOD = "instaseg_ros.methods.metric_learning:MetricLearning"


@dataclass(frozen=True, slots=True)
class ShapeConfig(shared.MethodConfig):
    dimensions: int = shared.dimensions()


@dataclass(frozen=True, slots=True)
class DecodeConfig:
    seed_threshold: float = shared.seed_threshold()
    min_pixels: int = shared.min_pixels()
    min_new_fraction: float = shared.min_new_fraction()
    first_come: bool = shared.first_come()
    min_score: float = shared.min_score()
    class_min_scores: tuple[str, ...] = shared.class_min_scores()
    class_min_pixels: tuple[str, ...] = shared.class_min_pixels()


@dataclass(frozen=True, slots=True)
class LossConfig(TrainConfig):
    weight_instance: float = shared.weight_instance()
    weight_seed: float = shared.weight_seed()
