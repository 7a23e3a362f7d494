"""Which depth image belongs to which result. No ROS needed."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

import pytest

from instaseg_ros.ros.depth_pairing import EXPECTED, RECENT, DepthPairing, Nearest

PATIENCE_S = 30.0
LONG_S = 60.0  # never waited for


class Pairing:
    """A pairing of names with names, and what came out of it."""

    def __init__(self) -> None:
        self.done: queue.Queue[tuple[str, Nearest[str] | None]] = queue.Queue()
        self.given_up: queue.Queue[str] = queue.Queue()
        self.free = threading.Event()
        self.free.set()
        self.pairing = DepthPairing[str, str](self.work, self.given_up.put)

    def work(self, result: str, nearest: Nearest[str] | None) -> None:
        self.done.put((result, nearest))
        assert self.free.wait(PATIENCE_S)

    def next(self) -> tuple[str, Nearest[str] | None]:
        return self.done.get(timeout=PATIENCE_S)


@pytest.fixture
def made() -> Iterator[Pairing]:
    made = Pairing()
    yield made
    made.free.set()
    assert made.pairing.close(PATIENCE_S)


def test_depth_of_the_exact_stamp_is_taken_at_once(made: Pairing):
    for stamp in (100, 200, 300):
        made.pairing.offer_depth(stamp, f"depth {stamp}")
    made.pairing.offer_result(200, "result", LONG_S)
    assert made.next() == ("result", Nearest("depth 200", 0))


def test_depth_is_kept_while_its_image_is_in_work(made: Pairing):
    made.pairing.expect(1000)
    made.pairing.offer_depth(1001, "its depth")
    for later in range(10 * RECENT):
        made.pairing.offer_depth(2000 + later, "later")
    made.pairing.offer_result(1000, "result", LONG_S)
    assert made.next() == ("result", Nearest("its depth", 1))


def test_depth_that_came_before_its_image_is_kept_too(made: Pairing):
    made.pairing.offer_depth(1000, "its depth")
    made.pairing.expect(1000)
    for later in range(10 * RECENT):
        made.pairing.offer_depth(2000 + later, "later")
    made.pairing.offer_result(1000, "result", LONG_S)
    assert made.next() == ("result", Nearest("its depth", 0))


def test_the_nearest_is_decided_by_the_first_depth_after_the_image(made: Pairing):
    made.pairing.offer_depth(90, "before")
    made.pairing.offer_result(100, "result", LONG_S)
    with pytest.raises(queue.Empty):
        made.done.get(timeout=0.1)
    made.pairing.offer_depth(104, "after")
    assert made.next() == ("result", Nearest("after", 4))
    made.pairing.offer_result(95, "earlier", LONG_S)
    assert made.next() == ("earlier", Nearest("before", -5))


def test_the_wait_ends(made: Pairing):
    made.pairing.offer_result(100, "nothing came", 0.01)
    assert made.next() == ("nothing came", None)
    made.pairing.offer_depth(90, "before")
    made.pairing.offer_result(100, "nothing nearer came", 0.01)
    assert made.next() == ("nothing nearer came", Nearest("before", -10))


def test_the_next_result_ends_the_wait_of_the_one_before(made: Pairing):
    made.pairing.offer_result(100, "first", LONG_S)
    made.pairing.offer_result(200, "second", LONG_S)
    assert made.next() == ("first", None)
    made.pairing.offer_depth(200, "depth")
    assert made.next() == ("second", Nearest("depth", 0))
    assert made.given_up.empty()


def test_while_the_work_takes_too_long_the_oldest_results_are_given_up(made: Pairing):
    made.free.clear()
    made.pairing.offer_depth(0, "depth")
    made.pairing.offer_result(0, "in work", LONG_S)
    assert made.next()[0] == "in work"
    for number in range(4):
        made.pairing.offer_result(0, str(number), 0.0)
    assert [made.given_up.get(timeout=PATIENCE_S) for _ in range(2)] == ["0", "1"]
    made.free.set()
    assert [made.next()[0] for _ in range(2)] == ["2", "3"]


def test_images_without_an_end_hold_no_memory(made: Pairing):
    for stamp in range(1000):
        made.pairing.expect(stamp)
        made.pairing.offer_depth(stamp, str(stamp))
    assert len(made.pairing._expected) == EXPECTED
    assert len(made.pairing._recent) == RECENT
    for stamp in range(1000):
        made.pairing.forget(stamp)
    assert not made.pairing._expected


def test_close_ends_a_wait_and_later_offers_do_nothing():
    made = Pairing()
    made.pairing.offer_result(100, "result", LONG_S)
    start = time.monotonic()
    assert made.pairing.close(PATIENCE_S)
    assert time.monotonic() - start < PATIENCE_S
    made.pairing.offer_depth(100, "depth")
    made.pairing.offer_result(100, "result", 0)
    assert made.done.empty() and made.given_up.empty()
