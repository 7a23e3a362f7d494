"""One camera of the node: its images in, its outputs out, its counts."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import Header

from instaseg_ros.config import Config, InputConfig, NodeConfig
from instaseg_ros.errors import ImageError
from instaseg_ros.frames import Frame, Locations, Result
from instaseg_ros.ros.camera import Camera, stamp_ns, to_frame
from instaseg_ros.ros.input import Input
from instaseg_ros.ros.machine import Machine
from instaseg_ros.ros.publishers import ResultPublishers
from instaseg_ros.ros.statistics import Snapshot, Statistics
from instaseg_ros.ros.transforms import Transforms

if TYPE_CHECKING:
    from instaseg_ros.ros.depth import DepthStage, Found

CLOCKS_AGREE_MS = 10_000  # a header stamp older than this, or in the future, is from another clock
LOG_EVERY_S = 5.0


class Received(NamedTuple):
    """An image message of a channel, when it came in `time.perf_counter()` seconds, and the newest
    CameraInfo or None."""

    channel: CameraChannel
    message: Any
    time_s: float
    camera_info: Any


class CameraChannel:
    """What the node has of one camera: publishers until `close`; between `start` and `stop` the
    subscription and the counts. Whatever happens to an image of this camera is counted here, once.

    name: the camera's, below which its topics are; empty for the only camera of a node.
    debug: names of the panels that it may have to publish.
    config: replaced when a live parameter is set; read for each image.
    """

    config: NodeConfig

    def __init__(
        self,
        node: LifecycleNode,
        name: str,
        class_names: Sequence[str],
        with_depth: bool = False,
        debug: Sequence[str] = (),
    ) -> None:
        self.name = name
        self._depth: DepthStage | None = None
        self._node = node
        self._logger = node.get_logger()
        self._closed = False
        self._publishers = ResultPublishers(node, class_names, name, with_depth, debug)

    def start(
        self,
        config: Config,
        offer: Callable[[str, Received], None],
        transforms: Transforms | None = None,
    ) -> None:
        """Publish the class names, and pass each image that arrives, with this camera's name, on to
        `offer`. Raises ConfigError for a bad QoS override.

        transforms: between camera frames; None if there are no depth images.
        """
        self.config = config.node
        self._publishers.publish_label_info()
        statistics = self._statistics = Statistics(time.perf_counter())

        def receive(message: Any, camera_info: Any) -> None:
            now_s = time.perf_counter()
            statistics.received(now_s, len(message.data))
            self._publishers.events.looked()
            if not self.config.enabled:
                self.ignore()
                return
            if self._depth is not None:
                self._depth.expect(stamp_ns(message.header))
            offer(self.name, Received(self, message, now_s, camera_info))

        def lose(count: int) -> None:
            statistics.lost(time.perf_counter(), count)

        self._camera = Camera(
            self._node, self.name, config.node, receive, lose, config.input.rectified
        )
        if transforms is not None:
            from instaseg_ros.ros.depth import DepthStage  # kernels, compiled at the first start

            try:
                self._depth = DepthStage(
                    self._node, self.name, config.depth, transforms, self._publish_locations
                )
            except Exception:  # a bad override
                self._camera.close()
                raise

    def adapt(self) -> None:
        """Adapt to the current publishers; call this a few times per second while started."""
        self._camera.adapt()
        if self._depth is not None:
            self._depth.adapt()

    def describe(self, machine: Machine) -> tuple[Input, Snapshot]:
        """The input and its statistics, for diagnostics, while started."""
        snapshot = self._statistics.snapshot(time.perf_counter())
        if self._depth is not None:
            snapshot = replace(snapshot, depth=self._depth.describe(machine))
        return self._camera.describe(machine), snapshot

    def stop(self) -> None:
        """Unsubscribe."""
        self._camera.close()
        if self._depth is not None:
            self._depth.close()
            self._depth = None

    def close(self) -> None:
        """Destroy the publishers; an image still in work is not published."""
        self._closed = True
        self._publishers.close()

    def drop(self, received: Received) -> None:
        """Count an image that a newer one has replaced."""
        self._statistics.dropped(time.perf_counter())
        if (depth := self._depth) is not None:
            depth.forget(stamp_ns(received.message.header))

    def ignore(self) -> None:
        """Count an image that came while labelling was disabled."""
        self._statistics.ignored(time.perf_counter())

    def convert(self, received: Received, config: InputConfig) -> tuple[Frame, dict[str, float]]:
        """The frame of a message, and what its first stages took in milliseconds. Raises ImageError
        if it is unreadable."""
        start = time.perf_counter()
        frame = to_frame(received.message, config, received.camera_info)
        frame = replace(frame, camera=self.name)
        stage_ms = {
            "wait": (start - received.time_s) * 1e3,
            "convert": (time.perf_counter() - start) * 1e3,
        }
        return frame, stage_ms

    def publish(self, received: Received, frame: Frame, result: Result, config: Config) -> None:
        """Publish what was found in an image, and count it; then what people look at."""
        if self._closed:
            return
        header = received.message.header
        start = time.perf_counter()
        self._publishers.publish_labels(header, result.instances)
        published = time.perf_counter()
        stage_ms = {
            **result.stage_ms,
            "publish": (published - start) * 1e3,
            "total": (published - received.time_s) * 1e3,
        }
        since_stamp_ms = (self._node.get_clock().now().nanoseconds - frame.stamp_ns) / 1e6
        if 0 <= since_stamp_ms < CLOCKS_AGREE_MS:
            stage_ms["since stamp"] = since_stamp_ms
        height, width = frame.image.shape[:2]
        self._statistics.labelled(published, stage_ms, (height, width), result.network_size)
        try:
            depth = self._depth
            if depth is not None:
                depth.follow(header, frame, result.instances, config)
            self._publishers.publish_pictures(header, frame, result.instances, config)
            if depth is None:
                self._publishers.publish_markers(header, frame, result.instances)
        except Exception:  # the image is labelled, and counted as such
            self._logger.error(
                f"{self._image()} not drawn:\n{traceback.format_exc()}",
                throttle_duration_sec=LOG_EVERY_S,
            )

    def debug_wanted(self) -> list[str]:
        """The panels to which somebody subscribes."""
        return [] if self._closed else self._publishers.debug_wanted()

    def publish_debug(self, header: Header, name: str, picture: NDArray[np.uint8]) -> None:
        """Publish a panel, (H, W, 3) uint8 RGB."""
        if not self._closed:
            self._publishers.publish_debug(header, name, picture)

    def report(self, error: Exception) -> None:
        """Count and log an error; whatever happens to one image, the next one is processed."""
        image = self._image()
        if isinstance(error, ImageError):
            self._statistics.refused(str(error))
            self._logger.warning(f"{image} refused: {error}", throttle_duration_sec=LOG_EVERY_S)
        else:
            self._statistics.failed(f"{type(error).__name__}: {error}")
            trace = "".join(traceback.format_exception(error))
            self._logger.error(f"{image} not labelled:\n{trace}", throttle_duration_sec=LOG_EVERY_S)

    def _publish_locations(self, found: Found, locations: Locations | None) -> None:
        """Publish where objects are; without depth, only markers in their direction."""
        if self._closed:
            return
        said = found.header, found.frame, found.instances
        if locations is not None:
            self._publishers.publish_locations(*said, locations)
        self._publishers.publish_markers(*said, locations)

    def _image(self) -> str:
        return f"image of camera {self.name}" if self.name else "image"
