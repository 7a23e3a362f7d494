"""Average precision against cases worked by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from instaseg_ros.evaluation.metrics.average_precision import average_precision
from instaseg_ros.evaluation.overlaps import frame_counts
from instaseg_ros.frames import Instances

TRUTH = np.zeros((40, 40), np.uint16)
TRUTH[0:20, 0:20] = 7
TRUTH[20:40, 20:40] = 300
IDS = np.array([7, 300], np.uint16)
CLASSES = np.array([0, 0])


def predicted(*boxes: tuple[slice, slice, float], class_id: int = 0) -> Instances:
    empty = Instances.empty(40, 40)
    for k, (rows, columns, _) in enumerate(boxes):
        empty.labels[rows, columns] = k + 1
    return dataclasses.replace(
        empty,
        ids=np.arange(1, len(boxes) + 1).astype(np.uint16),
        class_ids=np.full(len(boxes), class_id),
        scores=np.array([score for *_, score in boxes], np.float32),
    )


def mean_ap(prediction: Instances) -> tuple[float, float]:
    counts = frame_counts(TRUTH, IDS, CLASSES, prediction)
    return average_precision([counts], ["car"])["mean"][:2]


def test_the_truth_itself_scores_one() -> None:
    exact = predicted((slice(0, 20), slice(0, 20), 0.9), (slice(20, 40), slice(20, 40), 0.8))
    assert mean_ap(exact) == (1.0, 1.0)


def test_half_an_object_found_at_low_overlap_only() -> None:
    # 14 of 20 columns: IoU 0.7, above the thresholds 0.5, 0.55, 0.6, 0.65 (0.7 is not above 0.7).
    part = predicted((slice(0, 20), slice(0, 14), 0.9))
    # One of two objects: precision 1 up to recall 0.5; the script's first step has half a width
    # before it, none after, so the area is recall itself: 0.5.
    ap, ap50 = mean_ap(part)
    assert ap50 == pytest.approx(0.5)
    assert ap in (pytest.approx(0.5 * 4 / 10), pytest.approx(0.5 * 5 / 10))  # 0.7 rounds either way


def test_a_wrong_instance_above_the_right_ones_costs_precision() -> None:
    exact = [(slice(0, 20), slice(0, 20), 0.5), (slice(20, 40), slice(20, 40), 0.5)]
    wrong = (slice(0, 10), slice(30, 40), 0.9)
    # Points (recall, precision): (1, 2/3) at 0.5, (0, 0) at 0.9, (0, 1) beyond.
    # Widths by the centred rule: 0.5, 0.5, 0 -> 2/3 * 0.5 = 1/3.
    assert mean_ap(predicted(*exact, wrong))[1] == pytest.approx(1 / 3)


def test_instance_on_ignored_ground_is_neither_right_nor_wrong() -> None:
    exact = [(slice(0, 20), slice(0, 20), 0.5), (slice(20, 40), slice(20, 40), 0.5)]
    prediction = predicted(*exact, (slice(0, 10), slice(30, 40), 0.9))
    ignore = np.zeros((40, 40), bool)
    ignore[0:12, 28:40] = True
    counts = frame_counts(TRUTH, IDS, CLASSES, prediction, ignore)
    assert average_precision([counts], ["car"])["mean"].ap == 1.0


def test_small_true_objects_are_left_out() -> None:
    only_large = predicted((slice(0, 20), slice(0, 20), 0.9), (slice(20, 40), slice(20, 40), 0.9))
    truth = TRUTH.copy()
    truth[0:20, 0:20] = 0
    truth[0:3, 0:3] = 7
    counts = frame_counts(truth, IDS, CLASSES, only_large, min_pixels=100)
    row = average_precision([counts], ["car"])["mean"]
    assert row.objects == 1
    # The first prediction is wrong (9 of its 400 px are excused), at the same score: points
    # (recall 1, precision 1/2) and (0, 1), each of width 1/2.
    assert row.ap50 == pytest.approx(0.75)


def test_wrong_class_is_not_found_and_absent_class_is_nan() -> None:
    exact = predicted(
        (slice(0, 20), slice(0, 20), 0.9), (slice(20, 40), slice(20, 40), 0.9), class_id=1
    )
    table = average_precision([frame_counts(TRUTH, IDS, CLASSES, exact)], ["car", "bus"])
    assert table["car"].ap == 0.0
    assert math.isnan(table["bus"].ap)
    assert table["mean"].ap == 0.0


def test_frames_without_anything() -> None:
    nothing = frame_counts(np.zeros((8, 8), np.uint16), IDS[:0], CLASSES[:0], Instances.empty(8, 8))
    assert math.isnan(average_precision([nothing], ["car"])["mean"].ap)
