"""Classes of pixels, for the methods that have a semantic head beside their embedding.

Such a head has a channel for the background, then one per class.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from instaseg_ros.methods import BACKGROUND, Targets

IGNORED = -100  # what cross_entropy leaves out


def channel_classes(n_classes: int) -> tuple[int, ...]:
    """`Method.class_channels` of a semantic head."""
    return BACKGROUND, *range(n_classes)


def semantic_truth(targets: Targets) -> Tensor:
    """(B, H, W) int64: 0 background, 1 + class on objects, IGNORED where nothing counts."""
    truth = [
        torch.cat([classes.new_zeros(1), classes + 1])[labels]
        for labels, classes in zip(targets.labels, targets.class_ids, strict=True)
    ]
    return torch.stack(truth).masked_fill(targets.ignore, IGNORED)


def semantic_loss(logits: Tensor, truth: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of (B, C + 1, H, W) raw outputs over the pixels that count; 0 if none do.

    class_weights: (C,) float32 of the classes, beside a background of 1.
    """
    if class_weights is not None:
        class_weights = torch.cat([class_weights.new_ones(1), class_weights])
    losses = cross_entropy(
        logits.float(), truth, class_weights, ignore_index=IGNORED, reduction="none"
    )
    return losses.sum() / (truth != IGNORED).sum().clamp(min=1)
