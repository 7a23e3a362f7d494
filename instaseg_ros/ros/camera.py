"""Subscribes to a camera's images and, for its intrinsics, to its camera_info."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rclpy.node import Node
from rclpy.qos import qos_policy_name_from_kind
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from instaseg_ros.config import InputConfig, NodeConfig
from instaseg_ros.frames import Frame
from instaseg_ros.recordings.image_messages import (
    camera_matrix,
    compressed_to_rgb,
    image_to_rgb,
    lens_distortion,
)
from instaseg_ros.recordings.result_messages import below
from instaseg_ros.ros import qos
from instaseg_ros.ros.distributions import (
    SubscriptionEventCallbacks,
    UnsupportedEventTypeError,
    sequence_of,
    with_info,
)
from instaseg_ros.ros.input import SUFFIX, TRANSPORTS, Input, Publisher
from instaseg_ros.ros.losses import LossCounter
from instaseg_ros.ros.machine import Machine

MESSAGE_CLASSES = {"raw": Image, "compressed": CompressedImage}


class Camera:
    """Subscribes to the image topic, and to `camera_info`, until `close`.

    name: below which the topics are, such as `front/image`; empty: `image`.
    on_image: called by the executor with each message and the newest CameraInfo, or None.
    on_lost: called with a number of images that were published but never arrived.
    rectified: as `input.rectified`.
    """

    def __init__(
        self,
        node: Node,
        name: str,
        config: NodeConfig,
        on_image: Callable[[Any, CameraInfo | None], None],
        on_lost: Callable[[int], None],
        rectified: bool = False,
    ) -> None:
        self._node = node
        self._rectified = rectified
        self._on_image = on_image
        self._on_lost = on_lost
        self._losses = LossCounter()
        # Like image_transport, append the suffix to the topic that `image` is remapped to.
        image = below(name, "image")
        base = node.resolve_topic_name(image)
        compressed = config.image_transport == "compressed"
        self._topics = ImageTopics(
            node,
            MESSAGE_CLASSES[config.image_transport],
            f"{base}{SUFFIX}" if compressed else image,
            _info_topic(node, name, base),
            self._receive,
            config.input_reliability,
        )
        self.adapt()

    def adapt(self) -> None:
        """Adapt to the current publishers; call this a few times per second."""
        infos = self._node.get_publishers_info_by_topic(self._topics.images.topic)
        if lost := self._losses.settle({bytes(info.endpoint_gid) for info in infos}):
            self._on_lost(lost)
        if self._topics.adapt():
            self._losses.restart()

    def describe(self, machine: Machine) -> Input:
        """The input, for diagnostics."""
        found = self._topics.describe(machine, self._rectified)
        return found if found.publishers else replace(found, elsewhere=self._elsewhere())

    def close(self) -> None:
        """Unsubscribe."""
        self._topics.close()

    def _receive(self, message: Any, about: dict[str, Any]) -> None:
        number, sender = sequence_of(about)
        if number is not None and (lost := self._losses.arrived(number, sender)):
            self._on_lost(lost)
        self._on_image(message, self._topics.info)

    def _elsewhere(self) -> tuple[tuple[str, str], ...]:
        own = f"{self._node.get_fully_qualified_name()}/"
        return tuple(
            sorted(
                (topic, kind)
                for topic, kinds in self._node.get_topic_names_and_types()
                for kind in kinds
                if kind in TRANSPORTS
                and topic != self._topics.images.topic
                and not topic.startswith(own)
                and self._node.count_publishers(topic)
            )
        )


def _info_topic(node: Node, name: str, image_topic: str) -> str:
    """`camera_info` if it is remapped, else beside the images, as in image_transport."""
    info = below(name, "camera_info")
    remapped = node.resolve_topic_name(info)
    if remapped != node.resolve_topic_name(info, only_expand=True):
        return remapped
    return f"{image_topic.rpartition('/')[0]}/camera_info"


def described(info: CameraInfo | None, rectified: bool = True) -> str:
    """A camera_info in a few words, and whether it says more than is used of it."""
    if info is None:
        return "none yet"
    remark = "" if info.k[0] else ", not calibrated"
    if not rectified and any(info.d):
        known = lens_distortion(info) is not None
        remark += f", {info.distortion_model} {'corrected' if known else 'unknown, not corrected'}"
        remark += ": not rectified (input.rectified)"
    return f"{info.width} x {info.height}, frame_id '{info.header.frame_id}'{remark}"


class ImageTopics:
    """Subscribes to images and their camera_info until `close`.

    Arguments are as of `FollowingSubscription`. info: the newest CameraInfo; None before the first.
    """

    def __init__(
        self,
        node: Node,
        message_class: Any,
        topic: str,
        info_topic: str,
        receive: Callable[[Any, dict[str, Any]], None],
        reliability: str = "auto",
        depth: int = 1,
    ) -> None:
        self.info: CameraInfo | None = None
        self.images = FollowingSubscription(node, message_class, topic, receive, reliability, depth)
        try:
            self._infos = FollowingSubscription(node, CameraInfo, info_topic, self._receive_info)
        except Exception:  # a bad override
            self.images.close()
            raise

    def adapt(self) -> bool:
        """Adapt to the current publishers; True if that took a new subscription to the images."""
        self._infos.adapt()
        return self.images.adapt()

    def describe(self, machine: Machine, rectified: bool = True) -> Input:
        """The input, for diagnostics, without images elsewhere."""
        return Input(
            topic=self.images.topic,
            message_type=self.images.message_type,
            quality=self.images.quality,
            publishers=self.images.publishers(),
            incompatible_policy=self.images.incompatible_policy,
            camera_info=f"{self._infos.topic}: {described(self.info, rectified)}",
            machine=machine,
        )

    def close(self) -> None:
        """Unsubscribe."""
        self.images.close()
        self._infos.close()

    def _receive_info(self, message: CameraInfo, about: dict[str, Any]) -> None:
        self.info = message


class FollowingSubscription:
    """Subscribes to `topic`, newest message only, until `close`; `adapt` follows the publishers.

    receive: called by the executor with each message and rclpy's information about it.
    depth: how many messages may wait. raw: messages come as serialized bytes.
    topic: resolved name. incompatible_policy: for which a publisher was rejected, or empty.
    """

    def __init__(
        self,
        node: Node,
        message_class: Any,
        topic: str,
        receive: Callable[[Any, dict[str, Any]], None],
        reliability: str = "auto",
        depth: int = 1,
        raw: bool = False,
    ) -> None:
        self._node = node
        self._message_class = message_class
        self._name = topic
        self._receive = receive
        self._depth, self._raw = depth, raw
        package = message_class.__module__.partition(".")[0]
        self.message_type = f"{package}/msg/{message_class.__name__}"
        self.topic = node.resolve_topic_name(topic)
        self._settings = qos.settings(node, self.topic, reliability)
        self.quality = qos.choose(self._settings, (), qos.HEARS_ALL)
        self.incompatible_policy = ""
        self._subscription = self._subscribe()

    def adapt(self) -> bool:
        """Adapt to the current publishers; True if that took a new subscription."""
        offered = [p.quality for p in self.publishers() if p.message_type == self.message_type]
        wanted = qos.choose(self._settings, offered, self.quality)
        if wanted == self.quality:
            return False
        self._node.get_logger().info(f"{self.topic}: subscribing {wanted}, as offered")
        self.quality = wanted
        self._node.destroy_subscription(self._subscription)
        self._subscription = self._subscribe()
        return True

    def publishers(self) -> tuple[Publisher, ...]:
        """All publishers on the topic, of any type."""
        infos = self._node.get_publishers_info_by_topic(self.topic)
        return tuple(
            sorted(
                Publisher(
                    f"{info.node_namespace.rstrip('/')}/{info.node_name}",
                    info.topic_type,
                    qos.offered_by(info.qos_profile),
                )
                for info in infos
            )
        )

    def close(self) -> None:
        """Unsubscribe."""
        self._node.destroy_subscription(self._subscription)

    def _subscribe(self) -> Subscription:
        self.incompatible_policy = ""
        subscribe = functools.partial(
            self._node.create_subscription,
            self._message_class,
            self._name,
            with_info(self._receive),
            qos.input_profile(self.quality, self._depth),
            qos_overriding_options=qos.INPUT_OVERRIDES,
            raw=self._raw,
        )
        events = SubscriptionEventCallbacks(incompatible_qos=self._on_incompatible_qos)
        try:
            return subscribe(event_callbacks=events)
        except UnsupportedEventTypeError:  # not every middleware reports mismatches
            return subscribe()

    def _on_incompatible_qos(self, event: Any) -> None:
        self.incompatible_policy = qos_policy_name_from_kind(event.last_policy_kind)
        self._node.get_logger().warning(
            f"{self.topic}: a publisher offers a different QoS than requested, in "
            f"{self.incompatible_policy}; its messages will not arrive"
        )


def to_frame(message: Any, config: InputConfig, camera_info: CameraInfo | None = None) -> Frame:
    """A Frame from a sensor_msgs Image or CompressedImage. Raises ImageError if it is unreadable.

    camera_info: ignored if it is of another camera, or not calibrated.
    """
    to_rgb = compressed_to_rgb if isinstance(message, CompressedImage) else image_to_rgb
    image = to_rgb(message, config)
    header = message.header
    if camera_info is None or camera_info.header.frame_id != header.frame_id:
        return Frame(image, stamp_ns(header), header.frame_id)
    matrix = camera_matrix(camera_info, image.shape[:2], config.rectified)
    lens = lens_distortion(camera_info, config.rectified)
    return Frame(image, stamp_ns(header), header.frame_id, intrinsics=matrix, distortion=lens)


def stamp_ns(header: Header) -> int:
    """Nanoseconds of a message's stamp, which may be before 1970."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)
