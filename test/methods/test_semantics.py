"""Mean IoU by hand, and beside torchmetrics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from instaseg_ros.evaluation.metrics.semantics import class_iou, confusion, mean_iou


def test_mean_iou_by_hand() -> None:
    truth = np.array([[0, 0, 1, 1], [0, 2, 1, 3]])
    predicted = np.array([[0, 1, 1, 1], [0, 2, 0, 1]])
    ignore = np.zeros_like(truth, dtype=bool)
    ignore[1, 3] = True
    counts = confusion(truth, predicted, 4, ignore)
    assert counts.tolist() == [[2, 1, 0, 0], [1, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert class_iou(counts)[:3] == pytest.approx([2 / 4, 2 / 4, 1])
    assert math.isnan(class_iou(counts)[3])
    assert mean_iou(counts) == pytest.approx((0.5 + 1) / 2)
    assert math.isnan(mean_iou(np.diag([5, 0, 0])))
    assert mean_iou(counts + confusion(truth, truth, 4)) == pytest.approx((5 / 7 + 1 + 1) / 3)


def test_it_is_that_of_torchmetrics() -> None:
    functional = pytest.importorskip("torchmetrics.functional.classification")
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 5, (40, 60))
    predicted = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, 5, truth.shape))
    expected = functional.multiclass_jaccard_index(
        torch.from_numpy(predicted), torch.from_numpy(truth), 5, average="none"
    )
    counts = confusion(truth, predicted, 5)
    assert class_iou(counts) == pytest.approx(expected.numpy())
    assert mean_iou(counts) == pytest.approx(float(expected[1:].mean()))
