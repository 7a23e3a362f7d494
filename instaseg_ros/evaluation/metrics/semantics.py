"""Computes the confusion counts of pixel classes, and their mean IoU."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray


def confusion(
    truth: NDArray[Any],
    predicted: NDArray[Any],
    n_classes: int,
    ignore: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """(n_classes, n_classes) pixels by true and predicted class, without ignored ones.

    truth, predicted: of equal shape, 0..n_classes-1. ignore: bool, of that shape.
    """
    if ignore is not None:
        truth, predicted = truth[~ignore], predicted[~ignore]
    pair = truth.astype(np.int64) * n_classes + predicted
    return np.bincount(pair.ravel(), minlength=n_classes**2).reshape(n_classes, n_classes)


def frame_confusion(
    labels: NDArray[np.uint16],
    ids: NDArray[np.uint16],
    class_ids: NDArray[np.int64],
    predicted: NDArray[Any],
    n_classes: int,
    ignore: NDArray[np.bool_] | None = None,
    crowd: NDArray[np.uint8] | None = None,
) -> NDArray[np.int64]:
    """`confusion` of a frame's truth, as in `Sample`, and a head's predicted classes.

    predicted: (H', W') 0 background, 1 + class; resized to the frame. n_classes: including the
    background. class_ids may be -1 for background. Objects in `crowd` have the crowd's class.
    """
    size = labels.shape[::-1]
    classes = cv2.resize(predicted.astype(np.uint16), size, interpolation=cv2.INTER_NEAREST)
    class_of = np.zeros(1 << 16, np.int64)
    class_of[ids] = class_ids + 1
    truth = class_of[labels]
    if crowd is not None:
        truth = np.where(truth > 0, truth, crowd)
    return confusion(truth, classes, n_classes, ignore)


def class_iou(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n_classes,) intersection over union of each class, NaN if neither the truth nor the
    prediction has a pixel of it. counts: from `confusion`, of one frame or summed over many."""
    right = np.diag(counts)
    union = counts.sum(0) + counts.sum(1) - right
    return np.where(union > 0, right / np.maximum(union, 1), np.nan)


def mean_iou(counts: NDArray[np.int64]) -> float:
    """Mean of `class_iou` over the classes that occur, without class 0 (background); NaN if none
    do."""
    values = class_iou(counts)[1:]
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else float("nan")
