"""Computes instance average precision as Cityscapes defines it, from overlap counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.evaluation.matching import Ranked, rankings
from instaseg_ros.evaluation.overlaps import FrameCounts

OVERLAPS = np.arange(0.5, 1.0, 0.05)  # an object is found if the IoU is strictly above


class AveragePrecision(NamedTuple):
    """AP of a class or their mean: over IoU 0.5:0.05:0.95, and at 0.5. NaN without objects."""

    ap: float
    ap50: float
    objects: int


class Curve(NamedTuple):
    """Precision and recall at every distinct score, ascending; the last point, precision 1 at
    recall 0, has no score. scores: one fewer than points."""

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    scores: NDArray[np.float32]


def average_precision(
    frames: Sequence[FrameCounts], class_names: Sequence[str]
) -> dict[str, AveragePrecision]:
    """`ap_table` for the frames."""
    return ap_table(rankings(frames, class_names))


def ap_table(ranked: Mapping[str, Ranked]) -> dict[str, AveragePrecision]:
    """AP by class name, and under `mean` the mean over the classes that have objects."""
    table: dict[str, AveragePrecision] = {}
    for name, of_class in ranked.items():
        values = class_ap(of_class)
        table[name] = AveragePrecision(
            float(values.mean()), float(values[0]), int(of_class.objects.sum())
        )
    rows = [row for row in table.values() if row.objects]
    mean = [float(np.mean([row[k] for row in rows])) if rows else float("nan") for k in (0, 1)]
    table["mean"] = AveragePrecision(mean[0], mean[1], sum(row.objects for row in rows))
    return table


def class_ap(ranked: Ranked, times: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
    """(10,) AP at each of OVERLAPS; NaN without objects. times: see `precision_recall`."""
    return np.array([_area(precision_recall(ranked, one, times)) for one in OVERLAPS])


def frame_losses(classes: Iterable[Ranked]) -> NDArray[np.float64]:
    """(N,) the AP that each of N frames costs: mean AP without it minus mean AP with it."""
    classes = list(classes)
    frames = len(classes[0].objects)
    losses = np.zeros(frames)
    for ranked in classes:
        if not ranked.objects.any():
            continue
        whole = class_ap(ranked).mean()
        involved = (ranked.objects > 0) | (np.bincount(ranked.frame, minlength=frames) > 0)
        for frame in np.flatnonzero(involved):
            rest = ranked.frame != frame
            objects = ranked.objects.copy()
            objects[frame] = 0
            if objects.any():
                others = Ranked(
                    ranked.iou[rest],
                    ranked.excused[rest],
                    ranked.scores[rest],
                    ranked.frame[rest],
                    objects,
                )
                losses[frame] += class_ap(others).mean() - whole
    return losses / len(classes)


def precision_recall(
    ranked: Ranked, threshold: float, times: NDArray[np.int64] | None = None
) -> Curve | None:
    """The curve of one class at one IoU of at least 0.5; None without objects. times: (N,) how
    often each frame counts; None: once."""
    right, counted = ranked.at(threshold)
    if times is None:
        times = np.ones(len(ranked.objects), np.int64)
    objects, weight = ranked.objects @ times, times[ranked.frame]
    if not objects:
        return None
    counted = counted & (weight > 0)
    right, scores, weight = right[counted], ranked.scores[counted], weight[counted]
    order = np.argsort(scores, kind="stable")
    scores, first = np.unique(scores[order], return_index=True)  # one point per distinct score
    # Predictions, and right ones, with a lower score.
    lower, lower_right = (
        np.concatenate([[0], np.cumsum(one[order])])[first] for one in (weight, right * weight)
    )
    true_positives = (right * weight).sum() - lower_right
    precision = np.append(true_positives / (weight.sum() - lower), 1.0)
    return Curve(precision, np.append(true_positives / objects, 0.0), scores)


def _area(curve: Curve | None) -> float:
    """Area under the precision-recall curve, with the centred steps of the Cityscapes script."""
    if curve is None:
        return float("nan")
    recall = np.concatenate([curve.recall[:1], curve.recall, [0.0]])
    return float(curve.precision @ np.convolve(recall, [-0.5, 0.0, 0.5], "valid"))
