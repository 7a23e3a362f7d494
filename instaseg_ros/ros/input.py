"""The subscription to images and what the ROS graph says about it: why nothing arrives there.

Needs no ROS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from instaseg_ros.ros.machine import PROFILE_VARIABLES, Machine

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
TRANSPORTS = {IMAGE: "raw", COMPRESSED: "compressed"}  # node.image_transport by message type
SUFFIX = "/compressed"
LARGE_BYTES = 500_000  # capacity of Fast DDS's default segment
LEAST_SHM_MB = 2 * 64  # camera and node with our profile's segment each
SHOWN_TOPICS = 8
VARIABLES = "{} (from Kilted on {})".format(*PROFILE_VARIABLES)
LARGER_SHM = "give the container more with docker run --shm-size=512m (or --ipc=host)"


class Quality(NamedTuple):
    """What a publisher offers or a subscription requests: reliable or best_effort;
    transient_local or volatile."""

    reliability: str = "reliable"
    durability: str = "volatile"

    def __str__(self) -> str:
        return ", ".join(part for part in self if part != "volatile")


class Publisher(NamedTuple):
    """A publisher on the image topic."""

    node: str
    message_type: str
    quality: Quality


@dataclass(frozen=True, slots=True)
class Input:
    """The image subscription and what the ROS graph says about it.

    topic: resolved name. message_type: IMAGE or COMPRESSED. quality: what is requested.
    elsewhere: (topic, type) of other published images, looked up if there is no publisher.
    incompatible_policy: QoS policy for which a publisher was rejected, or empty. camera_info: its
    topic and what was received there.
    """

    topic: str
    message_type: str
    quality: Quality
    publishers: tuple[Publisher, ...] = ()
    elsewhere: tuple[tuple[str, str], ...] = ()
    incompatible_policy: str = ""
    camera_info: str = ""
    machine: Machine = field(default_factory=Machine)


def why_silent(source: Input) -> str:
    """The most likely reason why no image arrives on the topic."""
    if not source.publishers:
        return f"no publisher on {source.topic}; {_way_to_a_publisher(source)}"
    fitting = [p for p in source.publishers if p.message_type == source.message_type]
    if not fitting:
        other = source.publishers[0]
        transport = TRANSPORTS.get(other.message_type)
        hint = f"; set node.image_transport to {transport}" if transport else ""
        return (
            f"{other.node} publishes {other.message_type} on {source.topic}, expected "
            f"{source.message_type}{hint}"
        )
    for publisher in fitting:
        policy = _unmet(source.quality, publisher.quality) or source.incompatible_policy
        if policy:
            asked, offered = (
                getattr(quality, policy.lower(), str(quality))
                for quality in (source.quality, publisher.quality)
            )
            return (
                f"QoS mismatch in {policy} with {publisher.node} on {source.topic}: it offers "
                f"{offered}, this node asks for {asked}; leave node.input_reliability at auto and "
                "remove qos_overrides for this topic"
            )
    publisher = fitting[0]
    said = f"{publisher.node} is a {publisher.quality} publisher on {source.topic}, but nothing"
    if publisher.quality.durability == "transient_local":
        return (
            f"{said} more arrives: a latched image may be its last, then set node.stale_after_s "
            f"larger; or see ros2 topic hz {source.topic}"
        )
    if publisher.quality.reliability == "best_effort" and source.message_type == IMAGE:
        return (
            f"{said} arrives. {large_images(source.machine)}. Or it is idle: ros2 topic hz "
            f"{source.topic}"
        )
    return f"{said} arrives: see whether it publishes at all with ros2 topic hz {source.topic}"


def _unmet(asked: Quality, offered: Quality) -> str:
    """The first QoS policy in which less is offered than requested; empty if there is none."""
    if asked.reliability == "reliable" and offered.reliability == "best_effort":
        return "RELIABILITY"
    if asked.durability == "transient_local" and offered.durability == "volatile":
        return "DURABILITY"
    return ""


def _way_to_a_publisher(source: Input) -> str:
    wanted = source.message_type
    (other,) = TRANSPORTS.keys() - {wanted}
    base = source.topic.removesuffix(SUFFIX) if wanted == COMPRESSED else source.topic
    twin = f"{base}{SUFFIX}" if other == COMPRESSED else base
    switch = f"set node.image_transport to {TRANSPORTS[other]}"
    if (twin, other) in source.elsewhere:
        return f"but {other} is published on {twin}: {switch}"
    for kind, say in ((wanted, ""), (other, f"{switch}, and ")):
        if topics := [topic for topic, its in source.elsewhere if its == kind]:
            first = topics[0].removesuffix(SUFFIX) if kind == COMPRESSED else topics[0]
            return (
                f"topics with {kind}: {_listed(topics)}; {say}"
                f"remap one: --ros-args -r image:={first}"
            )
    return f"nobody publishes {wanted} at all: is the camera driver running?"


def _listed(topics: Sequence[str]) -> str:
    more = len(topics) - SHOWN_TOPICS
    return ", ".join(topics[:SHOWN_TOPICS]) + (f" and {more} more" if more > 0 else "")


def large_images(machine: Machine) -> str:
    """Why large best-effort images are lost between processes."""
    if "fastrtps" not in machine.middleware:
        return (
            f"Large best-effort images get lost where a buffer of {machine.middleware} or of the "
            "system's sockets is too small: let the camera driver publish reliable"
        )
    is_small = machine.shm_mb is not None and machine.shm_mb < LEAST_SHM_MB
    shm = f"/dev/shm has {machine.shm_mb:.0f} MB" if is_small else ""
    if machine.profile and not machine.has_profile:
        return (
            f"The Fast DDS profile {machine.profile} does not exist: set {VARIABLES} to "
            "config/fastdds_shm.xml, for the camera driver too"
        )
    if machine.profile and is_small:
        return (
            f"{shm}, too little for the 64 MB segments of {machine.profile}, so Fast DDS does "
            f"without and loses best-effort images above 0.5 MB: {LARGER_SHM}"
        )
    if machine.profile:
        return (
            f"This node has the profile {machine.profile}, but the sender's shared memory segment "
            f"matters: give the camera driver the profile too ({VARIABLES}), or make it publish "
            "reliable"
        )
    return (
        "With its default settings Fast DDS loses best-effort images above 0.5 MB: give the "
        f"camera driver and this node the profile config/fastdds_shm.xml ({VARIABLES}), or let the "
        "driver publish reliable" + (f". {shm}: {LARGER_SHM}" if is_small else "")
    )
