"""Which images are labelled when more come than can be. No ROS needed."""

from __future__ import annotations

import numpy as np
import pytest

from instaseg_ros.ros.keep_up import EvenPicker


class Node:
    """A node that is busy with each taken image for a time, and cameras with a rate and jitter."""

    def __init__(self) -> None:
        self.picker = EvenPicker()
        self.now_s = 100.0
        self._random = np.random.default_rng(0)

    def run(self, seconds: float, busy_s: float, *rates_hz: float, jitter: float = 0.0):
        """For each camera, the stamps of the images that were taken."""
        arrivals = sorted(
            (self.now_s + (k + jitter * self._random.uniform()) / rate_hz, camera)
            for camera, rate_hz in enumerate(rates_hz)
            for k in range(round(seconds * rate_hz))
        )
        taken: list[list[float]] = [[] for _ in rates_hz]
        for stamp_s, camera in arrivals:
            if self.picker.takes(camera, stamp_s):
                self.picker.took(busy_s * self._random.uniform(0.97, 1.03))
                taken[camera].append(stamp_s)
        self.now_s += seconds
        return taken


def test_every_image_is_taken_while_there_is_time():
    node = Node()
    (taken,) = node.run(20, 0.030, 30.0)
    assert len(taken) == 600
    assert node.picker.describe() == "every image: one takes 31 ms, 30.0 come in a second"


@pytest.mark.parametrize(("busy_s", "every"), [(0.05, 2), (0.09, 3), (0.2, 7)])
def test_a_slow_node_takes_every_nth(busy_s, every):
    node = Node()
    node.run(5, busy_s, 30.0)
    (taken,) = node.run(20, busy_s, 30.0)
    assert np.diff(taken) == pytest.approx(np.full(len(taken) - 1, every / 30.0))
    assert busy_s * len(taken) < 20  # it has the time
    assert f"one image of {every}: " in node.picker.describe()


def test_it_follows_the_time_that_an_image_takes():
    node = Node()
    for busy_s, every in ((0.05, 2), (0.09, 3), (0.02, 1), (0.05, 2)):
        node.run(20, busy_s, 30.0)
        assert node.picker.every == every


def test_it_does_not_waver_at_the_limit():
    node = Node()
    used = []
    for _ in range(60):
        node.run(1, 0.0317, 30.0, jitter=0.3)  # 95 % of the time
        used.append(node.picker.every)
    assert np.count_nonzero(np.diff(used[5:])) <= 1


def test_cameras_share_the_node_and_keep_their_common_moments():
    node = Node()
    node.run(5, 0.05, 10.0, 10.0, 10.0)
    first, second, third = node.run(20, 0.05, 10.0, 10.0, 10.0)
    assert node.picker.every == 2
    assert first == second == third
    node.run(5, 0.05, 10.0)  # the other two have ended
    assert node.picker.every == 1


def test_cameras_of_different_rates_lose_the_same_share():
    node = Node()
    node.run(5, 0.04, 30.0, 10.0)
    fast, slow = node.run(20, 0.04, 30.0, 10.0)
    assert node.picker.every == 2
    assert (len(fast), len(slow)) == (300, 100)
