"""What a method must offer, and the truth that it learns from."""

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
    """Truth of a training batch: B images, or N clips of `frames` images each, B = N * frames, clip
    after clip, the frames of each in order of time.

    labels: (B, H, W) int64, 0 = background, 1..K = instances, numbered per image; those
        of a clip together, so that an object has one number in all of its frames.
    class_ids: per image (K,) int64, the class of instance k + 1; the same for all of a clip.
    ignore: (B, H, W) bool, pixels that count neither as background nor as an object.
    images: (B, 3, H, W) float32 in [0, 1], what the network saw.
    poses: (B, 4, 4) float32, camera to the clip's first camera, metres; None when unknown.
    intrinsics: (B, 3, 3) float32, pixels; None when unknown.
    semantic: (B, H, W) int64, dense class of every pixel + 1, 0 unknown; None: all unknown.
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
        """The same on another device, which from pinned memory is not waited for."""

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
    """What the pipeline, the trainer and the exporter ask of a method."""

    name: str
    heads: tuple[Head, ...]
    temporal: bool  # its network has a memory of earlier frames (see `temporal`)
    # Heads whose channels speak of classes: of each channel its class, BACKGROUND for that of none.
    class_channels: Mapping[str, Sequence[int]]
    # By head, the channels that point along x: in a mirror image their sign turns.
    mirror_turns: Mapping[str, Sequence[int]]

    def initialise(self, network: ERFNet) -> None:
        """Set a fresh network's heads to where training starts well."""

    def decode(self, outputs: dict[str, torch.Tensor], config: Any) -> list[Instances]:
        """Raw head outputs {name: (B, C, H, W)} to the instances of each image, at (H, W).

        config: of the method's `DecodeConfig`.
        """

    def loss(
        self,
        outputs: dict[str, torch.Tensor],
        targets: Targets,
        config: Any,
        class_weights: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Named scalar terms; `total` is what the optimiser minimises.

        config: of the method's `LossConfig`.
        class_weights: (n_classes,) float32, what the objects of each class weigh beside those of
        the others in the term that tells classes; None: all 1.
        """
