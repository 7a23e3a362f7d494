"""Subscribes with the quality of service that the publishers offer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import qos_policy_name_from_kind
from rclpy.subscription import Subscription

from instaseg_ros.ros import qos
from instaseg_ros.ros.reasons import Publisher

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError


class FollowingSubscription:
    """Subscribes to `topic`, newest message only, until `close`; `adapt` follows the publishers.

    receive: called by the executor with each message and rclpy's information about it.
    topic: resolved name. incompatible_policy: for which a publisher was rejected, or empty.
    """

    def __init__(
        self,
        node: Node,
        message_class: Any,
        topic: str,
        receive: Callable[[Any, dict[str, Any]], None],
        reliability: str = "auto",
    ) -> None:
        self._node = node
        self._message_class = message_class
        self._name = topic
        self._receive = receive
        self.message_type = f"sensor_msgs/msg/{message_class.__name__}"
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
        receive: Any = self._receive  # rclpy's type hints lack the second argument
        subscribe = functools.partial(
            self._node.create_subscription,
            self._message_class,
            self._name,
            receive,
            qos.input_profile(self.quality),
            qos_overriding_options=qos.INPUT_OVERRIDES,
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
