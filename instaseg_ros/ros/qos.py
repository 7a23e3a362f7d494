"""Chooses the quality of service of inputs and outputs."""

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
from instaseg_ros.ros.input import Quality

# For each policy the more demanding value, then the one compatible with every publisher.
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

# With depth 1, the next message would replace a large one that needs resending.
RESULTS = QoSProfile(depth=10, reliability=QoSReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(
    depth=1,
    reliability=QoSReliabilityPolicy.RELIABLE,
    durability=QoSDurabilityPolicy.TRANSIENT_LOCAL,
)

# Without the policies that follow the publishers (`choose`): rclpy would freeze the first choice in
# a read-only parameter.
INPUT_OVERRIDES = QoSOverridingOptions((QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH))


def input_profile(quality: Quality, depth: int = 1) -> QoSProfile:
    """The profile for sensor data: only the newest message, or the `depth` newest."""
    chosen = {name: POLICIES[name][value] for name, value in quality._asdict().items()}
    return QoSProfile(history=QoSHistoryPolicy.KEEP_LAST, depth=depth, **chosen)


def settings(node: Node, topic: str, reliability: str = "auto") -> Quality:
    """The user's `qos_overrides` for the subscription to `topic`, else `reliability`, else auto.

    Raises ConfigError if an override is neither auto nor one of POLICIES.
    """
    return Quality(
        _setting(node, topic, "reliability", reliability),
        _setting(node, topic, "durability", "auto"),
    )


def choose(settings: Quality, offered: Sequence[Quality], current: Quality) -> Quality:
    """The quality to request, given what the publishers offer.

    `auto` requests as much as every publisher offers: a reliable subscription receives nothing from
    best-effort publishers, but large best-effort images get lost; one that requests latched
    messages receives nothing from publishers without them, but one that does not misses what was
    published before. Without publishers: `current`.
    """
    return Quality(*(_choose(policy, settings, offered, current) for policy in POLICIES))


def offered_by(profile: QoSProfile) -> Quality:
    """A publisher's offer according to the graph; it may also name other policies."""
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
