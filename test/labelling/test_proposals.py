"""Proposals: what the network sees, and the objects of the frame before."""

from __future__ import annotations

import numpy as np
from label_sessions import DISCS, DiscNetwork, disc_labels, picture

from instaseg_ros.labelling import proposals
from instaseg_ros.labelling.editing import CLICK, GIVEN, PROPOSAL, Drawing, Object


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_the_network_proposes_objects_of_classes_that_the_dataset_has() -> None:
    instances = DiscNetwork().seen(0).instances
    found = proposals.of_network(instances, [1, -1])
    assert found.objects == {1: Object(1, PROPOSAL), 2: Object(1, PROPOSAL)}
    np.testing.assert_array_equal(found.labels > 0, instances.labels > 0)
    assert not proposals.of_network(instances, [-1, 0]).objects


def test_objects_move_with_the_picture_and_keep_number_and_class() -> None:
    """The last disc, which the network does not see, follows the flow; the others get its masks."""
    numbers = np.array([0, 40, 41, 42], np.uint16)
    made = {40: Object(1, CLICK), 41: Object(0, CLICK), 42: Object(1, GIVEN)}
    before = Drawing(numbers[disc_labels(0)], made)
    instances = DiscNetwork().seen(3).instances
    found = proposals.moved(before, picture(0), picture(3), instances, [0, 0])
    assert {i: one.class_id for i, one in found.objects.items()} == {40: 1, 41: 0, 42: 1}
    assert {one.made_by for one in found.objects.values()} == {PROPOSAL}
    truth = disc_labels(3)
    for number in (1, 2):
        np.testing.assert_array_equal(found.labels == 39 + number, truth == number)
    assert iou(found.labels == 42, truth == len(DISCS)) > 0.85
    alone = proposals.moved(before, picture(0), picture(3), None, [])
    assert all(iou(alone.labels == 39 + n, truth == n) > 0.8 for n in (1, 2, 3))
    assert found.new_id() == 43


def test_in_another_picture_nothing_follows() -> None:
    before = Drawing(disc_labels(0), {n: Object(0, CLICK) for n in (1, 2, 3)})
    other = np.full_like(picture(), 255)
    assert not proposals.moved(before, picture(0), other, None, []).objects


def test_what_is_there_stays_when_proposals_are_added() -> None:
    labels = np.where(disc_labels() == 1, np.uint16(9), np.uint16(0))
    here = Drawing(labels, {9: Object(1, CLICK)})
    found = proposals.added(here, DiscNetwork().seen(0).instances, [0, 0])
    assert found.objects == {9: Object(1, CLICK), 10: Object(0, PROPOSAL)}
    np.testing.assert_array_equal(found.labels == 9, labels == 9)
