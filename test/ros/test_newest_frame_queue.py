"""The newest-frame policy: of one source, and of several. No ROS needed."""

import threading
import time
from collections.abc import Callable, Iterable

import pytest

from instaseg_ros.ros.batching import Slots
from instaseg_ros.ros.newest_frame_queue import NewestFrameQueue

CAMERA = "camera"


class Gate:
    """Work that waits for permission, so that a test decides what is in work and what waits."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.allowed = threading.Semaphore(0)
        self.done: list[int] = []
        self.drops: list[int] = []

    def work(self, batch: list[int]) -> Iterable[Callable[[], None]]:
        self.begun.release()
        assert self.allowed.acquire(timeout=30)
        self.done += batch
        return ()

    def drop(self, item: int) -> None:
        self.drops.append(item)


@pytest.fixture
def gate():
    return Gate()


@pytest.fixture
def worker(gate):
    worker = NewestFrameQueue(gate.work, gate.drop)
    yield worker
    for _ in range(10):
        gate.allowed.release()
    assert worker.close(30)


def test_only_the_newest_waiting_item_is_worked_on(gate, worker):
    worker.offer(CAMERA, 0)
    assert gate.begun.acquire(timeout=30)  # 0 is in work
    for item in (1, 2, 3):
        worker.offer(CAMERA, item)
    gate.allowed.release()
    assert gate.begun.acquire(timeout=30)  # 3 is in work
    gate.allowed.release()
    assert worker.close(30)
    assert gate.done == [0, 3]
    assert gate.drops == [1, 2]


def test_close_finishes_what_is_in_work_and_drops_what_waits(gate, worker):
    worker.offer(CAMERA, 0)
    assert gate.begun.acquire(timeout=30)
    worker.offer(CAMERA, 1)
    assert not worker.close(0.01)  # 0 takes longer
    gate.allowed.release()
    assert worker.close(30)
    assert gate.done == [0]
    assert gate.drops == [1]


class TwoHalves(Gate):
    """The second half of the work waits for permission of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.finishing = threading.Semaphore(0)
        self.may_finish = threading.Semaphore(0)
        self.finished: list[int] = []

    def work(self, batch: list[int]) -> Iterable[Callable[[], None]]:
        super().work(batch)

        def finish() -> None:
            self.finishing.release()
            assert self.may_finish.acquire(timeout=30)
            self.finished.extend(batch)

        return [finish]


def test_the_next_item_is_begun_while_the_rest_of_the_last_is_done():
    halves = TwoHalves()
    worker = NewestFrameQueue(halves.work, halves.drop)
    for _ in range(9):
        halves.allowed.release()
    worker.offer(CAMERA, 0)
    assert halves.finishing.acquire(timeout=30)  # the rest of 0 is in work
    worker.offer(CAMERA, 1)
    for _ in range(2):
        assert halves.begun.acquire(timeout=30)  # so is 1
    worker.offer(CAMERA, 2)  # waits, since the rest of 1 must wait for that of 0
    worker.offer(CAMERA, 3)
    assert not worker.close(0.01)
    assert halves.finished == []
    for _ in range(9):
        halves.may_finish.release()
    assert worker.close(30)
    assert halves.done == halves.finished == [0, 1]
    assert halves.drops == [2, 3]


def test_items_without_a_rest_do_not_hold_up_those_with_one():
    ended = threading.Semaphore(0)
    worker = NewestFrameQueue[int](
        lambda batch: [ended.release] if batch == [1] else [], lambda item: None
    )
    for item in (0, 1, 0, 1):
        worker.offer(CAMERA, item)
        if item:
            assert ended.acquire(timeout=30)
    assert worker.close(30)


def test_close_without_work(worker):
    assert worker.close(30)


def test_each_source_has_its_newest_item_worked_on_in_the_order_of_waiting(gate):
    queue = NewestFrameQueue(gate.work, gate.drop, Slots(largest=2))
    queue.offer("a", 10)
    assert gate.begun.acquire(timeout=30)  # 10 is in work
    for source, item in (("b", 20), ("c", 30), ("a", 11), ("b", 21), ("c", 31), ("b", 22)):
        queue.offer(source, item)
    for _ in range(9):
        gate.allowed.release()
    for _ in range(2):
        assert gate.begun.acquire(timeout=30)
    assert queue.close(30)
    assert gate.done == [10, 22, 31, 11]
    assert gate.drops == [20, 30, 21]


def test_what_is_offered_after_the_end_is_dropped(gate, worker):
    assert worker.close(30)
    worker.offer(CAMERA, 1)
    assert gate.drops == [1]


def test_each_thread_begins_as_it_is_told():
    begun, worked = [], []

    def work(batch: list[int]) -> Iterable[Callable[[], None]]:
        worked.append(threading.current_thread().name)
        yield lambda: worked.append(threading.current_thread().name)

    def begin() -> None:
        begun.append(threading.current_thread().name)

    worker = NewestFrameQueue(work, worked.remove, begin=begin)
    worker.offer(CAMERA, 1)
    while len(worked) < 2:
        time.sleep(0.001)
    assert worker.close(30)
    assert sorted(begun) == sorted(worked) == ["labelling", "publishing"]
