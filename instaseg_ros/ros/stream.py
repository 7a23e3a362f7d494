"""A camera being labelled: what is there while the node is active, and only then."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from instaseg_ros.config import NodeConfig
from instaseg_ros.ros.camera import Camera
from instaseg_ros.ros.reasons import Input
from instaseg_ros.ros.statistics import Snapshot, Statistics
from instaseg_ros.ros.worker import NewestItemWorker

if TYPE_CHECKING:
    from instaseg_ros.ros.labeller import Labeller

ADAPT_EVERY_S = 0.25


class Received(NamedTuple):
    """An image message, when the node got it in `time.perf_counter()` seconds, and the newest
    CameraInfo, None without one."""

    message: Any
    time_s: float
    camera_info: Any


class Stream:
    """Subscription, worker threads and statistics, from activate to deactivate."""

    def __init__(self, node: Node, config: NodeConfig, labeller: Labeller) -> None:
        self._node = node
        self._statistics = Statistics(time.perf_counter())
        self._worker: NewestItemWorker[Received] = NewestItemWorker(
            functools.partial(labeller.label, statistics=self._statistics),
            lambda: self._statistics.dropped(time.perf_counter()),
        )
        try:
            self._camera = Camera(node, config, self._receive, self._lose)
        except Exception:
            self._worker.close()
            raise
        # The graph is watched in real time, also where ROS time stands still.
        self._timer = node.create_timer(
            ADAPT_EVERY_S, self._camera.adapt, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    def describe(self) -> tuple[Input, Snapshot]:
        """What diagnostics say about the input and what became of it."""
        return self._camera.describe(), self._statistics.snapshot(time.perf_counter())

    def close(self, timeout_s: float | None = None) -> None:
        """Unsubscribe and let the images in work finish, for at most `timeout_s`."""
        self._node.destroy_timer(self._timer)
        self._camera.close()
        if self._worker.close(timeout_s):
            # The executor may hold the subscription for a while yet, and with it this, but not
            # the network.
            del self._worker

    def _receive(self, message: Any, camera_info: Any) -> None:
        now_s = time.perf_counter()
        self._statistics.received(now_s, len(message.data))
        self._worker.offer(Received(message, now_s, camera_info))

    def _lose(self, count: int) -> None:
        self._statistics.lost(time.perf_counter(), count)
