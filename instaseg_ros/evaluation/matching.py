"""Decides which predictions are right, by the rules of IoU and excused pixels of all metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.evaluation.overlaps import ClassCounts, FrameCounts, of_class

HALF = 0.5  # above it a mask has at most one partner, since labels do not overlap

Flags = NDArray[np.bool_]
Shares = NDArray[np.float64]


class Judged(NamedTuple):
    """Matches of G objects and P predictions of one frame.

    match: (G, P) bool, IoU above HALF, at most one per row and column. iou: (G, P). wrong: (P,)
    bool; a prediction that is neither right nor wrong is excused.
    """

    match: Flags
    iou: Shares
    wrong: Flags

    @property
    def counted(self) -> Flags:
        """(P,) bool: right or wrong, not excused."""
        return self.match.any(0) | self.wrong


class Ranked(NamedTuple):
    """The K predictions of one class over N frames, for metrics at IoU 0.5 and above.

    iou: (K,) the largest with an object of the class; above HALF, no other prediction overlaps that
    object as much. excused: (K,) share of the prediction, in [0, 1]. scores: (K,). frame: (K,)
    0..N-1. objects: (N,) number to be found in each frame.
    """

    iou: Shares
    excused: Shares
    scores: NDArray[np.float32]
    frame: NDArray[np.int64]
    objects: NDArray[np.int64]

    def at(self, threshold: float = HALF) -> tuple[Flags, Flags]:
        """(K,) bool each: right predictions, with an IoU above the threshold; and all that count,
        right or wrong."""
        right = self.iou > threshold
        return right, right | is_wrong(right, self.excused, threshold)


def is_wrong(right: Flags, excused: Shares, threshold: float = HALF) -> Flags:
    """(P,) bool: a prediction that is not right is wrong unless more than the `threshold` share of
    it is excused."""
    return ~right & (excused <= threshold)


def judge(counts: ClassCounts, overlaps: Shares | None = None) -> Judged:
    """Match objects and predictions of a class in a frame. overlaps: (G, P), instead of `iou`."""
    overlaps = iou(counts) if overlaps is None else overlaps
    match: Flags = overlaps > HALF
    right: Flags = np.asarray(match.any(0))
    return Judged(match, overlaps, is_wrong(right, excused_share(counts)))


def rankings(frames: Sequence[FrameCounts], class_names: Sequence[str]) -> dict[str, Ranked]:
    """`rank` of each class, by class name."""
    return {name: rank(frames, class_id) for class_id, name in enumerate(class_names)}


def rank(frames: Sequence[FrameCounts], class_id: int) -> Ranked:
    """The predictions of one class over all frames."""
    classes = [of_class(frame, class_id) for frame in frames]
    lengths = [len(counts.scores) for counts in classes]
    return Ranked(
        np.concatenate([np.zeros(0), *(iou(c).max(0, initial=0.0) for c in classes)]),
        np.concatenate([np.zeros(0), *map(excused_share, classes)]),
        np.concatenate([np.zeros(0, np.float32), *(c.scores for c in classes)]),
        np.repeat(np.arange(len(frames)), lengths),
        np.array([len(c.truth_px) for c in classes], np.int64),
    )


def iou(counts: ClassCounts) -> Shares:
    """(G, P) intersection over union."""
    union = counts.truth_px[:, None] + counts.predicted_px[None] - counts.overlap
    return counts.overlap / np.maximum(union, 1)


def excused_share(counts: ClassCounts) -> Shares:
    """(P,) share of each prediction that is excused; 1 for an empty one."""
    share = counts.excused_px / np.maximum(counts.predicted_px, 1)
    return np.where(counts.predicted_px > 0, share, np.inf)
