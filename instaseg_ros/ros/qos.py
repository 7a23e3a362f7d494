"""Which quality of service the image subscription asks for, and the profile of each output."""

from __future__ import annotations

from collections.abc import Sequence

from rclpy.node import Node
from rclpy.qos import (
    QoSDurabilityPolicy,
    QoSHistoryPolicy,
    QoSPolicyKind,
    QoSProfile,
    QoSReliabilityPolicy,
)
from rclpy.qos_overriding_options import QoSOverridingOptions

from instaseg_ros.errors import ConfigError

RELIABILITY = {
    "reliable": QoSReliabilityPolicy.RELIABLE,
    "best_effort": QoSReliabilityPolicy.BEST_EFFORT,
}
SETTINGS = ("auto", *RELIABILITY)

RESULTS = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(
    depth=1,
    reliability=QoSReliabilityPolicy.RELIABLE,
    durability=QoSDurabilityPolicy.TRANSIENT_LOCAL,
)

# Reliability is left out: it follows the publisher (`choose_reliability`), and rclpy would freeze
# the first choice in a read-only parameter.
INPUT_OVERRIDES = QoSOverridingOptions((QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH))


def input_profile(reliability: str) -> QoSProfile:
    """Sensor data: the newest image only."""
    return QoSProfile(
        history=QoSHistoryPolicy.KEEP_LAST,
        depth=1,
        reliability=RELIABILITY[reliability],
    )


def reliability_setting(node: Node, topic: str, configured: str) -> str:
    """The user's `qos_overrides` for the subscription to `topic`, else the configured setting.

    Raises ConfigError when the override is none of SETTINGS.
    """
    name = f"qos_overrides.{topic}.subscription.reliability"
    if not node.has_parameter(name):
        return configured
    value = node.get_parameter(name).value
    if value not in SETTINGS:
        raise ConfigError(f"{name}: expected one of {', '.join(SETTINGS)}, got {value!r}")
    return value


def choose_reliability(setting: str, offered: Sequence[str], current: str) -> str:
    """`reliable` or `best_effort` for a subscription, given what the publishers offer.

    With `auto`, reliable when every publisher offers it, because a reliable subscription hears
    no best-effort publisher, and large best-effort images get lost. With nobody there: `current`.
    """
    if setting != "auto":
        return setting
    if not offered:
        return current
    return "reliable" if all(one == "reliable" for one in offered) else "best_effort"
