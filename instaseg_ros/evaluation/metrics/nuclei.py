"""Computes the score of the 2018 Data Science Bowl, which is common in microscopy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.evaluation.matching import Ranked

OVERLAPS = np.arange(5, 10) / 10


class BowlScore(NamedTuple):
    """TP / (TP + FP + FN) at each of OVERLAPS. total: from sums over all frames (as in StarDist);
    by_image: the mean over frames with an object or a prediction. NaN if there are none."""

    total: NDArray[np.float64]
    by_image: NDArray[np.float64]


def ap_dsb(ranked: Ranked) -> BowlScore:
    """The score of one class. Predictions excused at IoU 0.5 do not count at any other either."""
    frames = len(ranked.objects)
    _, counted = ranked.at()
    predicted = np.bincount(ranked.frame[counted], minlength=frames)
    total, by_image = [], []
    for threshold in OVERLAPS:
        right = np.bincount(ranked.frame[ranked.at(threshold)[0]], minlength=frames)
        together = predicted + ranked.objects - right
        some = together > 0
        total.append(right.sum() / together.sum() if some.any() else np.nan)
        by_image.append((right[some] / together[some]).mean() if some.any() else np.nan)
    return BowlScore(np.array(total), np.array(by_image))
