"""Places of objects on the synthetic street, whose true depth is known."""

from __future__ import annotations

import numpy as np
import pytest

from instaseg_ros.evaluation.location import compare, stereo_depth, table
from instaseg_ros.frames import Instances
from instaseg_ros.synthetic_street import SyntheticStreet

SIZE = (256, 512)


@pytest.fixture(scope="module")
def street() -> SyntheticStreet:
    return SyntheticStreet(SIZE, split="val", sequences=4, frames_per_sequence=1)


def true_instances(sample) -> Instances:
    count = len(sample.ids)
    zeros = np.zeros((count, 4), np.float32)
    return Instances(
        sample.labels, sample.ids, sample.class_ids, zeros[:, 0], zeros, zeros[:, :2], zeros[:, :2]
    )


@pytest.mark.parametrize("kind", ["exact", "stereo"])
def test_median_error_of_the_centroid_is_at_most_two_percent_to_30_m(street, kind):
    rng = np.random.default_rng(0)
    found = []
    for index in range(len(street)):
        sample = street[index]
        depth = sample.frame.depth
        if kind == "stereo":
            depth = stereo_depth(depth, 2 * sample.frame.intrinsics[0, 0], rng)
        found += compare(sample, true_instances(sample), depth, street.middles(index))
    near = [one for one in found if one.distance < 30]
    assert len(near) > 20
    assert np.median([one.error / one.distance for one in near]) < 0.02
    assert "0 to 30" in table(found)


def test_middles_are_inside_or_behind_what_is_seen(street):
    sample = street[0]
    middles = street.middles(0)
    for one in compare(sample, true_instances(sample), sample.frame.depth, middles):
        assert one.behind < 8  # half of the longest bus, and its width
    for label in sample.ids.tolist():
        x, y, z = middles[label]
        k = sample.frame.intrinsics
        column, row = k[0, 0] * x / z + k[0, 2], k[1, 1] * y / z + k[1, 2]
        ys, xs = np.nonzero(sample.labels == label)
        if xs.min() > 0 and xs.max() < SIZE[1] - 1 and len(xs) > 200:
            reach = max(np.ptp(xs), np.ptp(ys)) + 8
            assert abs(column - xs.mean()) < reach and abs(row - ys.mean()) < reach


def test_stereo_depth_is_blind_in_places_and_right_on_average():
    depth = np.full(SIZE, 10, np.float32)
    depth[:50] = 0
    measured = stereo_depth(depth, 635, np.random.default_rng(0))
    assert not measured[:45].any()
    assert (measured[60:] == 0).mean() == pytest.approx(0.1, abs=0.04)
    seen = measured[60:][measured[60:] > 0]
    assert np.median(seen) == pytest.approx(10, rel=0.01)
    assert 0.01 < seen.std() / 10 < 0.05
