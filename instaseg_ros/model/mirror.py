"""Mirrors images for the network, and averages the outputs of image and mirror image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

BOUND = 1 - 1e-6  # of tanh, so that it can be turned back


def with_mirror_images(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Append to the images (B, H, W, 3) their left-right mirror images: (2 B, H, W, 3)."""
    return np.concatenate([pixels, pixels[:, :, ::-1]])


def mean_of_both(
    outputs: Mapping[str, Tensor],
    turning: Mapping[str, Sequence[int]],
    through_tanh: Sequence[str] = (),
) -> dict[str, Tensor]:
    """Average the raw outputs (2 B, C, H, W) of such a batch, by head, to (B, C, H, W).

    turning: by head, the channels that point along x, whose sign the mirror flips.
    through_tanh: heads of which tanh is averaged, and the result turned back. Offsets learned with
    `train.learned_center` have a constant that means nothing, as it moves an instance's pixels and
    centre alike; it cancels there, and only there.
    """
    means = {}
    for name, output in outputs.items():
        values = output.float().tanh() if name in through_tanh else output.float()
        straight, mirrored = values.chunk(2)
        mirrored = mirrored.flip(3)
        for channel in turning.get(name, ()):
            mirrored[:, channel].neg_()
        mean = mirrored.add_(straight).div_(2)
        means[name] = mean.clamp_(-BOUND, BOUND).atanh_() if name in through_tanh else mean
    return means
