"""Online bootstrapping (Wu, Shen, van den Hengel 2016, arXiv 1605.06885): losses over the pixels
that are still hard, `bootstrap_px` of an image at least."""

from __future__ import annotations

import torch
from torch import Tensor

EASY = 0.7  # a pixel that is right to this degree is left out; the value is ours


@torch.no_grad()
def hard_pixels(correct: Tensor, counted: Tensor, at_least: int) -> Tensor:
    """Of the pixels that count, those less than EASY right, and `at_least` of each image in any
    case, the hardest ones (all if it has fewer; more where the last ones tie).

    correct: (..., N) float in [0, 1], how right each pixel is, such as the probability of its true
    class; counted: (..., N) bool; the result (..., N) bool. at_least 0: all that count.
    """
    if not at_least:
        return counted
    correct = correct.masked_fill(~counted, torch.inf)
    hardest = correct.topk(min(at_least, correct.shape[-1]), largest=False, sorted=False).values
    return counted & ((correct < EASY) | (correct <= hardest.amax(-1, keepdim=True)))
