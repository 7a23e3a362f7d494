"""Mirrors images for the network, and averages the outputs of image and mirror image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def with_mirror_images(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Append to the images (B, H, W, 3) their left-right mirror images: (2 B, H, W, 3)."""
    return np.concatenate([pixels, pixels[:, :, ::-1]])


def mean_of_both(
    outputs: Mapping[str, Tensor], turning: Mapping[str, Sequence[int]]
) -> dict[str, Tensor]:
    """Average the raw outputs (2 B, C, H, W) of such a batch, by head, to (B, C, H, W).

    turning: by head, the channels that point along x, whose sign the mirror flips.
    """
    means = {}
    for name, output in outputs.items():
        straight, mirrored = output.float().chunk(2)
        mirrored = mirrored.flip(3)
        for channel in turning.get(name, ()):
            mirrored[:, channel].neg_()
        means[name] = mirrored.add_(straight).div_(2)
    return means
