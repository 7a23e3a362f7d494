"""The simulated annotator: what it counts on objects whose answer is known."""

from __future__ import annotations

import numpy as np
from label_sessions import SIZE, disc_labels, disc_seeds

from instaseg_ros.benchmarks.clicks import (
    MOST_CLICKS,
    STARTS,
    TARGETS,
    clicks_to,
    corners_to,
    middle,
)


def test_one_click_is_enough_where_the_network_is_right() -> None:
    seeds, empty = disc_seeds(), np.zeros(SIZE, bool)
    for number in (1, 2, 3):
        truth = disc_labels() == number
        assert clicks_to(seeds, truth, empty, STARTS[0]) == dict.fromkeys(TARGETS, 1)
        assert clicks_to(seeds, truth, truth, STARTS[0]) == dict.fromkeys(TARGETS, 0)


def test_two_discs_that_are_one_object_need_two_clicks() -> None:
    seeds, empty = disc_seeds(), np.zeros(SIZE, bool)
    both = np.isin(disc_labels(), (1, 2))
    assert clicks_to(seeds, both, empty, STARTS[0]) == dict.fromkeys(TARGETS, 2)
    # Taken for one object, and they are two.
    assert clicks_to(seeds, disc_labels() == 1, both, STARTS[0]) == dict.fromkeys(TARGETS, 1)


def test_what_no_click_reaches_counts_as_the_most() -> None:
    seeds = disc_seeds()
    half = disc_labels() == 1
    half[:24] = False
    found = clicks_to(seeds, half, np.zeros(SIZE, bool), STARTS[0])
    assert found == dict.fromkeys(TARGETS, MOST_CLICKS)
    with_brush = clicks_to(seeds, half, np.zeros(SIZE, bool), STARTS[2])
    assert 1 <= with_brush[0.85] <= with_brush[0.9] < MOST_CLICKS


def test_a_rectangle_has_four_corners() -> None:
    truth = np.zeros(SIZE, bool)
    truth[10:30, 10:60] = True
    assert corners_to(truth) == dict.fromkeys(TARGETS, 4)
    x, y, distance = middle(truth)
    assert 18 <= y <= 21 and 18 <= x <= 51 and distance > 8
