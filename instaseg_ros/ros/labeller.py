"""From one image message to published labels: what the worker threads do. Imports torch."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable

from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import Header

from instaseg_ros.config import Config
from instaseg_ros.errors import ImageError
from instaseg_ros.frames import Frame, Result
from instaseg_ros.pipeline import Pipeline
from instaseg_ros.ros.messages import to_frame
from instaseg_ros.ros.publishers import ResultPublishers
from instaseg_ros.ros.statistics import Statistics
from instaseg_ros.ros.stream import Received

CLOCKS_AGREE_MS = 10_000  # a header stamp older than this, or in the future, is of another clock
LOG_EVERY_S = 5.0


class Labeller:
    """The pipeline with ROS messages at both ends, warmed up and ready; what configure makes."""

    def __init__(self, node: LifecycleNode, config: Config) -> None:
        self.pipeline = Pipeline(config)
        self._clock = node.get_clock()
        self._logger = node.get_logger()
        if not self.pipeline.warm_up():
            self._logger.info(
                f"not warmed up: {self.pipeline.runtime.name} builds for one image size at a time, "
                "and input.height and input.width are not both set; the first image waits for it"
            )
        self._config = config
        self._closed = False
        self._publishers = ResultPublishers(node, self.pipeline.class_names)

    def use(self, config: Config) -> None:
        """Take over the live parameters of `config`."""
        self._config = config
        self.pipeline.decode_config = config.decode
        self.pipeline.tracking_config = config.tracking

    def publish_label_info(self) -> None:
        """Class names; latched."""
        self._publishers.publish_label_info()

    def engine(self) -> dict[str, str]:
        """What computes, for diagnostics."""
        runtime = self.pipeline.runtime
        return {
            "weights": self.pipeline.config.weights,
            "runtime": runtime.name,
            "precision": runtime.precision,
            "classes": ", ".join(self.pipeline.class_names),
        }

    def label(self, received: Received, statistics: Statistics) -> Callable[[], None] | None:
        """Run the network; returns what decodes and publishes, in another thread if you like.

        An image that cannot be used is counted, logged and skipped.
        """
        header = received.message.header
        start = time.perf_counter()
        try:
            frame = to_frame(received.message, self._config.input, received.camera_info)
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
            self._report(error, statistics)
            return None

        def publish() -> None:
            try:
                (result,) = self.pipeline.decode(inferred)
                result.stage_ms.update(before_ms)
                self._publish(header, frame, result, received.time_s, statistics)
            except Exception as error:
                self._report(error, statistics)

        return publish

    def close(self) -> None:
        """Destroy the publishers; an image still in work is not published."""
        self._closed = True
        self._publishers.close()

    def _publish(
        self,
        header: Header,
        frame: Frame,
        result: Result,
        received_s: float,
        statistics: Statistics,
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
        since_stamp_ms = (self._clock.now().nanoseconds - frame.stamp_ns) / 1e6
        if 0 <= since_stamp_ms < CLOCKS_AGREE_MS:
            stage_ms["since stamp"] = since_stamp_ms
        height, width = frame.image.shape[:2]
        statistics.labelled(published, stage_ms, (height, width))
        self._publishers.publish_drawings(header, frame, result.instances, self._config)

    def _report(self, error: Exception, statistics: Statistics) -> None:
        """Count and log; whatever one image does, the next one gets its chance."""
        if isinstance(error, ImageError):
            statistics.refused(str(error))
            self._logger.warning(f"image refused: {error}", throttle_duration_sec=LOG_EVERY_S)
        else:
            statistics.failed(f"{type(error).__name__}: {error}")
            trace = "".join(traceback.format_exception(error))
            self._logger.error(f"image not labelled:\n{trace}", throttle_duration_sec=LOG_EVERY_S)
