"""Chooses which images are labelled when more come than can be. Needs no ROS."""

from __future__ import annotations

import math
import threading
from collections import defaultdict, deque
from collections.abc import Hashable

import numpy as np

EVENLY = "evenly"  # of node.keep_up

WINDOW_S = 3.0  # over which images are counted
TIMES = 20  # of labelling an image, of which the slowest but few count
SLOW_PERCENT = 90
MOST_USED = 0.95  # of the time, so that images of an uneven camera do not pile up
LESS_USED = 0.8  # before more images are taken again


class EvenPicker:
    """Takes every nth image of each camera, with the smallest n for which the node has the time.

    So labels come at even intervals, no image waits for long, and images that cameras take at the
    same time are labelled together. All times are seconds of one monotonic clock. Thread-safe.
    """

    def __init__(self) -> None:
        self.every = 1
        self._lock = threading.Lock()
        self._arrivals_s: deque[float] = deque()
        self._times_s: deque[float] = deque(maxlen=TIMES)
        self._passed: defaultdict[Hashable, int] = defaultdict(lambda: -1)  # since one was taken

    def takes(self, camera: Hashable, now_s: float) -> bool:
        """Whether to label this image, which has just come."""
        with self._lock:
            self._arrivals_s.append(now_s)
            while self._arrivals_s[0] <= now_s - WINDOW_S:
                self._arrivals_s.popleft()
            self._adapt()
            self._passed[camera] += 1
            taken = self._passed[camera] % self.every == 0
            if taken:
                self._passed[camera] = 0
            return taken

    def took(self, seconds: float) -> None:
        """How long the node was busy with an image."""
        with self._lock:
            self._times_s.append(seconds)

    def describe(self) -> str:
        """What it does and why, for people."""
        with self._lock:
            busy_s, rate_hz = self._busy_s(), self._rate_hz()
        which = "every image" if self.every == 1 else f"one image of {self.every}"
        return f"{which}: one takes {busy_s * 1e3:.0f} ms, {rate_hz:.1f} come in a second"

    def _adapt(self) -> None:
        used = self._busy_s() * self._rate_hz()  # more than 1 if there is no time for every image
        if used > MOST_USED * self.every:
            self.every = math.ceil(used / MOST_USED)
        elif used < LESS_USED * (self.every - 1):
            self.every = max(1, math.ceil(used / LESS_USED))

    def _busy_s(self) -> float:
        return float(np.percentile(self._times_s, SLOW_PERCENT)) if self._times_s else 0.0

    def _rate_hz(self) -> float:
        """Of all cameras together; 0 before the second image."""
        passed_s = self._arrivals_s[-1] - self._arrivals_s[0] if self._arrivals_s else 0.0
        return (len(self._arrivals_s) - 1) / passed_s if passed_s else 0.0
