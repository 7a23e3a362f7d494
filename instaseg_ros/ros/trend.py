"""Compares latency now with latency ten minutes ago. Needs no ROS."""

from __future__ import annotations

from array import array
from collections import defaultdict, deque
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

BUCKET_S = 60.0
BUCKETS = 10  # from the oldest that is kept to the newest that is over


class Trend(NamedTuple):
    """Medians in milliseconds by stage, of the newest full minute and of one `minutes` before."""

    minutes: int
    before_ms: Mapping[str, float]
    now_ms: Mapping[str, float]

    def change(self, stage: str) -> float:
        """How much longer it takes now, as a share: 0.25 for a quarter longer."""
        before = self.before_ms.get(stage, 0.0)
        return self.now_ms.get(stage, 0.0) / before - 1 if before else 0.0


class TrendKeeper:
    """Keeps the medians of the last minutes, and the times of the current one."""

    def __init__(self) -> None:
        self._number = 0  # of the current minute
        self._current: dict[str, array[float]] = defaultdict(lambda: array("f"))
        self._minutes: deque[tuple[int, dict[str, float]]] = deque(maxlen=BUCKETS + 1)

    def add(self, now_s: float, stage_ms: Mapping[str, float]) -> None:
        """An image took these times; `now_s` does not decrease."""
        self._settle(now_s)
        for stage, milliseconds in stage_ms.items():
            self._current[stage].append(milliseconds)

    def look(self, now_s: float) -> Trend | None:
        """The trend of up to BUCKETS minutes; None while there is only one, and when the newest is
        not the one before the current."""
        self._settle(now_s)
        if not self._minutes or self._minutes[-1][0] != self._number - 1:
            return None
        newest, now_ms = self._minutes[-1]
        oldest, before_ms = next(one for one in self._minutes if one[0] >= newest - BUCKETS)
        return Trend(newest - oldest, before_ms, now_ms) if oldest < newest else None

    def _settle(self, now_s: float) -> None:
        """Close the current minute if it is over."""
        number = int(now_s // BUCKET_S)
        if number == self._number:
            return
        if self._current:
            medians = {stage: float(np.median(times)) for stage, times in self._current.items()}
            self._minutes.append((self._number, medians))
            self._current.clear()
        self._number = number
