"""Computes the panoptic quality of countable classes (Kirillov et al. 2019, equation 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from instaseg_ros.evaluation.matching import iou, judge
from instaseg_ros.evaluation.overlaps import FrameCounts, of_class


class PanopticQuality(NamedTuple):
    """pq = sq * rq. sq: mean IoU of the matches; rq: TP / (TP + FP / 2 + FN / 2).
    NaN if there is neither an object nor a prediction."""

    pq: float
    sq: float
    rq: float


def panoptic_quality(frames: Sequence[FrameCounts], class_id: int) -> PanopticQuality:
    """PQ of one class over all frames.

    In the IoU of a match, the prediction's ignored pixels do not count.
    """
    total_iou, right, wrong, missed = 0.0, 0, 0, 0
    for frame in frames:
        counts = of_class(frame, class_id)
        solid = counts._replace(predicted_px=counts.predicted_px - counts.ignored_px)
        found = judge(counts, iou(solid))
        total_iou += float(found.iou[found.match].sum())
        right += int(found.match.sum())
        wrong += int(found.wrong.sum())
        missed += int((~found.match.any(1)).sum())
    if not right + wrong + missed:
        return PanopticQuality(*[float("nan")] * 3)
    sq, rq = total_iou / max(right, 1), right / (right + 0.5 * wrong + 0.5 * missed)
    return PanopticQuality(sq * rq, sq, rq)
