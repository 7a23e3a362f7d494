"""Pixels vote on the classes of instances: the count, ties, and what it leaves alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instaseg_ros.clustering.label_image import labelled_instances
from instaseg_ros.frames import Instances
from instaseg_ros.methods.class_vote import best_classes, voted


def instances(labels: np.ndarray, class_ids: list[int]) -> Instances:
    classes = np.array(class_ids, np.int64)
    return labelled_instances(labels.astype(np.uint16), classes, np.ones(len(classes), np.float32))


def test_the_class_is_that_of_most_pixels() -> None:
    labels = np.zeros((8, 16), np.uint16)
    labels[:5, :8], labels[:5, 8:13] = 1, 1  # 40 pixels in the left cell, 25 in the right
    labels[5:, 12:] = 2  # all in the right
    cells = np.array([[3, 1]], np.int16)
    before = instances(labels, [0, 0])
    found = voted(before, cells, 4)
    assert found.class_ids.tolist() == [3, 1]
    for field in dataclasses.fields(Instances):
        if field.name not in ("class_ids", "embeddings"):
            assert getattr(found, field.name) is getattr(before, field.name)


@pytest.mark.parametrize("own", [0, 1, 2])
def test_a_tie_leaves_an_instance_its_class(own: int) -> None:
    labels = np.ones((8, 16), np.uint16)
    found = voted(instances(labels, [own]), np.array([[2, 1]], np.int16), 3)
    assert found.class_ids.tolist() == [own if own in (1, 2) else 1]


def test_cells_at_the_edge_of_an_image_of_odd_sides_count() -> None:
    labels = np.zeros((61, 125), np.uint16)
    labels[60, 124] = 1
    cells = np.zeros((8, 16), np.int16)
    cells[-1, -1] = 2
    assert voted(instances(labels, [1]), cells, 3).class_ids.tolist() == [2]


def test_the_best_class_of_a_cell_is_that_of_the_largest_score() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(-3, 3, (5, 9, 17)).astype(np.float32)  # with ties
    np.testing.assert_array_equal(best_classes(scores), scores.argmax(0))
    assert best_classes(scores).dtype == np.int16
    np.testing.assert_array_equal(best_classes(scores[::-1]), scores[::-1].argmax(0))
    scores[0] = np.nan
    assert not best_classes(scores).any(), "no class beats what is not a number"


@given(st.integers(0, 10_000))
def test_it_is_the_plain_count(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 40, 2)
    n, n_classes = rng.integers(0, 6), rng.integers(1, 5)
    labels = rng.integers(0, n + 1, (height, width)).astype(np.uint16)
    before = instances(labels, rng.integers(0, n_classes, n).tolist())
    cells = rng.integers(0, n_classes, (-(-height // 8), -(-width // 8))).astype(np.int16)
    found = voted(before, cells, n_classes)
    of_pixels = cells.repeat(8, 0).repeat(8, 1)[:height, :width]
    for k, own in zip(before.ids, before.class_ids, strict=True):
        counts = np.bincount(of_pixels[before.labels == k], minlength=n_classes)
        expected = own if counts[own] == counts.max() else counts.argmax()
        assert found.class_ids[found.ids == k] == expected
