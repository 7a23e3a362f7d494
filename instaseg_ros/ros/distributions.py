"""What differs between the ROS 2 distributions: Humble, Jazzy, Kilted, Lyrical. Only here.

docs/distributions.md says what of this has been run, and what was only looked up in the sources of
rclpy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy import subscription
from rclpy.lifecycle import LifecycleNode
from rclpy.subscription import Subscription

try:  # from Iron on
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError

__all__ = [
    "FOLLOWS_PARAMETERS",
    "SubscriptionEventCallbacks",
    "UnsupportedEventTypeError",
    "free_state_machine",
    "sequence_of",
    "with_info",
]

# Whether a node can be called after ROS has set parameters, hence not for refused ones: since Iron.
FOLLOWS_PARAMETERS = hasattr(LifecycleNode, "add_post_set_parameters_callback")
# Whether subscriptions tell facts about a message: since Iron. Humble calls with the message alone.
TELLS_INFO = hasattr(Subscription, "CallbackType") or hasattr(subscription, "MessageInfo")


def with_info(receive: Callable[[Any, dict[str, Any]], None]) -> Any:
    """A subscription's callback from one that takes a message and rclpy's facts about it; where
    there are none they are empty."""
    return receive if TELLS_INFO else lambda message: receive(message, {})


def sequence_of(about: dict[str, Any]) -> tuple[int | None, bytes | None]:
    """The number that the sender gave a message, and what identifies the sender, from rclpy's facts
    about it. None where they are unknown: in Humble, and the sender up to Jazzy."""
    sender = about.get("publisher_gid")
    return about.get("publication_sequence_number"), sender and bytes(sender["data"])


def free_state_machine(node: LifecycleNode) -> None:
    """Let a destroyed lifecycle node's state machine go, which would keep the node alive; for rclpy
    forgets it."""
    machine = getattr(node, "_state_machine", None)
    if machine is not None:
        machine.destroy_when_not_in_use()
