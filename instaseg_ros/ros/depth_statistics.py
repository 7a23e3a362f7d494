"""Counts images with and without depth, and says why they have none. Needs no ROS; thread-safe."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

from instaseg_ros.ros.input import COMPRESSED, IMAGE, Input, why_silent

TRANSPORTS = {IMAGE: "raw", COMPRESSED: "compressedDepth"}  # depth.transport by message type
SUFFIX = "/compressedDepth"


@dataclass(frozen=True, slots=True)
class DepthSnapshot:
    """What became of the depth of labelled images since activation.

    source: the depth subscription. age_s, located_age_s: seconds since the newest depth image, and
    since the newest image whose objects were located; None before the first. located: images whose
    objects were located; without: those that have no usable depth. objects, left_out: objects that
    were located, and those without enough depth in an image that has it. later_ms: how much later
    than its image the newest depth was taken. trouble: why the newest image could not be located,
    empty if it could or if no depth came at all. last_trouble: the newest such reason.
    """

    source: Input
    age_s: float | None = None
    located_age_s: float | None = None
    located: int = 0
    without: int = 0
    objects: int = 0
    left_out: int = 0
    later_ms: float = 0.0
    trouble: str = ""
    last_trouble: str = ""

    def why(self, stale_after_s: float) -> str:
        """Why no objects are located; empty while they are."""
        if self.located_age_s is not None and self.located_age_s <= stale_after_s:
            return ""
        if self.age_s is None or self.age_s > stale_after_s:
            reason = _why_silent(self.source)
            return f"no depth: {reason}" if self.age_s is None else f"no depth any more: {reason}"
        return self.trouble

    def values(self) -> dict[str, str]:
        """For /diagnostics."""
        publishers = ", ".join(f"{p.node} ({p.quality})" for p in self.source.publishers)
        values = {
            "depth topic": self.source.topic,
            "depth type": self.source.message_type,
            "depth publishers": publishers,
            "depth camera info": self.source.camera_info,
            "images with depth": str(self.located),
            "images without depth": str(self.without),
            "objects in space": str(self.objects),
            "objects without enough depth": str(self.left_out),
            "depth taken later (ms)": f"{self.later_ms:.1f}",
            "last reason without depth": self.last_trouble,
        }
        if self.age_s is not None:
            values["age of newest depth (s)"] = f"{self.age_s:.2f}"
        return values


def _why_silent(source: Input) -> str:
    """The most likely reason why no depth image arrives."""
    types = [publisher.message_type for publisher in source.publishers]
    if not types:
        return (
            f"no publisher on {source.topic}; remap it (--ros-args -r depth:=/camera/depth/image), "
            "set depth.transport, or depth.enabled to false"
        )
    if source.message_type not in types:
        transport = TRANSPORTS.get(types[0])
        hint = f"; set depth.transport to {transport}" if transport else ""
        return (
            f"{source.publishers[0].node} publishes {types[0]} on {source.topic}, expected "
            f"{source.message_type}{hint}"
        )
    return why_silent(source)


class DepthStatistics:
    """The counts of one camera; times are seconds of one monotonic clock."""

    def __init__(self, source: Input) -> None:
        self._lock = threading.Lock()
        self._now = DepthSnapshot(source)
        self._received_s: float | None = None
        self._located_s: float | None = None

    def received(self, now_s: float) -> None:
        """A depth image came."""
        with self._lock:
            self._received_s = now_s

    def located(self, now_s: float, later_ms: float, objects: int, left_out: int) -> None:
        """The objects of an image were located, but for those `left_out`."""
        with self._lock:
            self._located_s = now_s
            self._now = replace(
                self._now,
                located=self._now.located + 1,
                objects=self._now.objects + objects,
                left_out=self._now.left_out + left_out,
                later_ms=later_ms,
                trouble="",
            )

    def without(self, reason: str) -> None:
        """An image has no usable depth; an empty reason: none came at all."""
        with self._lock:
            self._now = replace(
                self._now,
                without=self._now.without + 1,
                trouble=reason,
                last_trouble=reason or self._now.last_trouble or "no depth image came",
            )

    def snapshot(self, now_s: float, source: Input) -> DepthSnapshot:
        """The state at `now_s`."""
        with self._lock:
            age_s, located_age_s = (
                None if moment_s is None else now_s - moment_s
                for moment_s in (self._received_s, self._located_s)
            )
            return replace(self._now, source=source, age_s=age_s, located_age_s=located_age_s)
