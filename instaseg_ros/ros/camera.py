"""The subscription to the camera, kept at the reliability its publishers offer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import qos_policy_name_from_kind
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

from instaseg_ros.config import NodeConfig
from instaseg_ros.ros import qos
from instaseg_ros.ros.diagnostics import Input, Publisher

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError

MESSAGE_CLASSES = {"raw": Image, "compressed": CompressedImage}


class Camera:
    """Subscribes to the image topic until `close`.

    on_image: called by the executor with each message and the number of images that the same
    publisher sent before it and that never arrived.
    """

    def __init__(
        self, node: Node, config: NodeConfig, on_image: Callable[[Any, int], None]
    ) -> None:
        self._node = node
        self._on_image = on_image
        self._message_class = MESSAGE_CLASSES[config.image_transport]
        self._message_type = f"sensor_msgs/msg/{self._message_class.__name__}"
        # As image_transport does, the suffix goes to the topic that `image` is remapped to.
        self._name = "image"
        if config.image_transport != "raw":
            self._name = f"{node.resolve_topic_name('image')}/{config.image_transport}"
        self.topic = node.resolve_topic_name(self._name)
        self._setting = qos.reliability_setting(node, self.topic, config.input_reliability)
        self._incompatible_policy = ""
        self._last_sequence: int | None = None
        self._publisher_gids: list[bytes] = []
        # Until a publisher is seen: best effort can hear every kind.
        self._reliability = qos.choose_reliability(self._setting, (), "best_effort")
        self._subscription = self._subscribe()
        self.adapt()

    def adapt(self) -> None:
        """Follow the publishers that are there now; to be called a few times per second."""
        infos = self._node.get_publishers_info_by_topic(self.topic)
        gids = sorted(bytes(info.endpoint_gid) for info in infos)
        if gids != self._publisher_gids:
            self._publisher_gids = gids
            self._last_sequence = None
        offered = [p.reliability for p in self._publishers() if self._fits(p)]
        wanted = qos.choose_reliability(self._setting, offered, self._reliability)
        if wanted != self._reliability:
            self._node.get_logger().info(f"{self.topic}: subscribing {wanted}, as it is offered")
            self._reliability = wanted
            self._node.destroy_subscription(self._subscription)
            self._subscription = self._subscribe()

    def describe(self) -> Input:
        """What diagnostics say about the input."""
        return Input(
            topic=self.topic,
            message_type=self._message_type,
            reliability=self._reliability,
            publishers=self._publishers(),
            elsewhere=self._elsewhere(),
            incompatible_policy=self._incompatible_policy,
        )

    def close(self) -> None:
        """Unsubscribe."""
        self._node.destroy_subscription(self._subscription)

    def _subscribe(self) -> Subscription:
        self._incompatible_policy = ""
        receive: Any = self._receive  # rclpy's type hints know no second argument
        subscribe = functools.partial(
            self._node.create_subscription,
            self._message_class,
            self._name,
            receive,
            qos.input_profile(self._reliability),
            qos_overriding_options=qos.INPUT_OVERRIDES,
        )
        events = SubscriptionEventCallbacks(incompatible_qos=self._on_incompatible_qos)
        try:
            return subscribe(event_callbacks=events)
        except UnsupportedEventTypeError:  # not every middleware reports mismatches
            return subscribe()

    def _receive(self, message: Any, info: dict[str, Any]) -> None:
        # One publisher numbers its messages; numbers of several are no one sequence.
        sequence = info.get("publication_sequence_number")  # absent in Humble
        lost = 0
        if sequence is not None and len(self._publisher_gids) == 1:
            if self._last_sequence is not None:
                lost = max(0, sequence - self._last_sequence - 1)
            self._last_sequence = sequence
        self._on_image(message, lost)

    def _on_incompatible_qos(self, event: Any) -> None:
        self._incompatible_policy = qos_policy_name_from_kind(event.last_policy_kind)
        self._node.get_logger().warning(
            f"{self.topic}: a publisher offers other QoS than is asked for, in "
            f"{self._incompatible_policy}; its images will not arrive"
        )

    def _publishers(self) -> tuple[Publisher, ...]:
        infos = self._node.get_publishers_info_by_topic(self.topic)
        return tuple(
            sorted(
                Publisher(
                    f"{info.node_namespace.rstrip('/')}/{info.node_name}",
                    info.topic_type,
                    info.qos_profile.reliability.name.lower(),
                )
                for info in infos
            )
        )

    def _fits(self, publisher: Publisher) -> bool:
        return publisher.message_type == self._message_type

    def _elsewhere(self) -> tuple[str, ...]:
        return tuple(
            sorted(
                topic
                for topic, types in self._node.get_topic_names_and_types()
                if self._message_type in types
                and topic != self.topic
                and self._node.count_publishers(topic)
                and not self._is_own(topic)
            )
        )

    def _is_own(self, topic: str) -> bool:
        return topic.startswith(f"{self._node.get_fully_qualified_name()}/")
