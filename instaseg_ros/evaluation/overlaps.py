"""Counts the overlaps of a frame: pixels are visited once, and all metrics use these counts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.frames import Instances


class FrameCounts(NamedTuple):
    """Pixel counts of G true regions and P predicted instances of one frame.

    overlap: (G, P) int64 common pixels; truth_px: (G,), predicted_px: (P,); ignored_px: (P,)
    predicted pixels where every class is ignored and no object is; truth_class (G,),
    predicted_class (P,), -1: not evaluated; scores: (P,) in [0, 1]. uncounted: (G,) bool, regions
    that need not be found and excuse predictions of their class (groups). min_pixels: objects below
    this size are treated likewise.
    """

    overlap: NDArray[np.int64]
    truth_px: NDArray[np.int64]
    predicted_px: NDArray[np.int64]
    ignored_px: NDArray[np.int64]
    truth_class: NDArray[np.int64]
    predicted_class: NDArray[np.int64]
    scores: NDArray[np.float32]
    uncounted: NDArray[np.bool_]
    min_pixels: float

    @property
    def counted(self) -> NDArray[np.bool_]:
        """(G,) bool, the objects to be found."""
        least = max(self.min_pixels, 1)  # an object may consist of ignored pixels only
        return ~self.uncounted & (self.truth_px >= least) & (self.truth_class >= 0)


class ClassCounts(NamedTuple):
    """Counts of one class in one frame: G objects to be found, P predictions.

    excused_px: (P,) predicted pixels on ignored pixels, groups and too small objects.
    """

    overlap: NDArray[np.int64]
    truth_px: NDArray[np.int64]
    predicted_px: NDArray[np.int64]
    ignored_px: NDArray[np.int64]
    excused_px: NDArray[np.int64]
    scores: NDArray[np.float32]


def frame_counts(
    labels: NDArray[np.uint16],
    ids: NDArray[np.uint16],
    class_ids: NDArray[np.int64],
    predicted: Instances,
    ignore: NDArray[np.bool_] | None = None,
    crowd: NDArray[np.uint8] | None = None,
    min_pixels: float = 100,
) -> FrameCounts:
    """Counts of one frame.

    labels: (H, W) uint16 true label image; ids, class_ids: (G,) its instances. ignore: (H, W) bool,
    belongs to no object and excuses predictions of any class. crowd: (H, W) uint8, class index + 1
    of groups, which excuse predictions of that class. min_pixels: true objects below this size need
    not be found.
    """
    truth_row = np.zeros(1 << 16, np.int64)
    truth_row[ids] = np.arange(1, len(ids) + 1)
    if ignore is not None:
        labels = np.where(ignore, np.uint16(0), labels)
        crowd = None if crowd is None else np.where(ignore, np.uint8(0), crowd)
    row = truth_row[labels]
    groups = np.zeros(0, np.int64)
    if crowd is not None and crowd.any():
        groups = np.flatnonzero(np.bincount(crowd.ravel(), minlength=256)[1:])
        group_row = np.zeros(256, np.int64)
        group_row[groups + 1] = np.arange(len(ids) + 1, len(ids) + len(groups) + 1)
        row = np.where(row > 0, row, group_row[crowd])
    n_truth, n_predicted = len(ids) + len(groups), len(predicted.ids)
    column = np.zeros(1 << 16, np.int64)
    column[predicted.ids] = np.arange(1, n_predicted + 1)
    pair = row * (n_predicted + 1) + column[predicted.labels]
    table = np.bincount(pair.ravel(), minlength=(n_truth + 1) * (n_predicted + 1))
    table = table.reshape(n_truth + 1, n_predicted + 1)
    ignored_px = np.zeros(n_predicted, np.int64)
    if ignore is not None and ignore.any():
        columns = column[predicted.labels[ignore]]
        ignored_px = np.bincount(columns, minlength=n_predicted + 1)[1:]
    return FrameCounts(
        overlap=table[1:, 1:],
        truth_px=table.sum(1)[1:],
        predicted_px=table.sum(0)[1:],
        ignored_px=ignored_px,
        truth_class=np.concatenate([np.asarray(class_ids, np.int64), groups]),
        predicted_class=predicted.class_ids,
        scores=predicted.scores,
        uncounted=np.arange(n_truth) >= len(ids),
        min_pixels=min_pixels,
    )


def of_class(frame: FrameCounts, class_id: int | None) -> ClassCounts:
    """The counts of one class; None: of all as one class. A group below `min_pixels` excuses twice,
    as a group and as small: the Cityscapes script does so, and its numbers must be reproduced."""
    if class_id is None:
        own, columns = np.ones(len(frame.truth_px), bool), frame.predicted_class >= 0
    else:
        own, columns = frame.truth_class == class_id, frame.predicted_class == class_id
    small = frame.truth_px < frame.min_pixels
    times = (own & ~frame.counted).astype(np.int64) + (own & frame.uncounted & small)
    rows = own & frame.counted
    return ClassCounts(
        frame.overlap[rows][:, columns],
        frame.truth_px[rows],
        frame.predicted_px[columns],
        frame.ignored_px[columns],
        (frame.ignored_px + times @ frame.overlap)[columns],
        frame.scores[columns],
    )
