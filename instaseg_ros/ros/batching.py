"""Decides which waiting items are worked on next, how many at once, and when. Needs no ROS."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Generic, TypeVar

T = TypeVar("T")

BATCH_SIZES = (4, 2, 1)  # and the largest; few, as the network is prepared for each
INTERVALS = 5  # between arrivals, whose median is a source's period
SOON = 0.5  # of the time that a batch takes: waiting longer costs more than a second batch


class Slots(Generic[T]):
    """The newest item of each source, until it is taken: one slot for each.

    Sources are served in the order in which they began to wait, however often a newer item
    replaces the waiting one. Up to `largest` items are taken together. If fewer wait, others are
    waited for, but only those of sources whose rhythm says that they come within `wait_s` after the
    longest waiting item came. So a source that has fallen silent, or is slow, holds up nobody.

    wait_s: seconds; None: SOON of what the last batch took, at most the fastest source's period, so
    that sources that are triggered together share a batch, and others do not wait for each other.
    All times are seconds of one monotonic clock.
    """

    def __init__(self, largest: int = 1, wait_s: float | None = None) -> None:
        self._largest = largest
        self._wait_s = wait_s
        self._took_s = 0.0
        self._waiting: dict[Hashable, _Waiting[T]] = {}  # the longest waiting source first
        self._rhythms: dict[Hashable, _Rhythm] = {}

    def offer(self, source: Hashable, item: T, now_s: float) -> T | None:
        """Make `item` the newest of its source; returns the one it replaces, if there is one."""
        self._rhythms.setdefault(source, _Rhythm()).beat(now_s)
        before = self._waiting.get(source)
        since_s = now_s if before is None else before.since_s
        self._waiting[source] = _Waiting(item, since_s)  # a source keeps its place
        return None if before is None else before.item

    def ready_in_s(self, now_s: float) -> float:
        """For how long not to `take` yet, unless something is offered; infinite if none waits."""
        if not self._waiting:
            return math.inf
        if len(self._waiting) >= self._largest:
            return 0.0
        until_s = next(iter(self._waiting.values())).since_s + self._patience_s()
        missed_s = [
            rhythm.missed_s
            for source, rhythm in self._rhythms.items()
            if source not in self._waiting and rhythm.next_s <= until_s
        ]
        return max(0.0, min(until_s, max(missed_s, default=0.0)) - now_s)

    def take(self) -> list[T]:
        """The next batch, in the order of waiting."""
        chosen = list(self._waiting)[: self._largest]
        return [self._waiting.pop(source).item for source in chosen]

    def took(self, seconds: float) -> None:
        """How long the work on the last batch has taken."""
        self._took_s = seconds

    def clear(self) -> list[T]:
        """Everything that waits, which leaves."""
        items = [waiting.item for waiting in self._waiting.values()]
        self._waiting.clear()
        return items

    def _patience_s(self) -> float:
        if self._wait_s is not None:
            return self._wait_s
        fastest_s = min(rhythm.period_s for rhythm in self._rhythms.values())
        return min(SOON * self._took_s, fastest_s)


def batch_sizes(largest: int) -> tuple[int, ...]:
    """The sizes of batches, largest first."""
    return tuple(sorted({largest, *(size for size in BATCH_SIZES if size < largest)}, reverse=True))


def batches(items: Sequence[T], largest: int) -> list[list[T]]:
    """The items in order, in batches of the sizes that there are."""
    made, begin = [], 0
    while begin < len(items):
        size = next(size for size in batch_sizes(largest) if size <= len(items) - begin)
        made.append(list(items[begin : begin + size]))
        begin += size
    return made


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[T]):
    """The newest item of a source that has waited since then."""

    item: T
    since_s: float


class _Rhythm:
    """When a source's next item is expected.

    next_s: infinite while its period is unknown. missed_s: when it is no longer expected.
    """

    def __init__(self) -> None:
        self._last_s: float | None = None
        self._intervals_s: deque[float] = deque(maxlen=INTERVALS)
        self.period_s = self.next_s = self.missed_s = math.inf

    def beat(self, now_s: float) -> None:
        """An item came."""
        if self._last_s is not None:
            self._intervals_s.append(now_s - self._last_s)
            self.period_s = median(self._intervals_s)
            self.next_s, self.missed_s = now_s + self.period_s, now_s + 1.5 * self.period_s
        self._last_s = now_s
