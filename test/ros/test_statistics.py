"""Counts, rates, losses and percentiles. No ROS needed."""

import numpy as np
import pytest

from instaseg_ros.ros.losses import LossCounter
from instaseg_ros.ros.statistics import WINDOW_FRAMES, WINDOW_S, Counts, Statistics
from instaseg_ros.ros.trend import Trend, TrendKeeper


def test_counts():
    statistics = Statistics(0.0)
    for i in range(6):
        statistics.received(i * 0.1, 10 * i)
    statistics.lost(0.3, 2)
    statistics.dropped(0.5)
    statistics.refused("no such encoding")
    statistics.failed("out of memory")
    statistics.labelled(0.7, {"total": 5.0}, (192, 320))
    snapshot = statistics.snapshot(0.8)
    assert snapshot.counts == Counts(received=6, labelled=1, dropped=1, lost=2, refused=1, failed=1)
    assert snapshot.image_size == (192, 320)
    assert snapshot.image_bytes == 50
    assert snapshot.loss == 2 / 8
    assert snapshot.recently_dropped == 1
    assert snapshot.active_s == 0.8
    assert snapshot.image_age_s == pytest.approx(0.3)
    assert snapshot.label_age_s == pytest.approx(0.1)
    later = statistics.snapshot(0.8 + WINDOW_S)
    assert (later.loss, later.recently_dropped) == (0, 0)


def test_millions_of_lost_images_are_one_entry():
    statistics = Statistics(0.0)
    statistics.received(0.0, 8)
    statistics.lost(0.1, 10**12)
    assert statistics.snapshot(0.2).counts.lost == 10**12
    assert statistics.snapshot(0.2).loss == pytest.approx(1.0)


@pytest.mark.parametrize("done", ["labelled", "refused", "failed"])
def test_how_long_images_come_and_nothing_comes_of_them(done):
    statistics = Statistics(0.0)
    assert statistics.snapshot(60.0).unlabelled_s == 0  # no camera, no work
    for k in range(151):
        statistics.received(60 + 0.1 * k, 8)
    assert statistics.snapshot(75.0).unlabelled_s == pytest.approx(15.0)
    if done == "labelled":
        statistics.labelled(75.0, {}, (8, 8))
    else:
        getattr(statistics, done)("why")
    assert statistics.snapshot(90.0).unlabelled_s == 0
    statistics.received(90.0, 8)  # after a rest of the camera
    assert statistics.snapshot(90.2).unlabelled_s == pytest.approx(0.2)


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
        statistics.received(i * 0.1, 8)
    assert statistics.snapshot(9.95).rate_in_hz == pytest.approx(10.0)
    for i in range(50):  # then 25 s at 2 Hz
        statistics.received(10 + i * 0.5, 8)
    assert statistics.snapshot(34.6).rate_in_hz == pytest.approx(2.0)
    assert statistics.snapshot(60.0).rate_in_hz == 0.0
    assert statistics.snapshot(60.0).image_age_s == pytest.approx(25.5)


def test_the_rate_of_labels_counts_from_the_first_image():
    statistics = Statistics(0.0)
    assert statistics.snapshot(60.0).labelling_s == 60.0
    for i in range(30):
        statistics.received(60 + i * 0.1, 8)
        statistics.labelled(60 + i * 0.1, {}, (8, 8))
    snapshot = statistics.snapshot(63.0)
    assert snapshot.labelling_s == pytest.approx(3.0)
    assert snapshot.rate_out_hz == pytest.approx(10.0)


def test_images_that_come_in_one_moment_are_no_rate_of_hundreds():
    statistics = Statistics(0.0)
    for moment_s in (0.100, 0.101, 20.000, 20.001):
        statistics.received(moment_s, 8)
        statistics.labelled(moment_s, {}, (8, 8))
        snapshot = statistics.snapshot(moment_s + 0.001)
        assert snapshot.rate_in_hz == snapshot.rate_out_hz <= 2
    assert snapshot.rate_in_hz == pytest.approx(2 / WINDOW_S)


A, B = b"a", b"b"


def test_with_the_senders_identity_each_has_numbers_of_its_own():
    losses = LossCounter()
    losses.settle({A})
    came = [(300_000, A), (300_001, A), (1, B), (300_004, A), (2, B), (5, B), (300_005, A)]
    assert [losses.arrived(number, sender) for number, sender in came] == [0, 0, 0, 2, 0, 2, 0]
    assert losses.settle({A, B}) == 0
    assert losses.arrived(300_007, A) == 1
    losses.settle({B})  # A is gone; who comes again begins anew
    assert losses.arrived(400_000, A) == 0
    assert losses.arrived(6, B) == 0


def test_without_it_losses_count_once_one_sender_is_certain():
    losses = LossCounter()
    assert losses.settle(set()) == 0

    def arrive(*numbers: int) -> None:
        assert all(losses.arrived(number, None) == 0 for number in numbers)

    arrive(7, 9)  # the graph does not know yet who it is
    assert losses.settle({A}) == 0
    arrive(20, 21, 24, 25)
    assert losses.settle({A}) == 2
    arrive(28)
    assert losses.settle({A}) == 2
    arrive(300_000, 300_001)  # a second one begins, before the graph knows it
    assert losses.settle({A, B}) == 0
    arrive(29, 300_005, 30)
    assert losses.settle({A, B}) == 0
    arrive(31, 300_006)  # the second one's last comes before the graph knows that it went
    assert losses.settle({A}) == 0
    arrive(32, 34)
    assert losses.settle({A}) == 1


@pytest.mark.parametrize("other", [(1, 2), (300_000, 300_001)])
def test_a_sender_that_comes_and_goes_unseen_is_noticed_by_its_numbers(other):
    losses = LossCounter()
    for _ in range(2):
        losses.settle({A})
    for number in (1000, *other, 1001, 1002):
        losses.arrived(number, None)
    assert losses.settle({A}) == 0
    losses.arrived(1003, None)
    losses.arrived(1005, None)
    assert losses.settle({A}) == 1


def test_a_new_subscription_begins_anew():
    losses = LossCounter()
    for _ in range(2):
        losses.settle({A})
    losses.arrived(10, None)
    losses.arrived(10, A)
    losses.restart()
    assert losses.arrived(500, A) == 0
    assert losses.arrived(500, None) == 0
    assert losses.settle({A}) == 0


def test_percentiles_are_over_the_newest_frames():
    statistics = Statistics(0.0)
    rng = np.random.default_rng(0)
    latencies = rng.uniform(1, 100, WINDOW_FRAMES + 50)
    for i, milliseconds in enumerate(latencies):
        statistics.labelled(float(i), {"network": milliseconds}, (8, 8))
    expected = np.percentile(latencies[50:], [50, 99])
    assert statistics.snapshot(400.0).latency_ms["network"] == pytest.approx(expected)


def test_stages_of_the_latest_labels():
    statistics = Statistics(0.0)
    for i in range(100):
        late = i % 20 == 0  # five of a hundred
        stage_ms = {"network": 50.0, "wait": 70.0 if late else 1.0, "total": 121 if late else 52.0}
        statistics.labelled(float(i), stage_ms, (8, 8))
    assert statistics.snapshot(100.0).slowest_ms == {"network": 50.0, "wait": 70.0, "total": 121.0}
    # An image that was late already when it came, labelled as fast as the others.
    early = {"network": 50.0, "total": 52.0, "since stamp": 400.0}
    for i in range(5):
        statistics.labelled(100.0 + i, early, (8, 8))
    assert statistics.snapshot(110.0).slowest_ms == early


def test_images_ignored_while_disabled_are_no_work_to_be_done():
    statistics = Statistics(0.0)
    statistics.failed("out of memory")
    for i in range(100):
        statistics.received(i * 0.1, 8)
        if i < 50:
            statistics.labelled(i * 0.1, {"total": 5.0}, (8, 8), (4, 4))
        else:
            statistics.ignored(i * 0.1)
    snapshot = statistics.snapshot(9.95)
    assert snapshot.counts == Counts(received=100, labelled=50, ignored=50, failed=1)
    assert snapshot.unlabelled_s == snapshot.rate_out_hz == 0
    assert snapshot.rate_in_hz == pytest.approx(10.0)
    assert (snapshot.trouble, snapshot.network_size) == ("", (4, 4))
    for i in range(100, 120):
        statistics.received(i * 0.1, 8)
        statistics.labelled(i * 0.1, {"total": 5.0}, (8, 8))
    snapshot = statistics.snapshot(11.9)
    assert snapshot.labelling_s == pytest.approx(2.0)
    assert snapshot.rate_out_hz == pytest.approx(10.0)  # not those of five seconds


def minutes(trend: TrendKeeper, *totals_ms: float, start: int = 0) -> float:
    """Ten images in each minute; returns a moment in the minute after the last."""
    for minute, total in enumerate(totals_ms, start):
        for i in range(10):
            trend.add(60 * minute + 6 * i, {"total": total + (i == 3) * 1000, "network": 1.0})
    return 60 * (start + len(totals_ms)) + 1.0


def test_trend_is_of_medians_ten_minutes_apart():
    trend = TrendKeeper()
    now_s = minutes(trend, 50.0)
    assert trend.look(now_s) is None
    now_s = minutes(trend, 60.0, start=1)
    assert trend.look(now_s) == Trend(1, {"total": 50, "network": 1}, {"total": 60, "network": 1})
    now_s = minutes(trend, *range(61, 85), start=2)
    found = trend.look(now_s)
    assert (found.minutes, found.before_ms["total"], found.now_ms["total"]) == (10, 74, 84)
    assert found.change("total") == pytest.approx(10 / 74)
    assert found.change("network") == found.change("unknown") == 0
    assert len(trend._minutes) <= 11


def test_trend_does_not_compare_with_a_time_long_past():
    trend = TrendKeeper()
    minutes(trend, 50.0, 50.0)
    assert trend.look(600.0) is None  # no images for minutes
    now_s = minutes(trend, 70.0, start=30)
    assert trend.look(now_s) is None
    now_s = minutes(trend, 80.0, start=31)
    assert trend.look(now_s).minutes == 1
