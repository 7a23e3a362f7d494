"""Random frames for metrics: truth with groups and void, predictions of every kind of wrong."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from instaseg_ros.evaluation.overlaps import FrameCounts, frame_counts
from instaseg_ros.frames import Instances

SIZE = 96, 128


class MetricScene(NamedTuple):
    """A frame in the terms of `frame_counts`."""

    labels: NDArray[np.uint16]
    ids: NDArray[np.uint16]
    class_ids: NDArray[np.int64]
    predicted: Instances
    ignore: NDArray[np.bool_]
    crowd: NDArray[np.uint8]

    def counts(self, min_pixels: float = 100) -> FrameCounts:
        return frame_counts(*self, min_pixels)


def predictions(
    labels: NDArray[np.uint16], class_ids: NDArray[np.int64], scores: NDArray[np.float32]
) -> Instances:
    """Predictions 1..N, some maybe without a pixel; metrics do not ask for boxes."""
    zeros = np.zeros((len(class_ids), 4), np.float32)
    return dataclasses.replace(
        Instances.empty(*labels.shape),
        labels=labels,
        ids=np.arange(1, len(class_ids) + 1).astype(np.uint16),
        class_ids=class_ids,
        scores=scores.astype(np.float32),
        boxes_xyxy=zeros,
        centers_xy=zeros[:, :2],
        bandwidths=zeros[:, :2],
    )


def metric_scene(
    rng: np.random.Generator, n_classes: int, n_objects: int = 14, groups: bool = True
) -> MetricScene:
    """Ellipses from a few pixels to a fifth of the frame; most are predicted, shifted and scaled,
    some twice, some with another class, with scores of one decimal, so that many are equal."""
    labels, predicted_labels, ignore = np.zeros((3, *SIZE), np.uint16)
    crowd = np.zeros(SIZE, np.uint8)
    classes, predicted_classes, scores = [], [], []
    for _ in range(n_objects):
        center = rng.integers(0, SIZE[::-1])
        axes = np.exp(rng.uniform(0.5, 3.3, 2))
        angle, class_id = rng.uniform(0, 180), int(rng.integers(n_classes))
        kind = rng.random()
        if kind < 0.1:
            _ellipse(ignore, center, axes, angle, 1)
        elif kind < 0.3 and groups:
            _ellipse(crowd, center, axes, angle, class_id + 1)
        else:
            classes.append(class_id)
            _ellipse(labels, center, axes, angle, len(classes))
        for _ in range(rng.choice([0, 1, 2], p=[0.15, 0.7, 0.15])):
            other = rng.random() < 0.1
            predicted_classes.append(int(rng.integers(n_classes)) if other else class_id)
            scores.append(round(rng.uniform(0.5, 1.0), 1))
            moved = center + rng.normal(0, 0.06, 2) * axes
            grown = axes * np.exp(rng.normal(0, 0.08, 2))
            _ellipse(predicted_labels, moved, grown, angle, len(scores))
    labels[(crowd > 0) | (ignore > 0)] = 0
    crowd[ignore > 0] = 0
    ids = np.unique(labels[labels > 0])
    class_ids = np.array(classes, np.int64)[ids.astype(int) - 1]
    predicted = predictions(
        predicted_labels, np.array(predicted_classes, np.int64), np.array(scores, np.float32)
    )
    return MetricScene(labels, ids, class_ids, predicted, ignore > 0, crowd)


def _ellipse(
    image: NDArray[np.generic],
    center: NDArray[np.floating] | NDArray[np.integer],
    axes: NDArray[np.floating],
    angle: float,
    value: int,
) -> None:
    mask = np.zeros(SIZE, np.uint8)
    middle, half = np.rint(center).astype(int).tolist(), np.rint(axes).astype(int).tolist()
    cv2.ellipse(mask, middle, half, angle, 0, 360, 1, -1)
    image[mask > 0] = value
