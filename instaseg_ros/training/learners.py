"""What a training teaches: the network, and what learns along with it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from instaseg_ros.evaluation.pixel_classes import DENSE
from instaseg_ros.methods.dense_semantics import DenseSemantics
from instaseg_ros.methods.depth import EgoMotion
from instaseg_ros.model.erfnet import ERFNet


class Learners(nn.Module):
    """The network and what learns along with it, whose outputs are `motion`, the camera's, and
    `dense`, scores of dense classes."""

    def __init__(
        self,
        network: ERFNet,
        dense: DenseSemantics | None = None,
        ego_motion: EgoMotion | None = None,
    ) -> None:
        super().__init__()
        self.network, self.ego_motion, self.dense = network, ego_motion, dense

    def forward(
        self,
        images: Tensor,
        state: Tensor | None = None,
        frames: int = 1,
        intrinsics: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """images, state, frames: see `ERFNet.forward`. intrinsics: (B, 3, 3) of the images; None:
        motion is not asked for."""
        features = self.network.encoder(images)
        decoded = self.network.decode_features(features, state, frames)
        outputs = self.network.split_heads(decoded)
        if self.dense is not None:
            outputs[DENSE] = self.dense(features.deep)
        if self.ego_motion is not None and intrinsics is not None:
            with torch.autocast(images.device.type, enabled=False):
                clips = (x.unflatten(0, (-1, frames)) for x in (images, intrinsics))
                outputs["motion"] = self.ego_motion(*clips)
        return outputs
