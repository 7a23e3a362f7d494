"""What a person at the vehicle must know, as a pure function of the node's state. Needs no ROS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from instaseg_ros.ros.statistics import Snapshot

OK, WARN, ERROR = 0, 1, 2  # levels of diagnostic_msgs/DiagnosticStatus

LARGE_BEST_EFFORT = (
    "With its default settings Fast DDS loses best-effort images above 0.5 MB: give the camera "
    "driver the profile config/fastdds_shm.xml (FASTRTPS_DEFAULT_PROFILES_FILE; from Kilted on "
    "FASTDDS_DEFAULT_PROFILES_FILE), or let it publish reliable"
)
LOSS_TO_WARN_OF = 0.1  # share of the recent images that never arrived


class Publisher(NamedTuple):
    """Somebody who publishes on the image topic. reliability: reliable or best_effort."""

    node: str
    message_type: str
    reliability: str


@dataclass(frozen=True, slots=True)
class Input:
    """The image subscription and what the ROS graph says about it.

    topic: resolved name. message_type: "sensor_msgs/msg/Image" or ".../CompressedImage".
    elsewhere: other topics of this type that have publishers.
    incompatible_policy: QoS policy on which a publisher was turned away; empty when none was.
    """

    topic: str
    message_type: str
    reliability: str
    publishers: tuple[Publisher, ...] = ()
    elsewhere: tuple[str, ...] = ()
    incompatible_policy: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """Everything the diagnostics are made of, at one moment.

    lifecycle: label of the lifecycle state. failure: why the last transition failed, or empty.
    engine: facts about what computes (runtime, precision, weights, ...). input: None while there
    is no subscription.
    """

    lifecycle: str
    stale_after_s: float
    failure: str = ""
    engine: Mapping[str, str] = field(default_factory=dict)
    input: Input | None = None
    statistics: Snapshot = field(default_factory=Snapshot)


class Diagnosis(NamedTuple):
    """level: OK, WARN or ERROR. message: one sentence. values: name -> text, in order."""

    level: int
    message: str
    values: dict[str, str]


def diagnose(health: Health) -> Diagnosis:
    """Level, message and values for /diagnostics."""
    level, message = _verdict(health)
    return Diagnosis(level, message, _values(health))


def _verdict(health: Health) -> tuple[int, str]:
    """The first of these that holds: cannot start, not asked to, no image, bad image, all well."""
    statistics = health.statistics
    if health.failure:
        return ERROR, health.failure
    if health.input is None:
        return OK, f"{health.lifecycle}: waiting for a lifecycle transition, nothing is processed"
    age_s = statistics.image_age_s
    if age_s is None:
        patient = statistics.active_s < health.stale_after_s
        return WARN if patient else ERROR, f"no image yet: {_why_silent(health.input)}"
    if age_s > health.stale_after_s:
        return ERROR, f"no image for {age_s:.1f} s: {_why_silent(health.input)}"
    if statistics.trouble:
        return ERROR, f"newest image not labelled: {statistics.trouble}"
    if not statistics.counts.labelled:
        return WARN, "first image is being processed"
    rates = f"{statistics.rate_out_hz:.1f} of {statistics.rate_in_hz:.1f} images/s labelled"
    if "total" in statistics.latency_ms:
        median, p99 = statistics.latency_ms["total"]
        rates += f", latency {median:.0f} ms (p99 {p99:.0f} ms)"
    if statistics.loss > LOSS_TO_WARN_OF and health.input.reliability == "best_effort":
        lost = f"{statistics.loss:.0%} of the images are lost on the way"
        return WARN, f"{lost}. {LARGE_BEST_EFFORT}. {rates}"
    return OK, rates


def _why_silent(source: Input) -> str:
    """The likeliest reason why no image arrives on the topic, and the way out."""
    fitting = [p for p in source.publishers if p.message_type == source.message_type]
    if not source.publishers:
        return f"no publisher on {source.topic}; {_way_to_a_publisher(source)}"
    if not fitting:
        other = source.publishers[0]
        hint = ""
        if {other.message_type, source.message_type} == {
            "sensor_msgs/msg/Image",
            "sensor_msgs/msg/CompressedImage",
        }:
            wanted = "compressed" if other.message_type.endswith("CompressedImage") else "raw"
            hint = f"; set node.image_transport to {wanted}"
        return (
            f"{other.node} publishes {other.message_type} on {source.topic}, expected "
            f"{source.message_type}{hint}"
        )
    publisher = fitting[0]
    if source.incompatible_policy or (
        source.reliability == "reliable" and publisher.reliability == "best_effort"
    ):
        policy = source.incompatible_policy or "RELIABILITY"
        return (
            f"QoS mismatch in {policy} with {publisher.node} on {source.topic}: it offers "
            f"{publisher.reliability}, this node asks for {source.reliability}; leave "
            "node.input_reliability at auto and remove qos_overrides of this topic"
        )
    said = f"{publisher.node} is a {publisher.reliability} publisher on {source.topic}, but nothing"
    if publisher.reliability == "best_effort" and source.message_type.endswith("/Image"):
        return f"{said} arrives. {LARGE_BEST_EFFORT}. Or it is idle: ros2 topic hz {source.topic}"
    return f"{said} arrives: see whether it publishes at all with ros2 topic hz {source.topic}"


def _way_to_a_publisher(source: Input) -> str:
    if not source.elsewhere:
        return f"nobody publishes {source.message_type} at all: is the camera driver running?"
    return (
        f"topics with {source.message_type}: {', '.join(source.elsewhere)}; "
        f"remap one: --ros-args -r image:={source.elsewhere[0].removesuffix('/compressed')}"
    )


def _values(health: Health) -> dict[str, str]:
    values = {"lifecycle state": health.lifecycle, **health.engine}
    source, statistics = health.input, health.statistics
    if source is None:
        return values
    values |= {
        "image topic": source.topic,
        "image type": source.message_type,
        "image publishers": ", ".join(f"{p.node} ({p.reliability})" for p in source.publishers),
        "subscription reliability": source.reliability,
    }
    if statistics.image_size:
        height, width = statistics.image_size
        values["image size"] = f"{width} x {height}"
    counts = statistics.counts
    values |= {
        "images received": str(counts.received),
        "images labelled": str(counts.labelled),
        "images dropped while busy": str(counts.dropped),
        "images lost on the way": str(counts.lost),
        "images refused": str(counts.refused),
        "images failed": str(counts.failed),
        "last refusal or failure": statistics.last_trouble,
        "rate in (Hz)": f"{statistics.rate_in_hz:.2f}",
        "rate out (Hz)": f"{statistics.rate_out_hz:.2f}",
    }
    if statistics.image_age_s is not None:
        values["age of newest image (s)"] = f"{statistics.image_age_s:.2f}"
    for stage, (median, p99) in statistics.latency_ms.items():
        values[f"{stage} p50 (ms)"] = f"{median:.2f}"
        values[f"{stage} p99 (ms)"] = f"{p99:.2f}"
    return values
