"""Listens to a topic of any type without deserialising, for those who count or record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node

from instaseg_ros.ros.camera import FollowingSubscription
from instaseg_ros.ros.distributions import sequence_of
from instaseg_ros.ros.losses import LossCounter


class Ear(FollowingSubscription):
    """Hears serialized messages of a topic, with a queue, and counts those that never came."""

    def __init__(
        self,
        node: Node,
        message_class: Any,
        topic: str,
        receive: Callable[[Any, Any], None],
        depth: int,
    ) -> None:
        self.losses = LossCounter()
        super().__init__(node, message_class, topic, receive, depth=depth, raw=True)

    def senders(self) -> set[bytes]:
        """What identifies the publishers of the topic."""
        infos = self._node.get_publishers_info_by_topic(self.topic)
        return {bytes(info.endpoint_gid) for info in infos}

    def lost(self, about: dict[str, Any]) -> int:
        """The number of messages that are now known to be lost, from rclpy's facts about one."""
        number, sender = sequence_of(about)
        return 0 if number is None else self.losses.arrived(number, sender)
