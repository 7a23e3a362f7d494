"""Computes the panoptic quality of countable classes (Kirillov et al. 2019, equation 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from instaseg_ros.evaluation.matching import iou, judge
from instaseg_ros.evaluation.overlaps import FrameCounts, of_class


class PanopticQuality(NamedTuple):
    """pq = sq * rq. sq: mean IoU of the matches; rq: TP / (TP + FP / 2 + FN / 2).
    NaN if there is neither an object nor a prediction."""

    pq: float
    sq: float
    rq: float


class PanopticCounts(NamedTuple):
    """total_iou: sum over the matches, in which the prediction's ignored pixels do not count."""

    total_iou: float = 0.0
    right: float = 0
    wrong: float = 0
    missed: float = 0


def panoptic_quality(frames: Sequence[FrameCounts], class_id: int) -> PanopticQuality:
    """PQ of one class over all frames."""
    counts = [PanopticCounts(), *(panoptic_counts(frame, class_id) for frame in frames)]
    return quality_of(PanopticCounts(*np.sum(counts, axis=0).tolist()))


def panoptic_counts(frame: FrameCounts, class_id: int) -> PanopticCounts:
    """Of one class in one frame."""
    counts = of_class(frame, class_id)
    solid = counts._replace(predicted_px=counts.predicted_px - counts.ignored_px)
    found = judge(counts, iou(solid))
    return PanopticCounts(
        float(found.iou[found.match].sum()),
        int(found.match.sum()),
        int(found.wrong.sum()),
        int((~found.match.any(1)).sum()),
    )


def quality_of(counts: PanopticCounts) -> PanopticQuality:
    """PQ of summed counts."""
    total_iou, right, wrong, missed = counts
    if not right + wrong + missed:
        return PanopticQuality(*[float("nan")] * 3)
    sq, rq = total_iou / max(right, 1), right / (right + 0.5 * wrong + 0.5 * missed)
    return PanopticQuality(sq * rq, sq, rq)
