"""Defines the interface of a method and the ground truth that it learns from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from instaseg_ros.frames import Instances
from instaseg_ros.model.heads import Head

if TYPE_CHECKING:
    import torch

    from instaseg_ros.model.erfnet import ERFNet


BACKGROUND = -1  # in `Method.class_channels`


class Targets(NamedTuple):
    """Ground truth of a training batch: B images, or N clips of `frames` images each,
    B = N * frames, clip after clip, the frames of each in order of time.

    labels: (B, H, W) int64, 0 = background, 1..K = instances, numbered per image, or per clip, so
        that an object has one number in all frames of a clip.
    class_ids: per image (K,) int64, the class of instance k + 1; the same for all images of a clip.
    ignore: (B, H, W) bool, pixels that count neither as background nor as an object.
    images: (B, 3, H, W) float32 in [0, 1], what the network saw.
    poses: (B, 4, 4) float32, camera to the clip's first camera, metres; None when unknown.
    intrinsics: (B, 3, 3) float32, pixels; None when unknown.
    semantic: (B, H, W) int64, dense class of every pixel + 1; 0: unknown; None: all unknown.
    """

    labels: torch.Tensor
    class_ids: Sequence[torch.Tensor]
    ignore: torch.Tensor
    frames: int = 1
    images: torch.Tensor | None = None
    poses: torch.Tensor | None = None
    intrinsics: torch.Tensor | None = None
    semantic: torch.Tensor | None = None

    def to(self, device: torch.device) -> Targets:
        """Copy to another device, without waiting if the memory is pinned."""

        def moved(x: torch.Tensor) -> torch.Tensor:
            return x.to(device, non_blocking=True)

        return Targets(
            moved(self.labels),
            [moved(c) for c in self.class_ids],
            moved(self.ignore),
            self.frames,
            *(x if x is None else moved(x) for x in self[4:]),
        )


class Method(Protocol):
    """What the pipeline, the trainer and the exporter need from a method."""

    name: str
    heads: tuple[Head, ...]
    temporal: bool  # whether its network has a memory of earlier frames (see `model.temporal`)
    # For heads with a channel per class: the class of each channel, BACKGROUND for no class.
    class_channels: Mapping[str, Sequence[int]]
    # By head, the channels that point along x, whose sign flips in a mirror image.
    mirror_turns: Mapping[str, Sequence[int]]
    # The heads whose outputs are used through tanh, and so are averaged there.
    through_tanh: Sequence[str]

    def initialise(self, network: ERFNet) -> None:
        """Set a new network's heads to good starting values for training."""

    def decode(self, outputs: dict[str, torch.Tensor], config: Any) -> list[Instances]:
        """Turn raw head outputs {name: (B, C, H, W)} into the instances of each image, at (H, W).

        config: the method's `DecodeConfig`.
        """

    def loss(
        self,
        outputs: dict[str, torch.Tensor],
        targets: Targets,
        config: Any,
        class_weights: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Named scalar terms; the optimiser minimises `total`.

        config: the method's `LossConfig`.
        class_weights: (n_classes,) float32, relative weight of each class's objects in the term
        that distinguishes classes; None: all 1.
        """
