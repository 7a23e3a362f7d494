"""What was observed beside a running robot, and the figures that follow from it. Needs no ROS."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from instaseg_ros.ros.input import Publisher, Quality
from instaseg_ros.ros.live.pictures import Picture
from instaseg_ros.ros.machine import Machine

GAP = 1.5  # intervals longer than this many usual ones lack an image
MAX_ARRIVALS = 100_000  # per topic: an hour at 27 Hz
_HEADER = "iII"  # seconds, nanoseconds, length of the frame_id with its end


class Arrival(NamedTuple):
    """A message with a header, when the doctor received it.

    heard_s: monotonic seconds. clock_ns: ROS time then. pixels: a checksum of all that follows the
    header; 0 where that is not compared.
    """

    stamp_ns: int
    frame_id: str
    heard_s: float
    clock_ns: int
    size_bytes: int = 0
    pixels: int = 0

    @property
    def age_s(self) -> float:
        """Seconds from the stamp to now, by ROS time; negative for a stamp in the future."""
        return (self.clock_ns - self.stamp_ns) / 1e9


@dataclass(slots=True)
class TopicSeen:
    """A topic and its messages. publishers: of any type."""

    topic: str
    arrivals: list[Arrival] = field(default_factory=list)
    publishers: tuple[Publisher, ...] = ()


@dataclass(slots=True, kw_only=True)
class CameraSeen(TopicSeen):
    """An image topic. quality: what the doctor requested. listeners: nodes that subscribe to it.
    incompatible_policy: for which a publisher rejected the doctor. pictures: some of the images,
    measured; size: (height, width) pixels of the newest. unreadable: why the newest one could not
    be converted. lost: images that were published but never came here."""

    message_type: str
    quality: Quality = field(default_factory=Quality)
    listeners: tuple[str, ...] = ()
    incompatible_policy: str = ""
    lost: int = 0
    pictures: list[Picture] = field(default_factory=list)
    size: tuple[int, int] | None = None
    encoding: str = ""
    unreadable: str = ""


@dataclass(slots=True)
class LabelsSeen(TopicSeen):
    """A label topic of a node. objects: the number in each message of the detections beside it."""

    objects: list[int] = field(default_factory=list)


class Status(NamedTuple):
    """What a node said of itself on /diagnostics."""

    heard_s: float
    level: int
    message: str
    values: Mapping[str, str]


@dataclass(slots=True)
class NodeSeen:
    """A node of this package. statuses: by the part of it that they are about, such as "camera
    front"; empty: the node with one camera. parameters: None if it did not tell them."""

    name: str
    statuses: dict[str, list[Status]] = field(default_factory=dict)
    parameters: dict[str, object] | None = None


class SharedMemory(NamedTuple):
    """/dev/shm in 2**20 bytes: size, free, and what the segments of Fast DDS take."""

    size_mb: float
    free_mb: float
    segments_mb: float
    segments: int


@dataclass(slots=True)
class Observed:
    """All that was seen from `start_s` to `end_s`, in monotonic seconds.

    expected: camera topics that were asked for. images: every published image topic (name, type).
    simulated: whether ROS time comes from /clock. processes: of the node on this machine.
    """

    start_s: float
    end_s: float
    expected: tuple[str, ...] = ()
    cameras: list[CameraSeen] = field(default_factory=list)
    labels: list[LabelsSeen] = field(default_factory=list)
    nodes: list[NodeSeen] = field(default_factory=list)
    images: tuple[tuple[str, str], ...] = ()
    graph: Mapping[str, object] = field(default_factory=dict)
    machine: Machine = field(default_factory=Machine)
    shared_memory: SharedMemory | None = None
    processes: Sequence[Mapping[str, object]] = ()
    simulated: bool = False

    @property
    def topics(self) -> list[TopicSeen]:
        """Cameras, then labels."""
        return [*self.cameras, *self.labels]

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s


class Timing(NamedTuple):
    """How a topic's messages came.

    rate_hz: by their arrival. age_ms: (median, 99th percentile) from stamp to arrival. jitter_ms:
    half the span of the middle 90 % of the intervals between stamps. period_ms: the median one.
    gaps: intervals that lack an image; longest_ms: the longest. backwards, repeated: stamps that
    are less than, or equal to, the one before. unstamped: stamps of 0.
    """

    rate_hz: float
    age_ms: tuple[float, float]
    youngest_ms: float
    period_ms: float
    jitter_ms: float
    gaps: int
    longest_ms: float
    backwards: int
    repeated: int
    unstamped: int


def timing(arrivals: Sequence[Arrival]) -> Timing | None:
    """The timing of at least two messages."""
    if len(arrivals) < 2:
        return None
    span_s = arrivals[-1].heard_s - arrivals[0].heard_s
    ages_ms = np.array([one.age_s for one in arrivals]) * 1e3
    stamps = np.array([one.stamp_ns for one in arrivals], np.int64)
    intervals = np.diff(stamps)
    forward_ms = intervals[intervals > 0] / 1e6
    low, median, high = np.percentile(forward_ms, [5, 50, 95]) if len(forward_ms) else (0, 0, 0)
    return Timing(
        rate_hz=(len(arrivals) - 1) / span_s if span_s > 0 else 0.0,
        age_ms=(float(np.median(ages_ms)), float(np.percentile(ages_ms, 99))),
        youngest_ms=float(ages_ms.min()),
        period_ms=float(median),
        jitter_ms=float(high - low) / 2,
        gaps=int((forward_ms > GAP * median).sum()),
        longest_ms=float(forward_ms.max()) if len(forward_ms) else 0.0,
        backwards=int((intervals < 0).sum()),
        repeated=int((intervals == 0).sum()),
        unstamped=int((stamps == 0).sum()),
    )


class Answers(NamedTuple):
    """Which images of a camera were labelled.

    images: those whose labels had time to come. labelled: of these. latency_ms: from the image's
    arrival here to that of its labels; since_stamp_ms: from its stamp.
    """

    camera: str
    labels: str
    images: int
    labelled: int
    latency_ms: tuple[float, ...]
    since_stamp_ms: tuple[float, ...]


def answers(camera: CameraSeen, labels: LabelsSeen) -> Answers:
    """Match labels to images by their header, which is the same.

    Images before the first labelled one are not counted, as the node or the doctor may have started
    later; nor those after the last, which may still be in work.
    """
    came = {(one.stamp_ns, one.frame_id): one for one in camera.arrivals}
    pairs = [
        (came[key], one) for one in labels.arrivals if (key := (one.stamp_ns, one.frame_id)) in came
    ]
    if not pairs:
        return Answers(camera.topic, labels.topic, len(camera.arrivals), 0, (), ())
    first = min(image.heard_s for image, _ in pairs)
    last = max(image.heard_s for image, _ in pairs)
    return Answers(
        camera.topic,
        labels.topic,
        sum(first <= one.heard_s <= last for one in camera.arrivals),
        len(pairs),
        # The doctor may hear the labels first, as both wait in its queues.
        tuple(max(0.0, label.heard_s - image.heard_s) * 1e3 for image, label in pairs),
        tuple(label.age_s * 1e3 for _, label in pairs),
    )


def answered(observed: Observed) -> list[Answers]:
    """For each label topic, the camera whose images it labels, if there is one."""
    found = []
    for labels in observed.labels:
        matched = [answers(camera, labels) for camera in observed.cameras]
        best = max(matched, key=lambda one: one.labelled, default=None)
        if best and best.labelled:
            found.append(best)
    return found


def frozen_s(arrivals: Sequence[Arrival]) -> float:
    """For how long, up to the newest image, the picture has not changed by a bit."""
    newest, since = None, 0.0
    for one in reversed(arrivals):
        if newest is None:
            newest, since = one, one.heard_s
        elif one.pixels != newest.pixels:
            break
        since = one.heard_s
    return newest.heard_s - since if newest else 0.0


def read_header(message: bytes) -> tuple[int, str, int]:
    """stamp_ns and frame_id of a serialized message whose first field is a std_msgs/Header, and the
    offset of what follows. Raises ValueError if it is cut off."""
    order = "<" if len(message) > 1 and message[1] & 1 else ">"
    try:
        seconds, nanoseconds, length = struct.unpack_from(order + _HEADER, message, 4)
    except struct.error as error:
        raise ValueError(f"a message of {len(message)} bytes has no header") from error
    start = 4 + struct.calcsize("=" + _HEADER)
    end = start + length
    if end > len(message):
        raise ValueError(f"a frame_id of {length} bytes in a message of {len(message)}")
    name = bytes(message[start:end]).rstrip(b"\0").decode("utf-8", "replace")
    return seconds * 1_000_000_000 + nanoseconds, name, end
