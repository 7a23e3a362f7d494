"""Label images as instances, and classes of pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from instaseg_ros.clustering.label_image import labelled_instances
from instaseg_ros.methods import BACKGROUND, Targets
from instaseg_ros.methods.semantic import IGNORED, channel_classes, semantic_loss, semantic_truth


def test_instances_are_measured_best_first() -> None:
    labels = np.zeros((6, 8), np.uint16)
    labels[1:3, 2:6] = 1
    labels[4, 0] = 2  # too small
    labels[3:6, 6:8] = 3
    found = labelled_instances(
        labels, np.array([4, 5, 6]), np.array([0.5, 0.9, 0.7], np.float32), min_pixels=1
    )
    assert found.ids.tolist() == [1, 2]
    assert found.class_ids.tolist() == [6, 4]
    assert found.scores == pytest.approx([0.7, 0.5])
    assert found.boxes_xyxy.tolist() == [[6, 3, 8, 6], [2, 1, 6, 3]]
    assert found.centers_xy.tolist() == [[6.5, 4], [3.5, 1.5]]
    assert np.array_equal(found.labels, np.array([0, 2, 0, 1])[labels])


def test_semantic_truth_and_loss_by_hand() -> None:
    labels = torch.tensor([[[0, 1], [2, 0]]])
    ignore = torch.tensor([[[False, False], [False, True]]])
    truth = semantic_truth(Targets(labels, [torch.tensor([1, 0])], ignore))
    assert truth.tolist() == [[[0, 2], [1, IGNORED]]]
    logits = torch.zeros(1, 3, 2, 2)
    logits[0, 2, 0, 1] = math.log(2)  # p of the truth: 1/3, 1/2, 1/3
    assert float(semantic_loss(logits, truth)) == pytest.approx((2 * math.log(3) + math.log(2)) / 3)
    weighted = semantic_loss(logits, truth, torch.tensor([3.0, 0.0]))
    assert float(weighted) == pytest.approx((math.log(3) + 3 * math.log(3)) / 3)
    assert float(semantic_loss(logits, torch.full_like(truth, IGNORED))) == 0
    assert channel_classes(2) == (BACKGROUND, 0, 1)
