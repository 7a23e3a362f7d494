"""Counts and times the node's work while it is active. Needs no ROS; thread-safe."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from instaseg_ros.ros.depth_statistics import DepthSnapshot
from instaseg_ros.ros.trend import Trend, TrendKeeper

WINDOW_FRAMES = 300  # latency percentiles cover this many newest frames
WINDOW_S = 5.0  # rates and losses cover this many seconds
TOTAL, SINCE_STAMP = (
    "total",
    "since stamp",
)  # until the labels are sent: from arrival; from exposure
SLOWEST_SHARE = 0.05  # of these frames, to see what makes some late


@dataclass(frozen=True, slots=True)
class Counts:
    """Images since activation: received = labelled + dropped + ignored + refused + failed + in
    work.

    dropped: replaced by a newer one while the node was busy, or left out to keep up (see
    `node.keep_up`). ignored: came while labelling was disabled. lost: published but never arrived.
    refused: could not be converted. failed: an error occurred while processing.
    """

    received: int = 0
    labelled: int = 0
    dropped: int = 0
    ignored: int = 0
    lost: int = 0
    refused: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The statistics at one moment.

    active_s: since activation. labelling_s: since the first image, or since the last one that was
    ignored. image_age_s, label_age_s: seconds since the newest image, and since the newest labels;
    None before the first. unlabelled_s: for how long images have been arriving without any of them
    being finished; 0 while none is waiting. image_size: (H, W) pixels. network_size: the same as
    the network sees it, without padding. image_bytes: of the newest message. loss: share in [0, 1]
    of the images of the last WINDOW_S that never arrived.
    recently_dropped: number dropped in that time.
    trouble: why the newest processed image was refused or failed; empty if it was labelled.
    last_trouble: the newest such reason, even if images are labelled again.
    latency_ms: stage -> (median, 99th percentile) over the newest WINDOW_FRAMES labelled images.
    slowest_ms: stage -> mean over the SLOWEST_SHARE of them whose labels came latest.
    trend: how the stages' times have changed; None in the first minutes.
    depth: what became of their depth; None if the node does not subscribe to any.
    """

    counts: Counts = field(default_factory=Counts)
    active_s: float = 0.0
    labelling_s: float = 0.0
    image_age_s: float | None = None
    label_age_s: float | None = None
    unlabelled_s: float = 0.0
    image_size: tuple[int, int] | None = None
    network_size: tuple[int, int] | None = None
    image_bytes: int = 0
    loss: float = 0.0
    recently_dropped: int = 0
    rate_in_hz: float = 0.0
    rate_out_hz: float = 0.0
    trouble: str = ""
    last_trouble: str = ""
    latency_ms: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    slowest_ms: Mapping[str, float] = field(default_factory=dict)
    trend: Trend | None = None
    depth: DepthSnapshot | None = None


class Statistics:
    """Counts and rolling windows since `start_s`; all times are seconds of one monotonic clock."""

    def __init__(self, start_s: float) -> None:
        self._lock = threading.Lock()
        self._start_s = start_s
        self._labelling_since_s = start_s
        self._counts = Counts()
        self._arrivals = _Window()
        self._losses = _Window()
        self._drops = _Window()
        self._labelled = _Window()
        self._last_arrival_s: float | None = None
        self._last_labels_s: float | None = None
        self._unlabelled_since_s: float | None = None
        self._image_size: tuple[int, int] | None = None
        self._network_size: tuple[int, int] | None = None
        self._image_bytes = 0
        self._trouble = ""
        self._last_trouble = ""
        self._stage_ms: deque[Mapping[str, float]] = deque(maxlen=WINDOW_FRAMES)
        self._trend = TrendKeeper()

    def received(self, now_s: float, image_bytes: int) -> None:
        """An image arrived."""
        with self._lock:
            if self._last_arrival_s is None:
                self._labelling_since_s = now_s
            self._last_arrival_s = now_s
            self._image_bytes = image_bytes
            if self._unlabelled_since_s is None:
                self._unlabelled_since_s = now_s
            self._arrivals.add(now_s)
            self._count(received=1)

    def lost(self, now_s: float, count: int) -> None:
        """`count` images never arrived."""
        with self._lock:
            self._losses.add(now_s, count)
            self._count(lost=count)

    def dropped(self, now_s: float) -> None:
        """An image was replaced by a newer one, or left out to keep up."""
        with self._lock:
            self._drops.add(now_s)
            self._count(dropped=1)

    def ignored(self, now_s: float) -> None:
        """An image came while labelling was disabled."""
        with self._lock:
            self._labelling_since_s, self._unlabelled_since_s = now_s, None
            self._labelled, self._trouble = _Window(), ""
            self._count(ignored=1)

    def refused(self, reason: str) -> None:
        """An image could not be converted."""
        with self._lock:
            self._trouble = self._last_trouble = reason
            self._unlabelled_since_s = None
            self._count(refused=1)

    def failed(self, reason: str) -> None:
        """Processing an image raised an error."""
        with self._lock:
            self._trouble = self._last_trouble = reason
            self._unlabelled_since_s = None
            self._count(failed=1)

    def labelled(
        self,
        now_s: float,
        stage_ms: Mapping[str, float],
        image_size: tuple[int, int],
        network_size: tuple[int, int] | None = None,
    ) -> None:
        """Labels of an image were published; stage_ms: TOTAL, SINCE_STAMP if known, and stages in
        between."""
        with self._lock:
            self._trouble = ""
            self._last_labels_s, self._unlabelled_since_s = now_s, None
            self._image_size, self._network_size = image_size, network_size
            self._labelled.add(now_s)
            self._stage_ms.append(dict(stage_ms))
            self._trend.add(now_s, stage_ms)
            self._count(labelled=1)

    def snapshot(self, now_s: float) -> Snapshot:
        """The state at `now_s`."""
        with self._lock:
            arrived, lost, dropped, labelled = (
                window.sum(now_s)
                for window in (self._arrivals, self._losses, self._drops, self._labelled)
            )
            active_s = now_s - self._start_s
            labelling_s = now_s - self._labelling_since_s
            return Snapshot(
                counts=self._counts,
                active_s=active_s,
                labelling_s=labelling_s,
                image_age_s=_since(self._last_arrival_s, now_s),
                label_age_s=_since(self._last_labels_s, now_s),
                unlabelled_s=_since(self._unlabelled_since_s, now_s) or 0.0,
                image_size=self._image_size,
                network_size=self._network_size,
                image_bytes=self._image_bytes,
                loss=lost / max(arrived + lost, 1),
                recently_dropped=dropped,
                rate_in_hz=arrived / _window_s(active_s),
                rate_out_hz=labelled / _window_s(labelling_s),
                trouble=self._trouble,
                last_trouble=self._last_trouble,
                latency_ms=_percentiles(self._stage_ms),
                slowest_ms=_means_of_slowest(self._stage_ms),
                trend=self._trend.look(now_s),
            )

    def _count(self, **more: int) -> None:
        now = self._counts
        self._counts = replace(now, **{name: getattr(now, name) + n for name, n in more.items()})


class _Window:
    """The amounts of the last WINDOW_S."""

    def __init__(self) -> None:
        self._entries: deque[tuple[float, int]] = deque()  # time and amount

    def add(self, now_s: float, amount: int = 1) -> None:
        self._entries.append((now_s, amount))
        while self._entries[0][0] <= now_s - WINDOW_S:
            self._entries.popleft()

    def sum(self, now_s: float) -> int:
        return sum(amount for time_s, amount in self._entries if time_s > now_s - WINDOW_S)


def _since(moment_s: float | None, now_s: float) -> float | None:
    return None if moment_s is None else now_s - moment_s


def _window_s(passed_s: float) -> float:
    """At least one second, so that a single image does not make a rate of hundreds."""
    return min(WINDOW_S, max(passed_s, 1.0))


def _percentiles(frames: Iterable[Mapping[str, float]]) -> dict[str, tuple[float, float]]:
    """Median and 99th percentile of each stage, over the frames that have it."""
    times = _by_stage(frames)
    return {stage: tuple(np.percentile(ms, [50, 99]).tolist()) for stage, ms in times.items()}


def _means_of_slowest(frames: Iterable[Mapping[str, float]]) -> dict[str, float]:
    def latency_ms(stage_ms: Mapping[str, float]) -> float:
        return stage_ms.get(SINCE_STAMP, stage_ms.get(TOTAL, 0.0))

    ordered = sorted(frames, key=latency_ms, reverse=True)
    slowest = ordered[: max(1, round(len(ordered) * SLOWEST_SHARE))]
    return {stage: float(np.mean(times)) for stage, times in _by_stage(slowest).items()}


def _by_stage(frames: Iterable[Mapping[str, float]]) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {}
    for stage_ms in frames:
        for stage, milliseconds in stage_ms.items():
            times.setdefault(stage, []).append(milliseconds)
    return times
