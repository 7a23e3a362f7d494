"""Which quality of service the inputs ask for, and the profile of each output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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
from instaseg_ros.ros.reasons import Quality

# Of each policy the value that asks for more, then the one that hears every publisher.
POLICIES: Mapping[str, Mapping[str, Any]] = {
    "reliability": {
        "reliable": QoSReliabilityPolicy.RELIABLE,
        "best_effort": QoSReliabilityPolicy.BEST_EFFORT,
    },
    "durability": {
        "transient_local": QoSDurabilityPolicy.TRANSIENT_LOCAL,
        "volatile": QoSDurabilityPolicy.VOLATILE,
    },
}
HEARS_ALL = Quality(*(list(values)[1] for values in POLICIES.values()))

# With 1, a large message that needs resending would give way to the next one.
RESULTS = QoSProfile(depth=10, reliability=QoSReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(
    depth=1,
    reliability=QoSReliabilityPolicy.RELIABLE,
    durability=QoSDurabilityPolicy.TRANSIENT_LOCAL,
)

# What follows the publishers (`choose`) is left out: rclpy would freeze the first choice in a
# read-only parameter.
INPUT_OVERRIDES = QoSOverridingOptions((QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH))


def input_profile(quality: Quality) -> QoSProfile:
    """Sensor data: the newest message only."""
    chosen = {name: POLICIES[name][value] for name, value in quality._asdict().items()}
    return QoSProfile(history=QoSHistoryPolicy.KEEP_LAST, depth=1, **chosen)


def settings(node: Node, topic: str, reliability: str = "auto") -> Quality:
    """The user's `qos_overrides` for the subscription to `topic`, else `reliability`, else auto.

    Raises ConfigError when an override is neither auto nor one of POLICIES.
    """
    return Quality(
        _setting(node, topic, "reliability", reliability),
        _setting(node, topic, "durability", "auto"),
    )


def choose(settings: Quality, offered: Sequence[Quality], current: Quality) -> Quality:
    """What a subscription asks for, given what the publishers offer.

    With `auto` as much as every publisher offers: a reliable subscription hears no best-effort
    publisher, but large best-effort images get lost; one that asks for latched messages hears no
    publisher without them, but without asking what was published before never comes. With nobody
    there: `current`.
    """
    return Quality(*(_choose(policy, settings, offered, current) for policy in POLICIES))


def offered_by(profile: QoSProfile) -> Quality:
    """What the graph says that a publisher offers; its names may be of other policies too."""
    return Quality(profile.reliability.name.lower(), profile.durability.name.lower())


def _setting(node: Node, topic: str, policy: str, configured: str) -> str:
    name = f"qos_overrides.{topic}.subscription.{policy}"
    if not node.has_parameter(name):
        return configured
    value = node.get_parameter(name).value
    allowed = ("auto", *POLICIES[policy])
    if value not in allowed:
        raise ConfigError(f"{name}: expected one of {', '.join(allowed)}, got {value!r}")
    return value


def _choose(policy: str, settings: Quality, offered: Sequence[Quality], current: Quality) -> str:
    setting: str = getattr(settings, policy)
    if setting != "auto":
        return setting
    if not offered:
        return str(getattr(current, policy))
    more, hears_all = POLICIES[policy]
    return more if all(getattr(one, policy) == more for one in offered) else hears_all
