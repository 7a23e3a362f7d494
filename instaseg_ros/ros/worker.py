"""The newest-frame policy: one slot, one thread. Needs no ROS."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class NewestItemWorker(Generic[T]):
    """A thread that works on the newest item offered; an older one that still waits is dropped.

    work: called in the thread, must not raise. on_drop: called for each item never worked on.
    """

    def __init__(self, work: Callable[[T], None], on_drop: Callable[[], None]) -> None:
        self._work = work
        self._on_drop = on_drop
        self._changed = threading.Condition()
        self._waiting: T | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="labelling", daemon=True)
        self._thread.start()

    def offer(self, item: T) -> None:
        """Make `item` the next to be worked on. Returns at once."""
        with self._changed:
            displaced = self._waiting is not None
            self._waiting = item
            self._changed.notify()
        if displaced:
            self._on_drop()

    def close(self, timeout_s: float | None = None) -> bool:
        """Drop what waits, let the item in work finish, end the thread.

        False when that item takes longer than `timeout_s`; close may be called again.
        """
        with self._changed:
            dropped, self._waiting = self._waiting is not None, None
            self._closing = True
            self._changed.notify()
        if dropped:
            self._on_drop()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._waiting is not None)
                item, self._waiting = self._waiting, None
            if item is None:
                return
            self._work(item)
            del item  # an image is not kept alive while waiting for the next
