"""Instance average precision as Cityscapes defines it, from label images.

A frame is reduced to overlap counts once (`frame_counts`); `average_precision` needs no pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.types import Instances

OVERLAPS = np.arange(0.5, 1.0, 0.05)  # an object is found when IoU is strictly above


class FrameCounts(NamedTuple):
    """Pixel counts of G true and P predicted instances of one frame.

    overlap: (G, P) int64 common pixels; truth_px: (G,), predicted_px: (P,); ignored_px: (P,)
    predicted pixels on ignored ground; classes (G,), (P,); scores: (P,) in [0, 1].
    """

    overlap: NDArray[np.int64]
    truth_px: NDArray[np.int64]
    predicted_px: NDArray[np.int64]
    ignored_px: NDArray[np.int64]
    truth_class: NDArray[np.int64]
    predicted_class: NDArray[np.int64]
    scores: NDArray[np.float32]


class AveragePrecision(NamedTuple):
    """AP of one class or their mean: over IoU 0.5:0.05:0.95, and at 0.5. NaN without objects."""

    ap: float
    ap50: float
    objects: int


def frame_counts(
    labels: NDArray[np.uint16],
    ids: NDArray[np.uint16],
    class_ids: NDArray[np.int64],
    predicted: Instances,
    ignore: NDArray[np.bool_] | None = None,
) -> FrameCounts:
    """Counts of one frame.

    labels: (H, W) uint16 true label image; ids, class_ids: (G,) its instances. ignore: (H, W) bool.
    """
    n_truth, n_predicted = len(ids), len(predicted)
    truth_row = np.zeros(1 << 16, np.int64)
    truth_row[ids] = np.arange(1, n_truth + 1)
    column = np.zeros(1 << 16, np.int64)
    column[predicted.ids] = np.arange(1, n_predicted + 1)
    pair = truth_row[labels] * (n_predicted + 1) + column[predicted.labels]
    size = (n_truth + 1) * (n_predicted + 1)
    ignored_px = np.zeros(n_predicted, np.int64)
    if ignore is not None and ignore.any():
        ignored = np.bincount(pair[ignore], minlength=size).reshape(n_truth + 1, -1)
        ignored_px = ignored.sum(0)[1:]
    table = np.bincount(pair.ravel(), minlength=size).reshape(n_truth + 1, -1)
    return FrameCounts(
        overlap=table[1:, 1:],
        truth_px=table.sum(1)[1:],
        predicted_px=table.sum(0)[1:],
        ignored_px=ignored_px,
        truth_class=np.asarray(class_ids),
        predicted_class=predicted.class_ids,
        scores=predicted.scores,
    )


def average_precision(
    frames: Sequence[FrameCounts], class_names: Sequence[str], min_pixels: float = 100
) -> dict[str, AveragePrecision]:
    """AP per class name, and under `mean` over the classes that have objects.

    min_pixels: true objects below this size are ignored, found or not.
    """
    table: dict[str, AveragePrecision] = {}
    for class_id, name in enumerate(class_names):
        selected = [_of_class(frame, class_id) for frame in frames]
        values = [_class_ap(selected, threshold, min_pixels) for threshold in OVERLAPS]
        objects = sum(int((frame.truth_px >= min_pixels).sum()) for frame in selected)
        table[name] = AveragePrecision(float(np.mean(values)), values[0], objects)
    rows = [row for row in table.values() if row.objects]
    mean = [float(np.mean([row[k] for row in rows])) if rows else float("nan") for k in (0, 1)]
    table["mean"] = AveragePrecision(mean[0], mean[1], sum(row.objects for row in rows))
    return table


def _of_class(frame: FrameCounts, class_id: int) -> FrameCounts:
    rows, columns = frame.truth_class == class_id, frame.predicted_class == class_id
    return FrameCounts(
        frame.overlap[rows][:, columns],
        frame.truth_px[rows],
        frame.predicted_px[columns],
        frame.ignored_px[columns],
        frame.truth_class[rows],
        frame.predicted_class[columns],
        frame.scores[columns],
    )


def _class_ap(frames: Sequence[FrameCounts], threshold: float, min_pixels: float) -> float:
    hits: list[bool] = []
    scores: list[float] = []
    missed = found_or_missed = 0
    for frame in frames:
        union = frame.truth_px[:, None] + frame.predicted_px[None] - frame.overlap
        matched = frame.overlap > threshold * union
        large = frame.truth_px >= min_pixels
        found_or_missed += int(large.sum())
        for row in matched[large]:
            candidates = np.sort(frame.scores[row])[::-1]
            missed += not len(candidates)
            hits += [k == 0 for k in range(len(candidates))]  # the best is right, the rest wrong
            scores += candidates.tolist()
        stray = ~matched.any(0)
        excused = frame.ignored_px + frame.overlap[~large].sum(0)
        wrong = stray & (excused <= threshold * frame.predicted_px) & (frame.predicted_px > 0)
        hits += [False] * int(wrong.sum())
        scores += frame.scores[wrong].tolist()
    if not found_or_missed:
        return float("nan")
    return _area(np.array(hits, bool), np.array(scores), missed) if hits else 0.0


def _area(hits: NDArray[np.bool_], scores: NDArray[np.float64], missed: int) -> float:
    """Area under precision over recall, with the centred steps of the Cityscapes script."""
    order = np.argsort(scores, kind="stable")
    hits, scores = hits[order], scores[order]
    first = np.unique(scores, return_index=True)[1]  # one point per distinct score
    below = np.concatenate([[0], np.cumsum(hits)])[first]  # hits with a lower score
    true_positives = hits.sum() - below
    precision = np.append(true_positives / (len(hits) - first), 1.0)
    total = hits.sum() + missed
    recall = np.append(true_positives / total if total else np.zeros(len(first)), 0.0)
    widths = np.convolve(np.concatenate([recall[:1], recall, [0.0]]), [-0.5, 0.0, 0.5], "valid")
    return float(precision @ widths)
