"""The newest-frame policy. No ROS needed."""

import threading

import pytest

from instaseg_ros.ros.worker import NewestItemWorker


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
    worker = NewestItemWorker(gate.work, gate.drop)
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


def test_close_without_work(worker):
    assert worker.close(30)
