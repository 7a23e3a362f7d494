"""Computes AP^r, average precision of regions (Hariharan et al. 2014, section 5), as in VOC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from instaseg_ros.evaluation.matching import excused_share, iou, is_wrong
from instaseg_ros.evaluation.overlaps import FrameCounts, of_class

VOLUME_OVERLAPS = np.arange(1, 10) / 10


class RegionPrecision(NamedTuple):
    """AP^r at IoU 0.5 and 0.7; its volume, the mean at 0.1, 0.2, ... 0.9. NaN without objects."""

    at_50: float
    at_70: float
    volume: float


def region_precision(frames: Sequence[FrameCounts], class_id: int) -> RegionPrecision:
    """AP^r of one class over all frames.

    In order of descending score, a prediction is right if the object it overlaps most has at least
    the threshold's IoU and is not taken; otherwise wrong, unless more than half of it is excused.
    """
    overlaps, objects, shares, scores = [], [], [], []
    seen = 0
    for frame in frames:
        counts = of_class(frame, class_id)
        n_truth, n_predicted = counts.overlap.shape
        ious = np.vstack([iou(counts), np.zeros((1, n_predicted))])  # the last row: no object
        overlaps.append(ious.max(0))
        objects.append(seen + ious.argmax(0))
        shares.append(excused_share(counts))
        scores.append(counts.scores)
        seen += n_truth + 1
    total = seen - len(frames)
    if not total:
        return RegionPrecision(*[float("nan")] * 3)
    order = np.argsort(-np.concatenate(scores), kind="stable")
    best, owner, share = (np.concatenate(a)[order] for a in (overlaps, objects, shares))
    values = []
    for threshold in VOLUME_OVERLAPS:
        candidates = np.flatnonzero(best >= threshold)
        right = np.zeros(len(best), bool)
        right[candidates[np.unique(owner[candidates], return_index=True)[1]]] = True
        values.append(_interpolated_area(right[right | is_wrong(right, share)], total))
    return RegionPrecision(values[4], values[6], float(np.mean(values)))


def _interpolated_area(right: np.ndarray, total: int) -> float:
    """Area under the curve whose precision at each recall is the best at that recall or above.

    right: (K,) bool, by descending score.
    """
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    best_beyond = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best_beyond[right].sum() / total)
