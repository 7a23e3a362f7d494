"""Pairs what was found in images with the depth images of their stamps. Needs no ROS."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

R = TypeVar("R")
D = TypeVar("D")

RECENT = 8  # newest depth images that are kept, as some come before their image
EXPECTED = 8  # images in work for which the nearest depth image is kept, however old it gets
WAITING = 2  # results that wait for depth; a further one ends the oldest one's wait


@dataclass(frozen=True, slots=True)
class Nearest(Generic[D]):
    """The depth image nearest to an image's stamp, and how much later it was taken."""

    depth: D
    later_ns: int


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[R]):
    stamp_ns: int
    result: R
    deadline_s: float


class DepthPairing(Generic[R, D]):
    """Finds the nearest depth image for each result, in a thread of its own.

    An image is announced by `expect`, so that its depth is kept while the network works on it; a
    dropped one is forgotten. work: called in the thread with each result in order, and its Nearest,
    None if no depth image came at all. It must not raise. on_busy: called with a result that is
    given up because `work` takes too long.
    """

    def __init__(
        self, work: Callable[[R, Nearest[D] | None], None], on_busy: Callable[[R], None]
    ) -> None:
        self._work: Callable[[R, Nearest[D] | None], None] | None = work
        self._on_busy = on_busy
        self._changed = threading.Condition()
        self._recent: deque[tuple[int, D]] = deque(maxlen=RECENT)
        self._expected: dict[int, tuple[int, D] | None] = {}
        self._waiting: deque[_Waiting[R]] = deque()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="locating", daemon=True)
        self._thread.start()

    def expect(self, stamp_ns: int) -> None:
        """An image of this stamp came, and will be followed by `offer_result` or `forget`."""
        with self._changed:
            self._expected.pop(stamp_ns, None)
            self._expected[stamp_ns] = self._nearest_recent(stamp_ns)
            while len(self._expected) > EXPECTED:
                del self._expected[next(iter(self._expected))]

    def forget(self, stamp_ns: int) -> None:
        """The image of this stamp has no result."""
        with self._changed:
            self._expected.pop(stamp_ns, None)

    def offer_depth(self, stamp_ns: int, depth: D) -> None:
        """A depth image came. Returns at once."""
        with self._changed:
            if self._closing:
                return
            self._recent.append((stamp_ns, depth))
            for image_ns, known in self._expected.items():
                if known is None or abs(stamp_ns - image_ns) < abs(known[0] - image_ns):
                    self._expected[image_ns] = stamp_ns, depth
            self._changed.notify_all()

    def offer_result(self, stamp_ns: int, result: R, wait_s: float) -> None:
        """Something was found in an image, whose depth may still come for `wait_s`. Returns at
        once."""
        given_up = None
        with self._changed:
            if self._closing:
                return
            if len(self._waiting) == WAITING:
                given_up = self._waiting.popleft()
            self._waiting.append(_Waiting(stamp_ns, result, time.monotonic() + wait_s))
            self._changed.notify_all()
        if given_up is not None:
            self._on_busy(given_up.result)

    def close(self, timeout_s: float | None = None) -> bool:
        """Forget everything that waits, and end the thread; False if `work` takes longer than
        `timeout_s`."""
        with self._changed:
            self._closing = True
            self._waiting.clear()
            self._recent.clear()
            self._expected.clear()
            self._changed.notify_all()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            return False
        self._work = None  # it may hold much memory, and others may still hold this object
        return True

    def _run(self) -> None:
        work = self._work
        assert work is not None
        while (found := self._next()) is not None:
            work(*found)
            del found  # do not keep an image alive while waiting for the next

    def _next(self) -> tuple[R, Nearest[D] | None] | None:
        """The next result whose depth is decided; None after `close`."""
        with self._changed:
            while not self._closing:
                if not self._waiting:
                    self._changed.wait()
                    continue
                first = self._waiting[0]
                stamp_ns = first.stamp_ns
                nearest = self._expected.get(stamp_ns) or self._nearest_recent(stamp_ns)
                left_s = first.deadline_s - time.monotonic()
                if (
                    left_s > 0
                    and len(self._waiting) < WAITING
                    and self._may_come(stamp_ns, nearest)
                ):
                    self._changed.wait(left_s)
                    continue
                self._waiting.popleft()
                self._expected.pop(stamp_ns, None)
                return first.result, None if nearest is None else Nearest(
                    nearest[1], nearest[0] - stamp_ns
                )
        return None

    def _may_come(self, stamp_ns: int, nearest: tuple[int, D] | None) -> bool:
        """Whether a nearer depth image may still come: not after one of this stamp or a later."""
        if nearest is None:
            return True
        newest_ns = self._recent[-1][0] if self._recent else nearest[0]
        return nearest[0] != stamp_ns and newest_ns < stamp_ns

    def _nearest_recent(self, stamp_ns: int) -> tuple[int, D] | None:
        return min(self._recent, key=lambda one: abs(one[0] - stamp_ns), default=None)
