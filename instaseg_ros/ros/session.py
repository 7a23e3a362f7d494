"""Turns the cameras' image messages into published labels. Imports torch."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import groupby
from typing import NamedTuple

import torch
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode
from rclpy.utilities import get_rmw_implementation_identifier

from instaseg_ros.config import Config
from instaseg_ros.frames import Frame
from instaseg_ros.pipeline import Inferred, Pipeline
from instaseg_ros.ros.batching import Slots, batch_sizes, batches
from instaseg_ros.ros.channel import LOG_EVERY_S, CameraChannel, Received
from instaseg_ros.ros.debug_pictures import DebugPictures, panels_of
from instaseg_ros.ros.gpu import Gpu, GpuWatch
from instaseg_ros.ros.input import Input
from instaseg_ros.ros.keep_up import EVENLY, EvenPicker
from instaseg_ros.ros.machine import MachineWatch
from instaseg_ros.ros.memory import give_memory_back
from instaseg_ros.ros.newest_frame_queue import NewestFrameQueue
from instaseg_ros.ros.scheduling import be_nice, processors
from instaseg_ros.ros.statistics import Snapshot
from instaseg_ros.ros.transforms import Transforms
from instaseg_ros.runtimes import Runtime, best_batch

ADAPT_EVERY_S = 0.25
GIVE_BACK_EVERY_S = 60.0


class _Image(NamedTuple):
    """A message that became a frame, and what that took in milliseconds by stage."""

    received: Received
    frame: Frame
    before_ms: dict[str, float]


class Session:
    """The pipeline with ROS messages at both ends.

    Configure makes it and warms up network and publishers. Between `start` and `stop` its channels,
    one for each camera, are subscribed, two threads label and publish, and a third draws debug
    pictures while somebody subscribes to them.
    """

    def __init__(self, node: LifecycleNode, config: Config) -> None:
        self._node = node
        self._logger = node.get_logger()
        self.pipeline = Pipeline(config)
        self._largest = largest_batch(config, self.pipeline.runtime)
        if not self.pipeline.warm_up(batch_sizes(self._largest)):
            self._logger.info(
                f"not warmed up: {self.pipeline.runtime.name} builds for one image size at a time, "
                "and input.height and input.width are not both set; the first image waits for it"
            )
        if config.depth.enabled:
            from instaseg_ros.ros import depth

            depth.warm_up()
        self._gpu = _gpu_watch(self.pipeline.runtime)
        self._even = EvenPicker()
        self.started = False
        self._transforms: Transforms | None = None
        self._machine = MachineWatch(get_rmw_implementation_identifier())
        self._channels: list[CameraChannel] = []
        try:
            for name in config.cameras:
                self._channels.append(
                    CameraChannel(
                        node,
                        name,
                        self.pipeline.class_names,
                        config.depth.enabled,
                        panels_of(self.pipeline),
                    )
                )
        except Exception:  # a bad override: channels made before must not stay
            self.close()
            raise

    def engine(self) -> dict[str, str]:
        """Facts about the computation, for diagnostics."""
        runtime, keep_up = self.pipeline.runtime, self.pipeline.config.node.keep_up
        if keep_up == EVENLY:
            keep_up = f"{keep_up}, {self._even.describe()}"
        return {
            "weights": self.pipeline.config.weights,
            "runtime": runtime.name,
            "precision": runtime.precision,
            "largest batch": str(self._largest),
            "keep up": keep_up,
            "processors": processors(),
            "classes": ", ".join(self.pipeline.class_names),
        }

    def gpu(self) -> Gpu | None:
        """The GPU that computes; None on a processor, and where it cannot be observed."""
        return self._gpu.look() if self._gpu else None

    def start(self) -> None:
        """Subscribe to the cameras. Raises ConfigError for a bad QoS override."""
        config = self.pipeline.config
        # After `stop` the executor may hold subscriptions and timer for a while, but not the
        # network: channels know nothing of it, and a closed queue forgets its work.
        queue = self._queue = NewestFrameQueue[Received](
            self._label,
            lambda received: received.channel.drop(received),
            Slots(self._largest, config.node.batch_wait_ms / 1e3 or None),
            partial(be_nice, config.node.niceness),
        )
        self._debug = DebugPictures(self._node, self.pipeline)
        self._transforms = Transforms(self._node) if config.depth.enabled else None
        started: list[CameraChannel] = []
        try:
            for channel in self._channels:
                channel.start(config, partial(_offer, queue, self._even), self._transforms)
                started.append(channel)
        except Exception:
            for channel in started:
                channel.stop()
            self._stop_transforms()
            queue.close()
            raise
        clock = Clock(clock_type=ClockType.STEADY_TIME)  # even if ROS time stands still
        self._timers = [
            self._node.create_timer(ADAPT_EVERY_S, partial(_adapt, self._channels), clock=clock),
            self._node.create_timer(GIVE_BACK_EVERY_S, give_memory_back, clock=clock),
        ]
        self.started = True

    def describe(self) -> dict[str, tuple[Input, Snapshot]]:
        """For each camera, by name, the input and its statistics, for diagnostics, while
        started."""
        machine = self._machine.look()
        return {channel.name: channel.describe(machine) for channel in self._channels}

    def reconfigure(self, config: Config) -> None:
        """Use `config` from the next image on; see `Pipeline.reconfigure`."""
        self.pipeline.reconfigure(config)
        for channel in self._channels:
            channel.config = config.node

    def stop(self, timeout_s: float | None = None) -> None:
        """Unsubscribe, and wait up to `timeout_s` for the images in work."""
        self.started = False
        for timer in self._timers:
            self._node.destroy_timer(timer)
        for channel in self._channels:
            channel.stop()
        self._stop_transforms()
        self._queue.close(timeout_s)
        self._debug.close(timeout_s)

    def close(self) -> None:
        """Destroy the publishers; an image still in work is not published."""
        for channel in self._channels:
            channel.close()

    def _stop_transforms(self) -> None:
        if self._transforms is not None:
            self._transforms.close()
            self._transforms = None

    def _label(self, batch: list[Received]) -> Iterator[Callable[[], None]]:
        """Find the instances; yields the rest of the work, publishing, for another thread.

        An image that cannot be used is counted, logged and skipped.
        """
        config, count, start = self.pipeline.config, len(batch), time.perf_counter()
        images = list(filter(None, (self._convert(received, config) for received in batch)))
        batch.clear()  # the frames have what is needed
        images.sort(key=_size)  # of one size, the longest waiting stays first
        for _, alike in groupby(images, _size):
            for some in batches(list(alike), self._largest):
                yield from self._infer(some, config)
        self._even.took((time.perf_counter() - start) / count)

    def _convert(self, received: Received, config: Config) -> _Image | None:
        if not config.node.enabled:
            received.channel.ignore()
            return None
        try:
            return _Image(received, *received.channel.convert(received, config.input))
        except Exception as error:
            received.channel.report(error)
            return None

    def _infer(self, images: list[_Image], config: Config) -> Iterator[Callable[[], None]]:
        """Network and clustering for images of one size."""
        try:
            inferred = self.pipeline.infer([image.frame for image in images])
            for camera in inferred.jumped_back:
                self._logger.info(
                    f"image stamps of camera '{camera}' jumped back: forgetting its earlier "
                    "frames; if this goes on, two publishers share this "
                    f"{'topic' if images[0].frame.camera else 'frame_id'}",
                    throttle_duration_sec=LOG_EVERY_S,
                )
        except Exception as error:
            if len(images) == 1:
                images[0].received.channel.report(error)
                return
            self._logger.warning(
                f"a batch of {len(images)} images failed; trying them one by one:\n"
                + "".join(traceback.format_exception(error)),
                throttle_duration_sec=LOG_EVERY_S,
            )
        else:
            yield partial(self._publish, images, inferred, time.perf_counter(), config)
            channels = [image.received.channel for image in images]
            headers = [image.received.message.header for image in images]
            self._debug.look(channels, headers, inferred)  # the labels are on their way
            return
        for image in images:
            yield from self._infer([image], config)

    def _publish(
        self, images: list[_Image], inferred: Inferred, inferred_s: float, config: Config
    ) -> None:
        """Publish what was found in each image of a batch, whatever becomes of the others.

        inferred_s: when network and clustering were done.
        """
        for image, found in zip(images, inferred.apart(), strict=True):
            channel = image.received.channel
            hand_over_ms = (time.perf_counter() - inferred_s) * 1e3
            try:
                (result,) = self.pipeline.finish(found)
                result.stage_ms.update(image.before_ms)
                result.stage_ms["hand over"] = hand_over_ms
                channel.publish(image.received, image.frame, result, config)
            except Exception as error:
                channel.report(error)


def largest_batch(config: Config, runtime: Runtime) -> int:
    """Most images that the network is to see at once: as configured, else as the runtime likes."""
    largest = config.node.largest_batch
    if not largest:
        images = 2 if config.input.mirror else 1  # for each frame
        engine = max(1, config.runtime.engine.max_batch // images)
        largest = min(best_batch(runtime), engine)
    return min(largest, len(config.cameras))


def _size(image: _Image) -> tuple[int, ...]:
    return image.frame.image.shape


def _offer(
    queue: NewestFrameQueue[Received], even: EvenPicker, name: str, received: Received
) -> None:
    """Offer an image to the queue, or drop it, as node.keep_up says."""
    channel = received.channel
    taken = even.takes(name, received.time_s)  # counts, even if it does not decide
    if taken or channel.config.keep_up != EVENLY:
        queue.offer(name, received)
    else:
        channel.drop(received)


def _adapt(channels: Iterable[CameraChannel]) -> None:
    for channel in channels:
        channel.adapt()


def _gpu_watch(runtime: Runtime) -> GpuWatch | None:
    device = getattr(runtime, "device", None)
    if not isinstance(device, torch.device) or device.type != "cuda":
        return None
    properties = torch.cuda.get_device_properties(device)
    return GpuWatch(str(getattr(properties, "uuid", "")))  # torch 2.1 has none
