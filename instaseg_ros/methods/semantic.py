"""Pixel classes, for methods with a semantic head beside their embedding.

Such a head has a channel for the background, then one for each class.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from instaseg_ros.methods.base import BACKGROUND, Targets
from instaseg_ros.methods.bootstrapping import hard_pixels

IGNORED = -100  # left out by cross_entropy


def channel_classes(n_classes: int) -> tuple[int, ...]:
    """The classes of a semantic head's channels, for `Method.class_channels`."""
    return BACKGROUND, *range(n_classes)


def semantic_truth(targets: Targets) -> Tensor:
    """(B, H, W) int64: 0 background, 1 + class on objects, IGNORED on ignored pixels."""
    truth = [
        torch.cat([classes.new_zeros(1), classes + 1])[labels]
        for labels, classes in zip(targets.labels, targets.class_ids, strict=True)
    ]
    return torch.stack(truth).masked_fill(targets.ignore, IGNORED)


def semantic_loss(
    logits: Tensor, truth: Tensor, class_weights: Tensor | None = None, bootstrap_px: int = 0
) -> Tensor:
    """Mean cross-entropy of (B, C + 1, H, W) raw outputs over the pixels that count; 0 if none do.

    class_weights: (C,) float32, relative to the background's weight of 1.
    bootstrap_px: see `options`; a pixel is as correct as its true class is probable.
    """
    if class_weights is not None:
        class_weights = torch.cat([class_weights.new_ones(1), class_weights])
    logits = logits.float()
    losses = cross_entropy(logits, truth, class_weights, ignore_index=IGNORED, reduction="none")
    counted = truth != IGNORED
    if bootstrap_px:
        with torch.no_grad():
            probable = torch.exp(-cross_entropy(logits, truth.clamp(min=0), reduction="none"))
        hard = hard_pixels(probable.flatten(1), counted.flatten(1), bootstrap_px)
        counted = hard.view_as(counted)
        losses = losses * counted
    return losses.sum() / counted.sum().clamp(min=1)
