"""A sixth method, whole in one file as a user's would be: the connected pixels of a class are an
object. No paper: what touches is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from instaseg_ros.clustering.label_image import labelled_instances
from instaseg_ros.config.options import shared
from instaseg_ros.config.options.schema import param
from instaseg_ros.config.options.training import TrainConfig
from instaseg_ros.frames import Instances
from instaseg_ros.methods import Targets
from instaseg_ros.model.erfnet import ERFNet
from instaseg_ros.model.heads import Head

METHOD = "connected_components:ConnectedComponents"


@dataclass(frozen=True, slots=True)
class ShapeConfig(shared.MethodConfig):
    unsure: bool = param(False, "a head more, that is not used")


@dataclass(frozen=True, slots=True)
class DecodeConfig:
    seed_threshold: float = param(0.5, "an object's pixels have a score above this", low=0, high=1)
    min_pixels: int = shared.min_pixels()
    corners: bool = param(True, "pixels that touch at a corner are of one object", live=True)


@dataclass(frozen=True, slots=True)
class LossConfig(TrainConfig):
    weight_background: float = param(1.0, "weight of pixels of no object", low=0.0)


class ConnectedComponents:
    name = "connected_components"
    temporal = False

    def __init__(self, n_classes: int, unsure: bool = False) -> None:
        self.n_classes = n_classes
        self.heads: tuple[Head, ...] = (
            *[Head("unsure", 1, decoder=0)] * unsure,
            Head("score", n_classes, decoder=0),
        )
        self.class_channels: Mapping[str, Sequence[int]] = {"score": range(n_classes)}
        self.mirror_turns: Mapping[str, Sequence[int]] = {}
        self.through_tanh: Sequence[str] = ()

    def initialise(self, network: ERFNet) -> None:
        """Leave the network unchanged."""

    def decode(self, outputs: dict[str, torch.Tensor], config: DecodeConfig) -> list[Instances]:
        scores = torch.sigmoid(outputs["score"].float()).cpu().numpy()
        return [self._found(image, config) for image in scores]

    def _found(self, scores: np.ndarray, config: DecodeConfig) -> Instances:
        """scores: (C, H, W). Of pixels that two classes claim the second has it."""
        labels = np.zeros(scores.shape[1:], np.uint16)
        classes: list[int] = []
        for c, score in enumerate(scores):
            mask = (score > config.seed_threshold).astype(np.uint8)
            count, found = cv2.connectedComponents(mask, connectivity=8 if config.corners else 4)
            labels[found > 0] = (found[found > 0] + len(classes)).astype(np.uint16)
            classes += [c] * (count - 1)
        best = scores.max(0)
        sums = np.bincount(labels.ravel(), best.ravel(), len(classes) + 1)[1:]
        sizes = np.maximum(np.bincount(labels.ravel(), minlength=len(classes) + 1)[1:], 1)
        mean = (sums / sizes).astype(np.float32)
        return labelled_instances(labels, np.array(classes, np.int64), mean, config.min_pixels)

    def loss(
        self,
        outputs: dict[str, torch.Tensor],
        targets: Targets,
        config: LossConfig,
        class_weights: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        score = outputs["score"].float()
        truth = torch.zeros_like(score)
        for one, labels, classes in zip(truth, targets.labels, targets.class_ids, strict=True):
            for k, c in enumerate(classes):
                one[c][labels == k + 1] = 1
        losses = binary_cross_entropy_with_logits(score, truth, reduction="none")
        weight = torch.where(truth > 0, 1.0, config.weight_background) * ~targets.ignore[:, None]
        total = (losses * weight).mean()
        return {"total": total, "score": total.detach()}
