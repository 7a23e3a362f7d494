"""Learns from the outputs of another network, beside the truth (Hinton et al. 2015)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss

from instaseg_ros.checkpoint import load_checkpoint
from instaseg_ros.config import TrainConfig
from instaseg_ros.errors import ConfigError
from instaseg_ros.methods import BACKGROUND, Method, Targets
from instaseg_ros.model.batchnorm import fold

SHARP = 0.1  # differences above this share of a channel's spread count linearly


class Teacher(nn.Module):
    """The network to learn from.

    weights: a shipped name or a file. Raises ConfigError unless they are of this method, with the
    same heads and classes; the profile may differ.
    """

    def __init__(self, weights: str, method: Method, class_names: tuple[str, ...]) -> None:
        super().__init__()
        checkpoint = load_checkpoint(weights)
        theirs = checkpoint.method()
        for what, expected, found in (
            ("method", method.name, theirs.name),
            ("classes", class_names, checkpoint.class_names),
            ("heads", method.heads, theirs.heads),
        ):
            if expected != found:
                raise ConfigError(
                    f"train.teacher: {weights}: expected {what} {expected}, got {found}; give "
                    "weights with the same outputs, or none"
                )
        self.network = fold(checkpoint.network())

    @torch.no_grad()
    def forward(self, images: Tensor, frames: int) -> dict[str, Tensor]:
        """Raw head outputs for (B, 3, H, W) images in [0, 1], clips of `frames` each."""
        outputs: dict[str, Tensor] = self.network(images, frames=frames)
        return {head.name: outputs[head.name].float() for head in self.network.heads}


def imitation_loss(
    outputs: Mapping[str, Tensor],
    taught: Mapping[str, Tensor],
    method: Method,
    targets: Targets,
    config: TrainConfig,
) -> Tensor:
    """How far `outputs` are from the teacher's, both raw, (B, C, H, W) by head (ours).

    Class scores are compared at every pixel, by their Kullback-Leibler divergence from the
    teacher's, with the seed term's pixel weights; everything else at object pixels, relative to the
    spread of the teacher's values there, averaged first over the pixels of an instance.
    """
    area = _own_area(targets)
    objects = area > 0
    boost = (config.small_object_px / area.clamp(min=1)).clamp(min=1)
    weight = torch.where(objects, config.foreground_weight * boost, 1.0)
    share = 1 / area[objects]
    total = area.new_zeros(())
    for name, theirs in taught.items():
        own = outputs[name].float()
        if channels := method.class_channels.get(name):
            total = total + (_divergence(own, theirs, list(channels)) * weight).mean()
        elif len(share) > 1:
            given, wanted = (x.movedim(1, 0)[:, objects] for x in (own, theirs))  # (C, N)
            spread = wanted.std(1, keepdim=True).clamp(min=1e-6)
            off = smooth_l1_loss(given / spread, wanted / spread, reduction="none", beta=SHARP)
            total = total + (off.mean(0) * share).sum() / share.sum()
    return total


def _own_area(targets: Targets) -> Tensor:
    """(B, H, W) float32: the pixel count of each pixel's instance; 0: no instance."""
    labels = targets.labels.masked_fill(targets.ignore, 0).flatten(1)
    n = 1 + max(map(len, targets.class_ids), default=0)
    area = torch.zeros(len(labels), n, device=labels.device)
    area.scatter_add_(1, labels, torch.ones_like(labels, dtype=torch.float32))
    area[:, 0] = 0
    return area.gather(1, labels).view(targets.labels.shape)


def _divergence(own: Tensor, theirs: Tensor, channels: list[int]) -> Tensor:
    """(B, H, W) divergence of raw scores (B, C, H, W). If background is among the channels, classes
    exclude each other, once for each background; otherwise every channel is a yes or no."""
    if groups := channels.count(BACKGROUND):
        logs = [x.unflatten(1, (groups, -1)).log_softmax(2) for x in (theirs, own)]
    else:
        logs = [nn.functional.logsigmoid(torch.stack([x, -x], 2)) for x in (theirs, own)]
    return (logs[0].exp() * (logs[0] - logs[1])).sum((1, 2))
