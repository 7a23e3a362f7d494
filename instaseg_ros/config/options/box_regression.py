"""Options of box regression (Wu et al. 2016)."""

from __future__ import annotations

from dataclasses import dataclass

from instaseg_ros.config.options import shared
from instaseg_ros.config.options.training import TrainConfig

METHOD = "instaseg_ros.methods.box_regression:BoxRegression"
ShapeConfig = shared.MethodConfig


@dataclass(frozen=True, slots=True)
class DecodeConfig:
    seed_threshold: float = shared.seed_threshold()
    foreground_threshold: float = shared.foreground_threshold()
    min_pixels: int = shared.min_pixels()
    min_new_fraction: float = shared.min_new_fraction()
    min_score: float = shared.min_score()
    class_min_scores: tuple[str, ...] = shared.class_min_scores()
    class_min_pixels: tuple[str, ...] = shared.class_min_pixels()


@dataclass(frozen=True, slots=True)
class LossConfig(TrainConfig):
    weight_instance: float = shared.weight_instance()
    weight_semantic: float = shared.weight_semantic()
    bootstrap_px: int = shared.bootstrap_px()
