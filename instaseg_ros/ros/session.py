"""Turns a camera's image messages into published labels. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode

from instaseg_ros.config import Config
from instaseg_ros.pipeline import Pipeline
from instaseg_ros.ros.channel import LOG_EVERY_S, CameraChannel, Received
from instaseg_ros.ros.gpu import Gpu, GpuWatch
from instaseg_ros.ros.newest_frame_queue import NewestFrameQueue
from instaseg_ros.ros.reasons import Input
from instaseg_ros.ros.statistics import Snapshot
from instaseg_ros.runtimes import Runtime

ADAPT_EVERY_S = 0.25


class Session:
    """The pipeline with ROS messages at both ends.

    Configure makes it and warms up network and publishers. Between `start` and `stop` its channels
    are subscribed to the cameras, and two threads label and publish.
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
        self._gpu = _gpu_watch(self.pipeline.runtime)
        self.started = False
        self._channels = [CameraChannel(node, "", self.pipeline.class_names)]

    def engine(self) -> dict[str, str]:
        """Facts about the computation, for diagnostics."""
        runtime = self.pipeline.runtime
        return {
            "weights": self.pipeline.config.weights,
            "runtime": runtime.name,
            "precision": runtime.precision,
            "classes": ", ".join(self.pipeline.class_names),
        }

    def gpu(self) -> Gpu | None:
        """The GPU that computes; None on a processor, and where it cannot be observed."""
        return self._gpu.look() if self._gpu else None

    def start(self) -> None:
        """Subscribe to the cameras. Raises ConfigError for a bad QoS override."""
        (channel,) = self._channels
        # After `stop` the executor may hold subscriptions and timer for a while, but not the
        # network: channels know nothing of it, and a closed queue forgets its work.
        queue = self._queue = NewestFrameQueue[Received](
            partial(self._label, channel), channel.drop
        )
        try:
            channel.start(self.pipeline.config.node, queue.offer)
        except Exception:
            queue.close()
            raise
        # The graph is watched in real time, even if ROS time stands still.
        self._timer = self._node.create_timer(
            ADAPT_EVERY_S,
            partial(_adapt, self._channels),
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )
        self.started = True

    def describe(self) -> tuple[Input, Snapshot]:
        """The input and its statistics, for diagnostics, while started."""
        (channel,) = self._channels
        return channel.describe()

    def reconfigure(self, config: Config) -> None:
        """Use `config` from the next image on; see `Pipeline.reconfigure`."""
        self.pipeline.reconfigure(config)
        for channel in self._channels:
            channel.config = config.node

    def stop(self, timeout_s: float | None = None) -> None:
        """Unsubscribe, and wait up to `timeout_s` for the images in work."""
        self.started = False
        self._node.destroy_timer(self._timer)
        for channel in self._channels:
            channel.stop()
        self._queue.close(timeout_s)

    def close(self) -> None:
        """Destroy the publishers; an image still in work is not published."""
        for channel in self._channels:
            channel.close()

    def _label(self, channel: CameraChannel, received: Received) -> Callable[[], None] | None:
        """Find the instances; returns the rest of the work, publishing, for another thread.

        An image that cannot be used is counted, logged and skipped.
        """
        try:
            config = self.pipeline.config
            if not config.node.enabled:
                channel.ignore()
                return None
            frame, before_ms = channel.convert(received, config.input)
            inferred = self.pipeline.infer([frame])
            for camera in inferred.jumped_back:
                self._logger.info(
                    f"image stamps of camera '{camera}' jumped back: forgetting its earlier "
                    "frames; if this goes on, two publishers share this frame_id",
                    throttle_duration_sec=LOG_EVERY_S,
                )
        except Exception as error:
            channel.report(error)
            return None

        def publish() -> None:
            try:
                (result,) = self.pipeline.finish(inferred)
                result.stage_ms.update(before_ms)
                channel.publish(received, frame, result, config)
            except Exception as error:
                channel.report(error)

        return publish


def _adapt(channels: Iterable[CameraChannel]) -> None:
    for channel in channels:
        channel.adapt()


def _gpu_watch(runtime: Runtime) -> GpuWatch | None:
    device = getattr(runtime, "device", None)
    if not isinstance(device, torch.device) or device.type != "cuda":
        return None
    properties = torch.cuda.get_device_properties(device)
    return GpuWatch(str(getattr(properties, "uuid", "")))  # torch 2.1 has none
