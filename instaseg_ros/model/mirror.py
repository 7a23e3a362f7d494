"""An image and its mirror image through the network, and the mean of what both say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def with_mirror_images(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(B, H, W, 3) images, then the same ones mirrored left to right: (2 B, H, W, 3)."""
    return np.concatenate([pixels, pixels[:, :, ::-1]])


def mean_of_both(
    outputs: Mapping[str, Tensor], turning: Mapping[str, Sequence[int]]
) -> dict[str, Tensor]:
    """Raw outputs (2 B, C, H, W) of such a batch, by head, as (B, C, H, W) of its first half.

    turning: by head, the channels that point along x, whose sign the mirror turns.
    """
    means = {}
    for name, output in outputs.items():
        straight, mirrored = output.float().chunk(2)
        mirrored = mirrored.flip(3)
        for channel in turning.get(name, ()):
            mirrored[:, channel].neg_()
        means[name] = mirrored.add_(straight).div_(2)
    return means
