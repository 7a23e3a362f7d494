"""Options of spatial embedding (Neven et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass

from instaseg_ros.config.options import shared
from instaseg_ros.config.options.schema import param
from instaseg_ros.config.options.training import TrainConfig

METHOD = "instaseg_ros.methods.spatial_embedding:SpatialEmbedding"


@dataclass(frozen=True, slots=True)
class ShapeConfig(shared.MethodConfig):
    n_sigma: int = param(2, "1: circular, 2: elliptical bandwidth", low=1, high=2)


@dataclass(frozen=True, slots=True)
class DecodeConfig:
    """How pixels become instances (published: 0.9, 0.5, 128, 0.5, false, false)."""

    seed_threshold: float = shared.seed_threshold()
    foreground_threshold: float = shared.foreground_threshold()
    min_pixels: int = shared.min_pixels()
    min_new_fraction: float = shared.min_new_fraction()
    first_come: bool = shared.first_come()
    agreement: bool = param(
        True,
        "multiply an instance's score by how well its pixels agree with its seed; false: the "
        "seed's score alone",
        live=True,
    )
    class_vote: bool = param(
        False,
        "an instance has the class that more than half of its pixels have in the dense head, else "
        "its seed's, and is the surer, the more agree; for weights trained with train.weight_dense",
        live=True,
    )
    min_score: float = shared.min_score()
    class_min_scores: tuple[str, ...] = shared.class_min_scores()
    class_min_pixels: tuple[str, ...] = shared.class_min_pixels()
    class_seed_thresholds: tuple[str, ...] = shared.class_seed_thresholds()


@dataclass(frozen=True, slots=True)
class LossConfig(TrainConfig):
    weight_instance: float = shared.weight_instance()
    lovasz: str = param(
        "auto",
        "how the instance term sorts the pixels' errors; exact: one by one; binned: into 1024 "
        "bins, all images at once, accurate to 1e-3; auto: binned on a GPU",
        choices=("auto", "exact", "binned"),
    )
    weight_smooth: float = param(10.0, "weight of the bandwidth smoothness term", low=0.0)
    weight_seed: float = shared.weight_seed()
    other_class_weight: float = param(
        1.0, "weight of object pixels in the seed maps of the other classes", low=0.0
    )
    bootstrap_px: int = shared.bootstrap_px()
    learned_center: bool = param(
        False, "true: an instance's centre is its mean embedding, not its centroid"
    )
