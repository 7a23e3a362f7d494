"""Spatio-temporal embedding (Hu, Kendall and Cipolla 2019, arXiv 1912.08969).

A causal network embeds the pixels of a video so that an object keeps its place in the embedding
from frame to frame: instances are clusters in a frame, tracks are clusters over time. The loss is
`discriminative`'s over clips: an instance is all its pixels in the clip. Self-supervised depth,
learned beside it, makes the embedding aware of geometry.

Ours, as the paper leaves it open or we could not confirm it: the `TemporalModule` and how far it
looks back (two frames); margins, weights and clustering, taken from `discriminative`; a semantic
head for classes and background; and the range of depths.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from instaseg_ros.errors import ConfigError
from instaseg_ros.frames import Instances
from instaseg_ros.methods.base import Targets
from instaseg_ros.methods.depth import SMOOTHNESS, Clips, depth_loss
from instaseg_ros.methods.discriminative import Discriminative, embed
from instaseg_ros.model.heads import Head

if TYPE_CHECKING:
    from instaseg_ros.config.options.spatio_temporal import DecodeConfig, LossConfig
    from instaseg_ros.model.erfnet import ERFNet

NEAREST_M, FARTHEST_M = 1.0, 200.0  # range of depths that the network can express
INITIAL_M = 20.0


def inverse_depth(raw: Tensor) -> Tensor:
    """1 / depth in 1/m, between 1 / FARTHEST_M and 1 / NEAREST_M, from the raw output `depth`."""
    low, high = 1 / FARTHEST_M, 1 / NEAREST_M
    return low + (high - low) * torch.sigmoid(raw)


class SpatioTemporal:
    """Heads, loss and decoding of the method for `n_classes` classes.

    dimensions: dimensions of the embedding; 0: 8, as in `discriminative`.
    """

    name = "spatio_temporal"
    temporal = True

    def __init__(self, n_classes: int, dimensions: int = 0) -> None:
        self._of_frames = Discriminative(n_classes, dimensions)
        embedding, semantic = self._of_frames.heads
        # Depth shares the embedding's decoder, so that the embedding learns from it.
        self.heads: tuple[Head, ...] = embedding, Head("depth", 1, embedding.decoder), semantic
        self.class_channels: Mapping[str, Sequence[int]] = self._of_frames.class_channels
        self.mirror_turns: Mapping[str, Sequence[int]] = {}
        self.through_tanh: Sequence[str] = ()

    def initialise(self, network: ERFNet) -> None:
        """Start as `discriminative` does, with everything INITIAL_M away."""
        self._of_frames.initialise(network)
        low, high = 1 / FARTHEST_M, 1 / NEAREST_M
        share = (1 / INITIAL_M - low) / (high - low)
        with torch.no_grad():
            weight, bias = network.head_parameters("depth")
            weight.zero_()
            bias.fill_(math.log(share / (1 - share)))

    def decode(self, outputs: dict[str, Tensor], config: DecodeConfig) -> list[Instances]:
        """Instances of each frame as `discriminative` finds them, with their mean embeddings, by
        which a tracker recognises them.

        outputs: raw `embedding` (B, D, H, W), `semantic` (B, C + 1, H, W).
        """
        found = self._of_frames.decode(outputs, config)
        maps = embed(outputs["embedding"].detach()).cpu().numpy()
        return [
            dataclasses.replace(one, embeddings=mean_embeddings(one.labels, len(one), map_))
            for one, map_ in zip(found, maps, strict=True)
        ]

    def loss(
        self,
        outputs: dict[str, Tensor],
        targets: Targets,
        config: LossConfig,
        class_weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """`discriminative`'s terms over clips, and those of depth (see `depth`) if a clip has more
        than one frame and `weight_depth` is not 0."""
        frames = targets.frames
        # A clip becomes one image, its frames below each other: no term depends on pixel positions.
        terms = self._of_frames.loss(
            {name: _joined(outputs[name], frames) for name in ("embedding", "semantic")},
            Targets(
                _joined(targets.labels, frames),
                targets.class_ids[::frames],
                _joined(targets.ignore, frames),
            ),
            config,
            class_weights,
        )
        if frames > 1 and config.weight_depth:
            photometric, smooth = self._depth_loss(outputs, targets)
            terms["total"] = terms["total"] + config.weight_depth * (
                photometric + SMOOTHNESS * smooth
            )
            terms |= {"photometric": photometric, "depth_smooth": smooth}
        return terms

    def _depth_loss(self, outputs: dict[str, Tensor], targets: Targets) -> tuple[Tensor, Tensor]:
        """`depth_loss` with the learned `motion` if among the outputs, else with the known one."""
        images, intrinsics, poses = targets.images, targets.intrinsics, targets.poses
        if images is None or intrinsics is None or ("motion" not in outputs and poses is None):
            raise ConfigError(
                "train.weight_depth: expected frames with camera intrinsics, and poses for "
                "train.ego_motion: known; the dataset has none; set weight_depth to 0"
            )
        clips = (-1, targets.frames)
        if poses is not None and "motion" not in outputs:
            known = poses.unflatten(0, clips)
            motion = torch.linalg.inv(known[:, 1:]) @ known[:, :-1]
        else:
            motion = outputs["motion"]
        seen = Clips(images.unflatten(0, clips), motion, intrinsics.unflatten(0, clips))
        return depth_loss(inverse_depth(outputs["depth"].float()).unflatten(0, clips), seen)


def mean_embeddings(
    labels: NDArray[np.uint16], count: int, embedding: NDArray[np.float32]
) -> NDArray[np.float32]:
    """(count, D): mean embedding (from (D, H, W)) of the pixels labelled 1, ..., count."""
    pixels = np.flatnonzero(labels)
    owner = labels.ravel()[pixels]
    sizes = np.bincount(owner, minlength=count + 1)[1:]
    flat = embedding.reshape(len(embedding), -1)
    sums = [np.bincount(owner, channel[pixels], count + 1)[1:] for channel in flat]
    return (np.stack(sums, 1) / np.maximum(sizes, 1)[:, None]).astype(np.float32)


def _joined(x: Tensor, frames: int) -> Tensor:
    """Reshape (N * frames, ..., H, W), clip after clip, to (N, ..., frames * H, W)."""
    return x.unflatten(0, (-1, frames)).movedim(1, -3).flatten(-3, -2)
