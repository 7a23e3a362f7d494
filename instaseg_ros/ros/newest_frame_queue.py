"""Processes the newest frames only: one slot per camera, two threads. Needs no ROS."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

from instaseg_ros.ros.batching import Slots

T = TypeVar("T")


class NewestFrameQueue(Generic[T]):
    """Works on the newest item of each source; an older one that is still waiting is dropped.

    work: called in one thread with a batch of items, each of another source (see `Slots`), as many
    as `slots` allows; yields functions for the rest of the work. A second thread calls these, one
    after another, while the first works on. None of them may raise.
    on_drop: called with each item that is never worked on. begin: called first in each thread.
    """

    def __init__(
        self,
        work: Callable[[list[T]], Iterable[Callable[[], None]]],
        on_drop: Callable[[T], None],
        slots: Slots[T] | None = None,
        begin: Callable[[], None] | None = None,
    ) -> None:
        self._work: Callable[[list[T]], Iterable[Callable[[], None]]] | None = work
        self._on_drop = on_drop
        self._begin = begin
        self._changed = threading.Condition()
        self._slots = Slots[T]() if slots is None else slots
        self._rest: Callable[[], None] | None = None  # until it is done
        self._closing = False
        self._ended = False  # the first thread
        self._threads = [
            threading.Thread(target=run, name=name, daemon=True)
            for run, name in ((self._run, "labelling"), (self._run_rest, "publishing"))
        ]
        for thread in self._threads:
            thread.start()

    def offer(self, source: Hashable, item: T) -> None:
        """Make `item` the newest of its source; after `close`, drop it. Returns at once."""
        with self._changed:
            now_s = time.perf_counter()
            dropped = item if self._closing else self._slots.offer(source, item, now_s)
            self._changed.notify_all()
        if dropped is not None:
            self._on_drop(dropped)

    def close(self, timeout_s: float | None = None) -> bool:
        """Drop the waiting items, let items in work finish, and end the threads.

        False if these items take longer than `timeout_s`; close may be called again.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            dropped = self._slots.clear()
            self._closing = True
            self._changed.notify_all()
        for item in dropped:
            self._on_drop(item)
        for thread in self._threads:
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            return False
        self._work = None  # it may hold much memory, and others may still hold this queue
        return True

    def _run(self) -> None:
        if self._begin:
            self._begin()
        work = self._work
        assert work is not None
        while batch := self._next_batch():
            start = time.perf_counter()
            rests = work(batch)
            del batch  # do not keep images alive while waiting
            for rest in rests:
                self._hand_over(rest)
                del rest
            del rests
            self._slots.took(time.perf_counter() - start)
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _next_batch(self) -> list[T]:
        """The next items to work on; none when closing."""
        with self._changed:
            while not self._closing:
                wait_s = self._slots.ready_in_s(time.perf_counter())
                if wait_s <= 0:
                    return self._slots.take()
                self._changed.wait(None if math.isinf(wait_s) else wait_s)
        return []

    def _hand_over(self, rest: Callable[[], None]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._rest is None)
            self._rest = rest
            self._changed.notify_all()

    def _run_rest(self) -> None:
        if self._begin:
            self._begin()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or self._rest is not None)
                rest = self._rest
            if rest is None:
                return
            rest()
            del rest
            with self._changed:
                self._rest = None
                self._changed.notify_all()
