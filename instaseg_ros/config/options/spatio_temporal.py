"""Options of spatio-temporal embedding (Hu et al. 2019): those of `discriminative`, and depth's."""

from __future__ import annotations

from dataclasses import dataclass

from instaseg_ros.config.options import discriminative
from instaseg_ros.config.options.schema import param

METHOD = "instaseg_ros.methods.spatio_temporal:SpatioTemporal"
ShapeConfig = discriminative.ShapeConfig
DecodeConfig = discriminative.DecodeConfig


@dataclass(frozen=True, slots=True)
class LossConfig(discriminative.LossConfig):
    weight_depth: float = param(1.0, "weight of the depth task; 0: none", low=0.0)
    ego_motion: str = param(
        "learned",
        "camera motion for depth; known: by the dataset's poses",
        choices=("learned", "known"),
    )
