"""Which waiting items are worked on next, and when. No ROS, no clock: time is a number."""

import math

import pytest

from instaseg_ros.ros.batching import SOON, Slots, batch_sizes, batches

PERIOD = 0.1


def in_rhythm(*sources: str, largest: int = 3, wait_s: float | None = None) -> Slots[str]:
    """Slots that know each source's period: the last item came at 0 and was taken."""
    slots = Slots[str](largest, wait_s)
    for n in range(-5, 1):
        for source in sources:
            slots.offer(source, source, n * PERIOD)
    while slots.take():
        pass
    return slots


def test_the_newest_item_wins_and_its_source_keeps_its_place():
    slots = Slots[str]()
    assert slots.offer("a", "a1", 0.0) is None
    assert slots.offer("b", "b1", 0.1) is None
    assert slots.offer("a", "a2", 0.2) == "a1"
    assert slots.take() == ["a2"]
    assert slots.offer("a", "a3", 0.3) is None
    assert slots.take() == ["b1"]
    assert slots.take() == ["a3"]
    assert slots.take() == []


def test_under_overload_every_source_gets_its_share_whatever_its_rate():
    """Eight sources, one of them four times as fast, and time for two items per period."""
    slots = Slots[str]()
    served = dict.fromkeys("abcdefgh", 0)
    dropped = dict.fromkeys("abcdefgh", 0)
    offered = dict.fromkeys("abcdefgh", 0)
    for tick in range(800):  # a quarter of a period each
        for n, source in enumerate(served):
            if source == "a" or tick % 4 == n % 4:
                offered[source] += 1
                if (before := slots.offer(source, source, tick * PERIOD / 4)) is not None:
                    dropped[before] += 1
        if tick % 2:
            for source in slots.take():
                served[source] += 1
    assert max(served.values()) - min(served.values()) <= 2
    assert sum(served.values()) == 400
    for source in slots.clear():
        dropped[source] += 1
    assert all(offered[s] == served[s] + dropped[s] for s in served)


def test_nothing_waiting_is_ready_never_and_one_at_a_time_at_once():
    slots = Slots[str]()
    assert slots.ready_in_s(0.0) == math.inf
    slots.offer("a", "a1", 0.0)
    assert slots.ready_in_s(0.0) == 0


def test_a_batch_waits_for_those_who_are_due():
    slots = in_rhythm("a", "b", "c", wait_s=0.03)
    slots.offer("a", "a", PERIOD)
    assert slots.ready_in_s(PERIOD) == pytest.approx(0.03)
    slots.offer("b", "b", PERIOD + 0.01)
    assert slots.ready_in_s(PERIOD + 0.01) == pytest.approx(0.02)
    slots.offer("c", "c", PERIOD + 0.02)
    assert slots.ready_in_s(PERIOD + 0.02) == 0  # the batch is full
    assert slots.take() == ["a", "b", "c"]


def test_a_newer_item_of_the_same_source_does_not_prolong_the_wait():
    slots = in_rhythm("a", "b", wait_s=0.03)
    slots.offer("a", "a", PERIOD)
    slots.offer("a", "a", PERIOD + 0.02)
    assert slots.ready_in_s(PERIOD + 0.02) == pytest.approx(0.01)


def test_nobody_waits_for_a_source_that_is_not_due():
    slots = in_rhythm("a", "b", wait_s=0.03)
    slots.offer("a", "a", PERIOD / 2)  # b comes in half a period
    assert slots.ready_in_s(PERIOD / 2) == 0


def test_a_missing_source_holds_up_the_others_for_one_round_at_most():
    slots = in_rhythm("a", "b", wait_s=10.0)
    slots.offer("a", "a", PERIOD)
    assert slots.ready_in_s(PERIOD) == pytest.approx(PERIOD / 2)
    assert slots.ready_in_s(1.5 * PERIOD) == pytest.approx(0)
    assert slots.take() == ["a"]
    for n in range(2, 9):
        slots.offer("a", "a", n * PERIOD)
        assert slots.ready_in_s(n * PERIOD) == 0
        assert slots.take() == ["a"]
    slots.offer("b", "b", 9 * PERIOD)  # it is back
    assert slots.take() == ["b"]


def test_nobody_waits_for_a_source_that_never_sent_or_once():
    slots = in_rhythm("a", wait_s=10.0)
    slots.offer("b", "b", 0.0)
    assert slots.take() == ["b"]
    slots.offer("a", "a", PERIOD)
    assert slots.ready_in_s(PERIOD) == 0


@pytest.mark.parametrize(
    ("took_s", "waits_s"),
    [(0.0, 0.0), (0.02, SOON * 0.02), (9.0, PERIOD)],
    ids=["fast", "as the network takes", "a period at most"],
)
def test_the_automatic_wait_depends_on_the_network(took_s, waits_s):
    slots = in_rhythm("a", "b")
    slots.took(took_s)
    slots.offer("a", "a", PERIOD - 0.001)
    expected = min(waits_s, 0.001 + PERIOD / 2)  # when b is missed
    if took_s * SOON < 0.001:
        expected = 0.0
    assert slots.ready_in_s(PERIOD - 0.001) == pytest.approx(expected)


def test_a_rhythm_outlives_a_pause_and_a_burst():
    slots = in_rhythm("a", "b", wait_s=0.03)
    slots.offer("b", "b", 60.0)  # one interval of a minute among five
    assert slots.take() == ["b"]
    slots.offer("a", "a", 60.0 + PERIOD)
    assert slots.ready_in_s(60.0 + PERIOD) == pytest.approx(0.03)


@pytest.mark.parametrize(
    ("largest", "count", "sizes"),
    [
        (1, 3, [1, 1, 1]),
        (2, 3, [2, 1]),
        (3, 3, [3]),
        (4, 3, [2, 1]),
        (4, 8, [4, 4]),
        (8, 7, [4, 2, 1]),
        (8, 8, [8]),
        (8, 0, []),
    ],
)
def test_batches_come_in_few_sizes(largest, count, sizes):
    made = batches(list(range(count)), largest)
    assert [len(batch) for batch in made] == sizes
    assert [item for batch in made for item in batch] == list(range(count))
    assert set(sizes) <= set(batch_sizes(largest))
    assert len(batch_sizes(largest)) <= 4
