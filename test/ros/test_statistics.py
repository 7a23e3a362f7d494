"""Counts, rates and percentiles. No ROS needed."""

import numpy as np
import pytest

from instaseg_ros.ros.statistics import WINDOW_FRAMES, Counts, Statistics


def test_counts():
    statistics = Statistics(0.0)
    for i in range(6):
        statistics.received(i * 0.1, lost=2 if i == 3 else 0)
    statistics.dropped()
    statistics.refused("no such encoding")
    statistics.failed("out of memory")
    statistics.labelled(0.7, {"total": 5.0}, (192, 320))
    snapshot = statistics.snapshot(0.8)
    assert snapshot.counts == Counts(received=6, labelled=1, dropped=1, lost=2, refused=1, failed=1)
    assert snapshot.image_size == (192, 320)
    assert snapshot.loss == 2 / 8
    assert snapshot.active_s == 0.8
    assert snapshot.image_age_s == pytest.approx(0.3)


def test_trouble_ends_with_the_next_labelled_image_but_is_remembered():
    statistics = Statistics(0.0)
    statistics.refused("first")
    statistics.refused("second")
    assert statistics.snapshot(1.0).trouble == "second"
    statistics.labelled(1.0, {}, (8, 8))
    snapshot = statistics.snapshot(2.0)
    assert snapshot.trouble == ""
    assert snapshot.last_trouble == "second"


def test_rates_are_those_of_the_last_seconds():
    statistics = Statistics(0.0)
    for i in range(100):  # 10 s at 10 Hz
        statistics.received(i * 0.1)
    for i in range(50):  # then 5 s at 2 Hz
        statistics.received(10 + i * 0.5)
    assert statistics.snapshot(34.6).rate_in_hz == pytest.approx(2.0)
    assert statistics.snapshot(60.0).rate_in_hz == 0.0
    assert statistics.snapshot(60.0).image_age_s == pytest.approx(25.5)


def test_percentiles_are_over_the_newest_frames():
    statistics = Statistics(0.0)
    rng = np.random.default_rng(0)
    latencies = rng.uniform(1, 100, WINDOW_FRAMES + 50)
    for i, milliseconds in enumerate(latencies):
        statistics.labelled(float(i), {"network": milliseconds}, (8, 8))
    expected = np.percentile(latencies[50:], [50, 99])
    assert statistics.snapshot(400.0).latency_ms["network"] == pytest.approx(expected)
