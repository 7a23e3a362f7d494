"""Tells where a camera's objects are in space, after its labels and beside them."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from instaseg_ros.config import Config, DepthConfig
from instaseg_ros.errors import ImageError
from instaseg_ros.frames import Frame, Instances, Locations
from instaseg_ros.localization import locate
from instaseg_ros.numba_cache import compile_all
from instaseg_ros.rays import sight
from instaseg_ros.recordings.depth_images import Depth, with_depth
from instaseg_ros.ros.camera import ImageTopics, below, stamp_ns
from instaseg_ros.ros.depth_pairing import DepthPairing, Nearest
from instaseg_ros.ros.depth_statistics import SUFFIX, DepthSnapshot, DepthStatistics
from instaseg_ros.ros.machine import Machine
from instaseg_ros.ros.transforms import Transforms

LOG_EVERY_S = 5.0
QUEUE = 4  # an image's own depth must not make room for the next
PATIENCE_S = 1.0  # for the image in work when the camera is stopped


class Found(NamedTuple):
    """What was found in an image: the header of its message, its frame, and the configuration."""

    header: Header
    frame: Frame
    instances: Instances
    config: Config


class DepthStage:
    """The depth images of one camera, and the thread that locates its objects, until `close`.

    name: the camera's, as in `Camera`. publish: called in the thread with what was found in each
    image, the frame with its depth, and where its objects are; without usable depth with None.
    """

    def __init__(
        self,
        node: Node,
        name: str,
        config: DepthConfig,
        transforms: Transforms,
        publish: Callable[[Found, Locations | None], None],
    ) -> None:
        self._logger = node.get_logger()
        self._transforms = transforms
        self._publish = publish
        base = node.resolve_topic_name(below(name, "depth"))
        raw = config.transport == "raw"
        self._topics = ImageTopics(
            node,
            Image if raw else CompressedImage,
            below(name, "depth") if raw else f"{base}{SUFFIX}",
            _info_topic(node, name, base),
            self._receive,
            depth=QUEUE,
        )
        self._statistics = DepthStatistics(self._topics.describe(Machine()))
        self._pairing = DepthPairing[Found, Depth](self._locate, self._give_up)
        self.expect, self.forget = self._pairing.expect, self._pairing.forget

    def follow(self, header: Header, frame: Frame, instances: Instances, config: Config) -> None:
        """Locate the objects found in an image as soon as its depth is there. Returns at once."""
        found = Found(header, frame, instances, config)
        self._pairing.offer_result(frame.stamp_ns, found, config.depth.wait_ms / 1e3)

    def adapt(self) -> None:
        """Adapt to the current publishers; call this a few times per second."""
        self._topics.adapt()
        self._transforms.adapt()

    def describe(self, machine: Machine) -> DepthSnapshot:
        """For diagnostics."""
        return self._statistics.snapshot(time.perf_counter(), self._topics.describe(machine))

    def close(self) -> None:
        """Unsubscribe, and wait a moment for the image in work."""
        self._topics.close()
        self._pairing.close(PATIENCE_S)

    def _receive(self, message: Any, about: dict[str, Any]) -> None:
        self._statistics.received(time.perf_counter())
        self._pairing.offer_depth(stamp_ns(message.header), Depth(message, self._topics.info))

    def _give_up(self, found: Found) -> None:
        self._statistics.without("locating objects takes longer than images come")

    def _locate(self, found: Found, nearest: Nearest[Depth] | None) -> None:
        """Whatever happens to one image, the next one is located."""
        try:
            located = self._located(found, nearest)
        except Exception as error:
            located = None
            self._report(error)
        try:
            self._publish(*(located or (found, None)))
        except Exception as error:
            self._report(error)

    def _located(
        self, found: Found, nearest: Nearest[Depth] | None
    ) -> tuple[Found, Locations] | None:
        config = found.config.depth
        if nearest is None:
            self._statistics.without("")
            return None
        later_ms = nearest.later_ns / 1e6
        if abs(later_ms) > config.slop_ms:
            self._statistics.without(
                f"the nearest depth image was taken {abs(later_ms):.0f} ms "
                f"{'after' if later_ms > 0 else 'before'} the image, more than "
                f"{config.slop_ms:g} ms (depth.slop_ms)"
            )
            return None
        frame = with_depth(found.frame, nearest.depth, found.config.input, self._transforms.pose)
        assert frame.depth is not None
        locations = locate(found.instances, frame.depth, sight(frame), config.min_pixels)
        left_out = len(found.instances) - len(locations)
        self._statistics.located(time.perf_counter(), later_ms, len(locations), left_out)
        return found._replace(frame=frame), locations

    def _report(self, error: Exception) -> None:
        if isinstance(error, ImageError):
            self._statistics.without(str(error))
            self._logger.warning(f"no depth: {error}", throttle_duration_sec=LOG_EVERY_S)
        else:
            self._statistics.without(f"{type(error).__name__}: {error}")
            trace = "".join(traceback.format_exception(error))
            self._logger.error(f"objects not located:\n{trace}", throttle_duration_sec=LOG_EVERY_S)


def warm_up() -> None:
    """Compile what locates objects, which may take seconds the first time."""
    compile_all()


def _info_topic(node: Node, name: str, depth_topic: str) -> str:
    """`depth/camera_info`, but beside the depth images if only those are remapped."""
    depth, info = below(name, "depth"), below(name, "depth/camera_info")
    remapped = [
        node.resolve_topic_name(topic) != node.resolve_topic_name(topic, only_expand=True)
        for topic in (depth, info)
    ]
    if remapped == [True, False]:
        return f"{depth_topic.rpartition('/')[0]}/camera_info"
    return node.resolve_topic_name(info)
