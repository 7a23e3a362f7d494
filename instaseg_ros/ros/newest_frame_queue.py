"""Processes the newest frame only: one slot, two threads. Needs no ROS."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class NewestFrameQueue(Generic[T]):
    """Works on the newest item offered; an older one that is still waiting is dropped.

    work: called in one thread; returns a function for the rest of the work, or None. A second
    thread calls that function, item after item, while the first works on the next one. Neither may
    raise. on_drop: called for each item that is never worked on.
    """

    def __init__(
        self, work: Callable[[T], Callable[[], None] | None], on_drop: Callable[[], None]
    ) -> None:
        self._work: Callable[[T], Callable[[], None] | None] | None = work
        self._on_drop = on_drop
        self._changed = threading.Condition()
        self._waiting: T | None = None
        self._rest: Callable[[], None] | None = None  # until it is done
        self._closing = False
        self._ended = False  # the first thread
        self._threads = [
            threading.Thread(target=run, name=name, daemon=True)
            for run, name in ((self._run, "labelling"), (self._run_rest, "publishing"))
        ]
        for thread in self._threads:
            thread.start()

    def offer(self, item: T) -> None:
        """Make `item` the next one to work on. Returns at once."""
        with self._changed:
            displaced = self._waiting is not None
            self._waiting = item
            self._changed.notify_all()
        if displaced:
            self._on_drop()

    def close(self, timeout_s: float | None = None) -> bool:
        """Drop the waiting item, let items in work finish, and end the threads.

        False if these items take longer than `timeout_s`; close may be called again.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            dropped, self._waiting = self._waiting is not None, None
            self._closing = True
            self._changed.notify_all()
        if dropped:
            self._on_drop()
        for thread in self._threads:
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            return False
        self._work = None  # it may hold much memory, and others may still hold this queue
        return True

    def _run(self) -> None:
        work = self._work
        assert work is not None
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._waiting is not None)
                item, self._waiting = self._waiting, None
            if item is None:
                break
            rest = work(item)
            del item  # do not keep an image alive while waiting for the next
            with self._changed:
                self._changed.wait_for(lambda: self._rest is None)
                self._rest = rest
                self._changed.notify_all()
            del rest
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _run_rest(self) -> None:
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
