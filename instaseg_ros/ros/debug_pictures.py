"""Draws what the network thinks of a camera's images while somebody subscribes to it."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from std_msgs.msg import Header

from instaseg_ros.frames import Instances
from instaseg_ros.pipeline import Inferred, Pipeline
from instaseg_ros.ros.scheduling import be_nice
from instaseg_ros.view.panels import draw, names
from instaseg_ros.view.scene import scene_of
from instaseg_ros.view.viewer import raw_outputs

if TYPE_CHECKING:
    from instaseg_ros.ros.channel import CameraChannel

NICENESS = 19  # whatever else wants the processor is more urgent
LOG_EVERY_S = 5.0


class _Look(NamedTuple):
    """What is kept of an image until it is drawn."""

    channel: CameraChannel
    header: Header
    image: NDArray[np.uint8]
    outputs: Mapping[str, NDArray[np.float32]]
    clusters: Instances


class DebugPictures:
    """Publishes the panels of `instaseg view`, in a thread of its own, until `close`.

    Labels and detections do not wait for it. While nobody subscribes, nothing is done. Otherwise
    the network's thread copies the outputs for an image once that was handed over for publishing,
    and not while an earlier one of its camera still waits to be drawn; the rest is done by a thread
    that yields to every other (nice 19).
    """

    def __init__(self, node: Node, pipeline: Pipeline) -> None:
        self._logger = node.get_logger()
        self._pipeline = pipeline
        self._changed = threading.Condition()
        self._waiting: dict[str, _Look] = {}  # by camera
        self._closing = False
        self._thread: threading.Thread | None = None  # until somebody subscribes

    def look(
        self, channels: Sequence[CameraChannel], headers: Sequence[Header], inferred: Inferred
    ) -> None:
        """Keep what subscribers want to see of a batch. Returns soon, and never raises."""
        for n, (channel, header) in enumerate(zip(channels, headers, strict=True)):
            try:
                if channel.name in self._waiting or not channel.debug_wanted():
                    continue
                outputs = raw_outputs(self._pipeline, inferred, n)
            except Exception:
                self._report()
                continue
            clusters = inferred.instances[n]
            self._offer(_Look(channel, header, inferred.frames[n].image, outputs, clusters))

    def close(self, timeout_s: float | None = None) -> None:
        """Forget what waits, and wait up to `timeout_s` for the picture in work."""
        with self._changed:
            self._closing = True
            self._waiting.clear()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _offer(self, look: _Look) -> None:
        with self._changed:
            if self._closing:
                return
            self._waiting[look.channel.name] = look
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="drawing", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _run(self) -> None:
        be_nice(NICENESS)
        while (look := self._next()) is not None:
            try:
                self._draw(look)
            except Exception:
                self._report()
            del look  # do not keep images alive while waiting

    def _next(self) -> _Look | None:
        """What has waited longest; None after `close`."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._waiting)
            if self._closing:
                return None
            return self._waiting.pop(next(iter(self._waiting)))

    def _draw(self, look: _Look) -> None:
        config = self._pipeline.config
        least_score = getattr(config.decode, "foreground_threshold", 0.0)
        class_names = self._pipeline.class_names
        scene = scene_of(look.image, look.outputs, look.clusters, class_names, least_score)
        for name in look.channel.debug_wanted():
            look.channel.publish_debug(look.header, name, draw(scene, name))

    def _report(self) -> None:
        self._logger.error(
            f"debug pictures not drawn:\n{traceback.format_exc()}",
            throttle_duration_sec=LOG_EVERY_S,
        )


def panels_of(pipeline: Pipeline) -> tuple[str, ...]:
    """The panels that are published of a pipeline: all but the image, which there is already."""
    return names({head.name for head in pipeline.method.heads})[1:]
