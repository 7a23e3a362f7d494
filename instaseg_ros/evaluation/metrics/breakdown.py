"""Breaks AP down by object size, by neighbours, between classes, and by score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.evaluation.matching import Ranked, judge
from instaseg_ros.evaluation.metrics.average_precision import AveragePrecision, average_precision
from instaseg_ros.evaluation.overlaps import FrameCounts, of_class

SIZE_STEP = 4.0  # ratio of the ends of a bin of sizes
SIZE_BINS = 6
TOUCHING_EDGES = (0, 2, 20, 40, np.inf)  # bins of the touching border, percent


class Bin(NamedTuple):
    """Objects from `low` to below `high`, the mean of the classes' AP, and that of each class."""

    low: float
    high: float
    ap: AveragePrecision
    of_class: Mapping[str, AveragePrecision]

    def facts(self) -> dict[str, Any]:
        """For JSON; `high` of the last bin, which has no end, is None."""
        high = None if self.high == np.inf else self.high
        per_class = {name: one._asdict() for name, one in self.of_class.items()}
        return {"low": self.low, "high": high, **self.ap._asdict(), "per_class": per_class}


def touching_percent(labels: NDArray[np.uint16], ids: NDArray[np.uint16]) -> NDArray[np.float64]:
    """(N,) percent of each object's border that touches another object.

    Border: pairs of 4-neighbour pixels, inside and outside; the image's edge does not count. A
    label image does not show who is in front, so both the covering and the covered object count.
    """
    border, touching = np.zeros((2, 1 << 16))
    for one, other in ((labels[:, 1:], labels[:, :-1]), (labels[1:], labels[:-1])):
        differ = one != other
        pairs = one[differ], other[differ]
        for inside, outside in (pairs, pairs[::-1]):
            border += np.bincount(inside, minlength=1 << 16)
            touching += np.bincount(inside[outside > 0], minlength=1 << 16)
    return 100 * touching[ids] / np.maximum(border[ids], 1)


def restrict(
    frame: FrameCounts, truth: NDArray[np.bool_], predicted: NDArray[np.bool_]
) -> FrameCounts:
    """The frame with only the chosen objects to be found and only the chosen predictions possibly
    wrong; all others are excused. truth: (G,), predicted: (P,) bool."""
    return frame._replace(
        uncounted=frame.uncounted | ~truth,
        ignored_px=np.where(predicted, frame.ignored_px, frame.predicted_px),
    )


def ap_by(
    frames: Sequence[FrameCounts],
    truth: Sequence[NDArray[np.float64]],
    predicted: Sequence[NDArray[np.float64]],
    edges: Sequence[float],
    class_names: Sequence[str],
) -> list[Bin]:
    """AP in bins of a quantity of each frame's objects (G,) and predictions (P,).

    An object can be found by a prediction of any bin; a wrong prediction counts in its own.
    """
    bins = []
    for low, high in pairwise(edges):
        chosen = [
            restrict(frame, (low <= t) & (t < high), (low <= p) & (p < high))
            for frame, t, p in zip(frames, truth, predicted, strict=True)
        ]
        table = average_precision(chosen, class_names)
        bins.append(Bin(low, high, table.pop("mean"), table))
    return bins


def ap_by_size(frames: Sequence[FrameCounts], class_names: Sequence[str]) -> list[Bin]:
    """AP in bins of the object's pixels, from the smallest on; the last bin has no end."""
    least = max(1.0, min((frame.min_pixels for frame in frames), default=1.0))
    sizes = np.concatenate([np.zeros(0), *(frame.truth_px[frame.counted] for frame in frames)])
    first = np.floor(np.emath.logn(SIZE_STEP, sizes.min() / least)) if len(sizes) else 0
    edges = [*(least * SIZE_STEP ** (first + np.arange(SIZE_BINS))), np.inf]
    truth = [frame.truth_px.astype(float) for frame in frames]
    predicted = [frame.predicted_px.astype(float) for frame in frames]
    bins = ap_by(frames, truth, predicted, edges, class_names)
    while len(bins) > 1 and not bins[-1].ap.objects:  # no object is that large
        bins.pop()
    return bins


def confusion(frames: Sequence[FrameCounts], n_classes: int) -> NDArray[np.int64]:
    """(C + 1, C + 1) objects by true class (last row: no object) and predicted class (last column:
    missed), matched if a prediction of any class has an IoU above 0.5 with the object."""
    table = np.zeros((n_classes + 1, n_classes + 1), np.int64)
    for frame in frames:
        found = judge(of_class(frame, None))
        truth_class = frame.truth_class[frame.counted]
        predicted_class = frame.predicted_class[frame.predicted_class >= 0]
        rows, columns = np.nonzero(found.match)
        np.add.at(table, (truth_class[rows], predicted_class[columns]), 1)
        np.add.at(table[:, -1], truth_class[~found.match.any(1)], 1)
        np.add.at(table[-1], predicted_class[found.wrong], 1)
    return table


class Reliability(NamedTuple):
    """Predictions in equal bins by score: mean score, mean IoU with the best object of the class,
    and number of predictions. There are no more bins than predictions."""

    score: NDArray[np.float64]
    iou: NDArray[np.float64]
    predictions: NDArray[np.int64]


def reliability(ranked: Sequence[Ranked], bins: int = 10) -> Reliability:
    """The reliability of all classes together, without excused predictions."""
    pairs = [(r, r.at()[1]) for r in ranked]
    scores = np.concatenate([r.scores[kept] for r, kept in pairs]).astype(float)
    ious = np.concatenate([r.iou[kept] for r, kept in pairs])
    order = np.argsort(scores, kind="stable")
    parts = np.array_split(order, min(bins, len(order))) if len(order) else []
    return Reliability(
        np.array([scores[part].mean() for part in parts]),
        np.array([ious[part].mean() for part in parts]),
        np.array([len(part) for part in parts], np.int64),
    )
