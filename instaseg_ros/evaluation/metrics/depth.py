"""Computes the absolute relative error of depth, which images alone determine only up to scale."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FARTHEST_M = 80.0  # as is usual on roads (Eigen et al. 2014); what is farther does not count


class DepthCounts(NamedTuple):
    """The sum of |predicted - true| / true over so many pixels, of one frame or several."""

    relative_error: float
    pixels: int


def depth_counts(
    predicted: NDArray[np.floating], true: NDArray[np.floating], scaled: bool = True
) -> DepthCounts:
    """The error of one frame; depths are (H, W), metres.

    Pixels whose true depth is 0 (unknown) or above FARTHEST_M do not count.
    scaled: scale the prediction so that the medians are equal.
    """
    counted = (true > 0) & (true <= FARTHEST_M)
    if not counted.any():
        return DepthCounts(0.0, 0)
    truth, guess = true[counted].astype(np.float64), predicted[counted].astype(np.float64)
    if scaled:
        guess *= np.median(truth) / np.median(guess)
    return DepthCounts(float((np.abs(guess - truth) / truth).sum()), len(truth))


def absolute_relative_error(frames: Iterable[DepthCounts]) -> float:
    """Mean of |predicted - true| / true over all pixels of all frames; NaN without any."""
    frames = list(frames)
    pixels = sum(frame.pixels for frame in frames)
    return sum(frame.relative_error for frame in frames) / pixels if pixels else float("nan")
