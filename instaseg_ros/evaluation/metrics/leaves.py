"""Computes the scores of the leaf counting challenge, CVPPP (Scharr et al. 2016, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from instaseg_ros.evaluation.matching import judge
from instaseg_ros.evaluation.overlaps import FrameCounts, of_class


class LeafScore(NamedTuple):
    """sbd: symmetric best Dice, averaged over the frames with an object or a prediction. dic: mean
    absolute difference in count over all frames. NaN if no frame has any."""

    sbd: float
    dic: float


def leaf_score(frames: Sequence[FrameCounts], class_id: int) -> LeafScore:
    """Both scores of one class, without excused predictions."""
    best, differences = [], []
    for frame in frames:
        counts = of_class(frame, class_id)
        kept = judge(counts).counted
        truth_px, predicted_px = counts.truth_px, counts.predicted_px[kept]
        differences.append(abs(len(predicted_px) - len(truth_px)))
        if not len(truth_px) + len(predicted_px):
            continue
        if not len(truth_px) or not len(predicted_px):
            best.append(0.0)
            continue
        dice = 2 * counts.overlap[:, kept] / (truth_px[:, None] + predicted_px[None])
        best.append(min(dice.max(0).mean(), dice.max(1).mean()))
    if not best:
        return LeafScore(float("nan"), float("nan"))
    return LeafScore(float(np.mean(best)), float(np.mean(differences)))
