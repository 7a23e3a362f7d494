"""Learns dense pixel classes, including road and sky, along with any method.

ERFNet (Romera et al. 2018) first trains its encoder on them, at an eighth of the resolution. Here
they add a term to the method's loss: what distinguishes a lorry from a house helps to distinguish
it from a car. Decoding may let them vote on the class of an object (see `class_vote`).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from instaseg_ros.model.heads import STRIDE

UNKNOWN = -1


def dense_loss(scores: Tensor, semantic: Tensor) -> Tensor:
    """Cross-entropy with each class weighted by ERFNet's rule 1 / ln(1.1 + p), p being its share of
    the batch (there: of all images); 0 if no class is known.

    scores: the network's `dense`. semantic: (B, H, W) int64, class + 1, 0 unknown. A feature cell
    has the class of its middle pixel.
    """
    truth = semantic[:, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE] - 1
    known = (truth != UNKNOWN).flatten()
    count = scores.new_zeros(scores.shape[1], dtype=torch.float32)
    count.index_add_(0, truth.flatten().clamp(min=0), known.float())
    weight = 1 / torch.log(1.1 + count / count.sum().clamp(min=1))
    total = cross_entropy(scores.float(), truth, weight, ignore_index=UNKNOWN, reduction="sum")
    return total / (weight @ count).clamp(min=1e-6)
