"""Describes the instances of a label image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.frames import Instances
from instaseg_ros.numba_cache import compile_all, kernel


@kernel("void(uint16[:,::1], int64[::1], int64[:,::1], int64[:,::1])")
def _measure(labels, sizes, boxes, sums):  # type: ignore[no-untyped-def]
    """Measure each label: pixels (K + 1,), boxes (K + 1, 4) and sums of x and y (K + 1, 2)."""
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            k = labels[y, x]
            if k:
                sizes[k] += 1
                sums[k, 0] += x
                sums[k, 1] += y
                boxes[k, 0] = min(boxes[k, 0], x)
                boxes[k, 1] = min(boxes[k, 1], y)
                boxes[k, 2] = max(boxes[k, 2], x + 1)
                boxes[k, 3] = max(boxes[k, 3], y + 1)


def with_score(instances: Instances, min_score: float) -> Instances:
    """The instances of at least `min_score`, as `only` leaves them."""
    return only(instances, instances.scores >= min_score)


def only(instances: Instances, kept: NDArray[np.bool_]) -> Instances:
    """Those of the N instances that are kept, (N,) bool, numbered anew from 1 in their order. The
    pixels of the others become background."""
    if kept.all():
        return instances
    rows = instances.rows(kept)
    ids = np.arange(1, len(rows) + 1, dtype=np.uint16)
    number = np.zeros(int(instances.ids.max()) + 1, np.uint16)
    number[rows.ids] = ids
    return replace(rows, labels=np.take(number, instances.labels, mode="clip"), ids=ids)


def labelled_instances(
    labels: NDArray[np.uint16],
    class_ids: NDArray[np.int64],
    scores: NDArray[np.float32],
    min_pixels: int = 0,
    min_score: float = 0.0,
) -> Instances:
    """The instances of a (H, W) label image with more than `min_pixels` pixels and at least
    `min_score`, best first and renumbered. The pixels of the others become background.

    class_ids, scores: (K,) of label k + 1. Centres are centroids, bandwidths 0: for methods that
    predict neither.
    """
    compile_all()
    count = len(class_ids) + 1
    sizes, sums = np.zeros(count, np.int64), np.zeros((count, 2), np.int64)
    boxes = np.tile(np.array([*labels.shape[::-1], 0, 0], np.int64), (count, 1))
    _measure(np.ascontiguousarray(labels), sizes, boxes, sums)
    kept = np.flatnonzero((sizes[1:] > min_pixels) & (scores >= min_score)) + 1
    kept = kept[np.argsort(-scores[kept - 1], kind="stable")]
    number = np.zeros(count, np.uint16)
    number[kept] = np.arange(1, len(kept) + 1)
    return Instances(
        labels=number[labels],
        ids=number[kept],
        class_ids=class_ids[kept - 1],
        scores=scores[kept - 1],
        boxes_xyxy=boxes[kept].astype(np.float32),
        centers_xy=(sums[kept] / sizes[kept, None]).astype(np.float32),
        bandwidths=np.zeros((len(kept), 2), np.float32),
    )
