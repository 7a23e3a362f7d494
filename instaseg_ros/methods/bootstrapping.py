"""Selects hard pixels by online bootstrapping (Wu, Shen, van den Hengel 2016, arXiv 1605.06885):
losses count the pixels that are still hard, at least `bootstrap_px` per image."""

from __future__ import annotations

import torch
from torch import Tensor

EASY = 0.7  # pixels at least this correct are left out; the value is ours


@torch.no_grad()
def hard_pixels(correct: Tensor, counted: Tensor, at_least: int) -> Tensor:
    """Select the counted pixels less correct than EASY, but at least the `at_least` hardest of each
    image (all if it has fewer; more if the last ones tie).

    correct: (..., N) float in [0, 1], how correct each pixel is, such as the probability of its
    true class; counted: (..., N) bool. Returns (..., N) bool. at_least 0: all counted pixels.
    """
    if not at_least:
        return counted
    correct = correct.masked_fill(~counted, torch.inf)
    hardest = correct.topk(min(at_least, correct.shape[-1]), largest=False, sorted=False).values
    return counted & ((correct < EASY) | (correct <= hardest.amax(-1, keepdim=True)))
