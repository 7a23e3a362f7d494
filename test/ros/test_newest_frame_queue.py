"""The newest-frame policy. No ROS needed."""

import threading

import pytest

from instaseg_ros.ros.newest_frame_queue import NewestFrameQueue


class Gate:
    """Work that waits for permission, so that a test decides what is in work and what waits."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.allowed = threading.Semaphore(0)
        self.done: list[int] = []
        self.drops = 0

    def work(self, item: int) -> None:
        self.begun.release()
        assert self.allowed.acquire(timeout=30)
        self.done.append(item)

    def drop(self) -> None:
        self.drops += 1


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
    worker.offer(0)
    assert gate.begun.acquire(timeout=30)  # 0 is in work
    for item in (1, 2, 3):
        worker.offer(item)
    gate.allowed.release()
    assert gate.begun.acquire(timeout=30)  # 3 is in work
    gate.allowed.release()
    assert worker.close(30)
    assert gate.done == [0, 3]
    assert gate.drops == 2


def test_close_finishes_what_is_in_work_and_drops_what_waits(gate, worker):
    worker.offer(0)
    assert gate.begun.acquire(timeout=30)
    worker.offer(1)
    assert not worker.close(0.01)  # 0 takes longer
    gate.allowed.release()
    assert worker.close(30)
    assert gate.done == [0]
    assert gate.drops == 1


class TwoHalves(Gate):
    """The second half of the work waits for permission of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.finishing = threading.Semaphore(0)
        self.may_finish = threading.Semaphore(0)
        self.finished: list[int] = []

    def work(self, item: int):
        super().work(item)

        def finish() -> None:
            self.finishing.release()
            assert self.may_finish.acquire(timeout=30)
            self.finished.append(item)

        return finish


def test_the_next_item_is_begun_while_the_rest_of_the_last_is_done():
    halves = TwoHalves()
    worker = NewestFrameQueue(halves.work, halves.drop)
    for _ in range(9):
        halves.allowed.release()
    worker.offer(0)
    assert halves.finishing.acquire(timeout=30)  # the rest of 0 is in work
    worker.offer(1)
    for _ in range(2):
        assert halves.begun.acquire(timeout=30)  # so is 1
    worker.offer(2)  # waits, since the rest of 1 must wait for that of 0
    worker.offer(3)
    assert not worker.close(0.01)
    assert halves.finished == []
    for _ in range(9):
        halves.may_finish.release()
    assert worker.close(30)
    assert halves.done == halves.finished == [0, 1]
    assert halves.drops == 2


def test_items_without_a_rest_do_not_hold_up_those_with_one():
    ended = threading.Semaphore(0)
    worker = NewestFrameQueue(lambda item: ended.release if item else None, lambda: None)
    for item in (0, 1, 0, 1):
        worker.offer(item)
        if item:
            assert ended.acquire(timeout=30)
    assert worker.close(30)


def test_close_without_work(worker):
    assert worker.close(30)
