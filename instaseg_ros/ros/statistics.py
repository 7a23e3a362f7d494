"""What the node counts and times while it is active. Needs no ROS; safe across threads."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

WINDOW_FRAMES = 300  # latency percentiles are over this many newest frames
WINDOW_S = 5.0  # rates are over this many seconds


@dataclass(frozen=True, slots=True)
class Counts:
    """Images since activation: received = labelled + dropped + refused + failed + in work.

    dropped: displaced by a newer one while the node was busy. lost: published, never arrived.
    refused: could not be converted. failed: an error while they were processed.
    """

    received: int = 0
    labelled: int = 0
    dropped: int = 0
    lost: int = 0
    refused: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The statistics at one moment.

    image_age_s: seconds since the newest image; None before the first. image_size: (H, W) pixels.
    loss: share in [0, 1] of the images of the last WINDOW_S that never arrived.
    trouble: why the newest processed image was refused or failed; empty when it was labelled.
    last_trouble: the newest such reason, also when images are labelled again.
    latency_ms: stage -> (median, 99th percentile) over the newest WINDOW_FRAMES labelled images.
    """

    counts: Counts = field(default_factory=Counts)
    active_s: float = 0.0
    image_age_s: float | None = None
    image_size: tuple[int, int] | None = None
    loss: float = 0.0
    rate_in_hz: float = 0.0
    rate_out_hz: float = 0.0
    trouble: str = ""
    last_trouble: str = ""
    latency_ms: Mapping[str, tuple[float, float]] = field(default_factory=dict)


class Statistics:
    """Counts and rolling windows since `start_s`; all times are seconds of one monotonic clock."""

    def __init__(self, start_s: float) -> None:
        self._lock = threading.Lock()
        self._start_s = start_s
        self._counts = Counts()
        self._arrivals: deque[float] = deque()
        self._losses: deque[float] = deque()
        self._labelled: deque[float] = deque()
        self._last_arrival_s: float | None = None
        self._image_size: tuple[int, int] | None = None
        self._trouble = ""
        self._last_trouble = ""
        self._stages: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=WINDOW_FRAMES))

    def received(self, now_s: float, lost: int = 0) -> None:
        """An image arrived, and `lost` ones before it did not."""
        with self._lock:
            self._last_arrival_s = now_s
            _append_recent(self._arrivals, now_s)
            for _ in range(lost):
                _append_recent(self._losses, now_s)
            self._count(received=1, lost=lost)

    def dropped(self) -> None:
        """An image was displaced by a newer one."""
        with self._lock:
            self._count(dropped=1)

    def refused(self, reason: str) -> None:
        """An image could not be converted."""
        with self._lock:
            self._trouble = self._last_trouble = reason
            self._count(refused=1)

    def failed(self, reason: str) -> None:
        """Processing an image raised an error."""
        with self._lock:
            self._trouble = self._last_trouble = reason
            self._count(failed=1)

    def labelled(
        self, now_s: float, stage_ms: Mapping[str, float], image_size: tuple[int, int]
    ) -> None:
        """Labels of an image were published."""
        with self._lock:
            self._trouble = ""
            self._image_size = image_size
            _append_recent(self._labelled, now_s)
            for stage, milliseconds in stage_ms.items():
                self._stages[stage].append(milliseconds)
            self._count(labelled=1)

    def snapshot(self, now_s: float) -> Snapshot:
        """The state at `now_s`."""
        with self._lock:
            last = self._last_arrival_s
            arrived, lost = (len(_recent(t, now_s)) for t in (self._arrivals, self._losses))
            return Snapshot(
                counts=self._counts,
                active_s=now_s - self._start_s,
                image_age_s=None if last is None else now_s - last,
                image_size=self._image_size,
                loss=lost / max(arrived + lost, 1),
                rate_in_hz=_rate_hz(self._arrivals, now_s),
                rate_out_hz=_rate_hz(self._labelled, now_s),
                trouble=self._trouble,
                last_trouble=self._last_trouble,
                latency_ms={stage: _percentiles(window) for stage, window in self._stages.items()},
            )

    def _count(self, **more: int) -> None:
        now = self._counts
        self._counts = replace(now, **{name: getattr(now, name) + n for name, n in more.items()})


def _append_recent(times: deque[float], now_s: float) -> None:
    times.append(now_s)
    while times[0] < now_s - WINDOW_S:
        times.popleft()


def _recent(times: deque[float], now_s: float) -> list[float]:
    return [t for t in times if t >= now_s - WINDOW_S]


def _rate_hz(times: deque[float], now_s: float) -> float:
    """Mean rate of the events of the last WINDOW_S, from the intervals between them."""
    recent = _recent(times, now_s)
    if len(recent) < 2:
        return 0.0
    return (len(recent) - 1) / max(recent[-1] - recent[0], 1e-9)


def _percentiles(window: deque[float]) -> tuple[float, float]:
    median, p99 = np.percentile(list(window), [50, 99])
    return float(median), float(p99)
