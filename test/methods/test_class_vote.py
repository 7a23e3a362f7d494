"""Pixels vote on the classes of instances: the count, majorities, and what it leaves alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instaseg_ros.clustering.label_image import labelled_instances
from instaseg_ros.frames import Instances
from instaseg_ros.methods.class_vote import voted


def instances(labels: np.ndarray, class_ids: list[int]) -> Instances:
    classes = np.array(class_ids, np.int64)
    return labelled_instances(
        labels.astype(np.uint16), classes, np.full(len(classes), 0.9, np.float32)
    )


def one_hot(cells: np.ndarray, n_classes: int) -> np.ndarray:
    """Scores (C, h, w) of which those of `cells` are the largest."""
    return np.float32(cells == np.arange(n_classes)[:, None, None])


def test_the_class_is_that_of_most_pixels() -> None:
    labels = np.zeros((8, 16), np.uint16)
    labels[:5, :8], labels[:5, 8:13] = 1, 1  # 40 pixels in the left cell, 25 in the right
    labels[5:, 12:] = 2  # all in the right
    before = instances(labels, [0, 0])
    found = voted(before, one_hot(np.array([[3, 1]]), 4))
    assert found.class_ids.tolist() == [3, 1]
    for field in dataclasses.fields(Instances):
        if field.name not in ("class_ids", "scores", "embeddings"):
            assert getattr(found, field.name) is getattr(before, field.name)
    assert found.scores.dtype == np.float32
    assert found.scores == pytest.approx([0.9 * (40 / 65) ** 0.5, 0.9])


@pytest.mark.parametrize("own", [0, 1, 2])
def test_half_of_the_pixels_is_no_majority(own: int) -> None:
    labels = np.ones((8, 16), np.uint16)
    scores = one_hot(np.array([[2, 1]]), 3)
    assert voted(instances(labels, [own]), scores).class_ids.tolist() == [own]
    labels[0, 0] = 0
    assert voted(instances(labels, [own]), scores).class_ids.tolist() == [1]


def test_cells_at_the_edge_of_an_image_of_odd_sides_count() -> None:
    labels = np.zeros((61, 125), np.uint16)
    labels[60, 124] = 1
    cells = np.zeros((8, 16), np.int16)
    cells[-1, -1] = 2
    assert voted(instances(labels, [1]), one_hot(cells, 3)).class_ids.tolist() == [2]


@given(st.integers(0, 10_000))
def test_it_is_the_plain_count(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 40, 2)
    n, n_classes = rng.integers(0, 6), rng.integers(1, 5)
    labels = rng.integers(0, n + 1, (height, width)).astype(np.uint16)
    before = instances(labels, rng.integers(0, n_classes, n).tolist())
    cells = (-(-height // 8), -(-width // 8))
    scores = rng.integers(-3, 3, (n_classes, *cells)).astype(np.float32)  # with ties
    found = voted(before, scores)
    of_pixels = scores.argmax(0).repeat(8, 0).repeat(8, 1)[:height, :width]
    for k, own in zip(before.ids, before.class_ids, strict=True):
        counts = np.bincount(of_pixels[before.labels == k], minlength=n_classes)
        expected = counts.argmax() if counts.max() > counts.sum() / 2 else own
        assert found.class_ids[found.ids == k] == expected
        share = counts[expected] / counts.sum()
        assert found.scores[found.ids == k] == pytest.approx(0.9 * share**0.5)
