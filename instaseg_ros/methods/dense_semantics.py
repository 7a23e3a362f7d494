"""Dense classes of pixels, road and sky too, learned along with any method.

ERFNet (Romera et al. 2018) trains its encoder on them before anything else, at an eighth of the
resolution. Here they are one more term of the loss beside the method's: what tells a lorry from a
house tells it from a car too. Only training needs the layer; weights do not carry it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from instaseg_ros.model.heads import STRIDE

FEATURES = 128  # channels of the encoder
UNKNOWN = -1


class DenseSemantics(nn.Module):
    """Raw class scores (B, n_classes, H/8, W/8) of the encoder's features (B, 128, H/8, W/8)."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.classify = nn.Conv2d(FEATURES, n_classes, 1)

    def forward(self, features: Tensor) -> Tensor:
        scores: Tensor = self.classify(features)
        return scores


def dense_loss(scores: Tensor, semantic: Tensor) -> Tensor:
    """Cross-entropy, each class weighted by ERFNet's rule 1 / ln(1.1 + p) with its share p of the
    batch (there: of all images); 0 where no class is known.

    scores: of `DenseSemantics`. semantic: (B, H, W) int64, class + 1, 0 unknown. A cell of the
    features has the class of the pixel in its middle.
    """
    truth = semantic[:, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE] - 1
    known = (truth != UNKNOWN).flatten()
    count = scores.new_zeros(scores.shape[1], dtype=torch.float32)
    count.index_add_(0, truth.flatten().clamp(min=0), known.float())
    weight = 1 / torch.log(1.1 + count / count.sum().clamp(min=1))
    total = cross_entropy(scores.float(), truth, weight, ignore_index=UNKNOWN, reduction="sum")
    return total / (weight @ count).clamp(min=1e-6)
