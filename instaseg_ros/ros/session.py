"""Turns a camera's image messages into published labels. Imports torch."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import Header

from instaseg_ros.config import Config
from instaseg_ros.errors import ImageError
from instaseg_ros.frames import Frame, Result
from instaseg_ros.pipeline import Pipeline
from instaseg_ros.ros.camera import Camera, to_frame
from instaseg_ros.ros.newest_frame_queue import NewestFrameQueue
from instaseg_ros.ros.publishers import ResultPublishers
from instaseg_ros.ros.reasons import Input
from instaseg_ros.ros.statistics import Snapshot, Statistics

CLOCKS_AGREE_MS = 10_000  # a header stamp older than this, or in the future, is from another clock
LOG_EVERY_S = 5.0
ADAPT_EVERY_S = 0.25


class Received(NamedTuple):
    """An image message, when the node received it in `time.perf_counter()` seconds, and the newest
    CameraInfo or None."""

    message: Any
    time_s: float
    camera_info: Any


class Session:
    """The pipeline with ROS messages at both ends.

    Configure makes it and warms up network and publishers. Between `start` and `stop` it is
    subscribed to the camera, and two threads label and publish.
    """

    def __init__(self, node: LifecycleNode, config: Config) -> None:
        self._node = node
        self._logger = node.get_logger()
        self.pipeline = Pipeline(config)
        if not self.pipeline.warm_up():
            self._logger.info(
                f"not warmed up: {self.pipeline.runtime.name} builds for one image size at a time, "
                "and input.height and input.width are not both set; the first image waits for it"
            )
        self.started = False
        self._closed = False
        self._publishers = ResultPublishers(node, self.pipeline.class_names)

    def engine(self) -> dict[str, str]:
        """Facts about the computation, for diagnostics."""
        runtime = self.pipeline.runtime
        return {
            "weights": self.pipeline.config.weights,
            "runtime": runtime.name,
            "precision": runtime.precision,
            "classes": ", ".join(self.pipeline.class_names),
        }

    def start(self) -> None:
        """Publish the class names, and subscribe. Raises ConfigError for a bad QoS override."""
        self._publishers.publish_label_info()
        statistics = self._statistics = Statistics(time.perf_counter())
        queue = self._queue = NewestFrameQueue[Received](
            self._label, lambda: statistics.dropped(time.perf_counter())
        )

        # After `stop` the executor may hold the subscription for a while, but not the network.
        def receive(message: Any, camera_info: Any) -> None:
            now_s = time.perf_counter()
            statistics.received(now_s, len(message.data))
            queue.offer(Received(message, now_s, camera_info))

        def lose(count: int) -> None:
            statistics.lost(time.perf_counter(), count)

        try:
            self._camera = Camera(self._node, self.pipeline.config.node, receive, lose)
        except Exception:
            queue.close()
            raise
        # The graph is watched in real time, even if ROS time stands still.
        self._timer = self._node.create_timer(
            ADAPT_EVERY_S, self._camera.adapt, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self.started = True

    def describe(self) -> tuple[Input, Snapshot]:
        """The input and its statistics, for diagnostics, while started."""
        return self._camera.describe(), self._statistics.snapshot(time.perf_counter())

    def stop(self, timeout_s: float | None = None) -> None:
        """Unsubscribe, and wait up to `timeout_s` for the images in work."""
        self.started = False
        self._node.destroy_timer(self._timer)
        self._camera.close()
        self._queue.close(timeout_s)

    def close(self) -> None:
        """Destroy the publishers; an image still in work is not published."""
        self._closed = True
        self._publishers.close()

    def _label(self, received: Received) -> Callable[[], None] | None:
        """Find the instances; returns the rest of the work, publishing, for another thread.

        An image that cannot be used is counted, logged and skipped.
        """
        start = time.perf_counter()
        try:
            config = self.pipeline.config
            frame = to_frame(received.message, config.input, received.camera_info)
            before_ms = {
                "wait": (start - received.time_s) * 1e3,
                "convert": (time.perf_counter() - start) * 1e3,
            }
            inferred = self.pipeline.infer([frame])
            for camera in inferred.jumped_back:
                self._logger.info(
                    f"image stamps of camera '{camera}' jumped back: forgetting its earlier "
                    "frames; if this goes on, two publishers share this frame_id",
                    throttle_duration_sec=LOG_EVERY_S,
                )
        except Exception as error:
            self._report(error)
            return None

        def publish() -> None:
            try:
                (result,) = self.pipeline.finish(inferred)
                result.stage_ms.update(before_ms)
                self._publish(received.message.header, frame, result, received.time_s, config)
            except Exception as error:
                self._report(error)

        return publish

    def _publish(
        self, header: Header, frame: Frame, result: Result, received_s: float, config: Config
    ) -> None:
        if self._closed:
            return
        start = time.perf_counter()
        self._publishers.publish_labels(header, result.instances)
        published = time.perf_counter()
        stage_ms = {
            **result.stage_ms,
            "publish": (published - start) * 1e3,
            "total": (published - received_s) * 1e3,
        }
        since_stamp_ms = (self._node.get_clock().now().nanoseconds - frame.stamp_ns) / 1e6
        if 0 <= since_stamp_ms < CLOCKS_AGREE_MS:
            stage_ms["since stamp"] = since_stamp_ms
        height, width = frame.image.shape[:2]
        self._statistics.labelled(published, stage_ms, (height, width))
        self._publishers.publish_drawings(header, frame, result.instances, config)

    def _report(self, error: Exception) -> None:
        """Count and log an error; whatever happens to one image, the next one is processed."""
        if isinstance(error, ImageError):
            self._statistics.refused(str(error))
            self._logger.warning(f"image refused: {error}", throttle_duration_sec=LOG_EVERY_S)
        else:
            self._statistics.failed(f"{type(error).__name__}: {error}")
            trace = "".join(traceback.format_exception(error))
            self._logger.error(f"image not labelled:\n{trace}", throttle_duration_sec=LOG_EVERY_S)
