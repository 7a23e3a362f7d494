"""Reads camera frames and ground truth from rosbag2 recordings, and writes them, without ROS."""

from __future__ import annotations

import functools
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from mcap.writer import CompressionType, Writer
from numpy.typing import NDArray

from instaseg_ros.config import DepthConfig, InputConfig
from instaseg_ros.contract import written
from instaseg_ros.errors import ImageError, InputError, InstasegError, TruncatedInputError
from instaseg_ros.files import OutputFile
from instaseg_ros.frames import Frame
from instaseg_ros.recordings import image_messages, message_types
from instaseg_ros.recordings.depth_images import Depth, paired, with_depth
from instaseg_ros.recordings.offered_qos import LATCHED, OfferedQos, to_text
from instaseg_ros.recordings.recording import RawMessage, Recording, Topic, reason
from instaseg_ros.recordings.storage import open_recording

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
DETECTIONS = "vision_msgs/msg/Detection2DArray"
TO_RGB: dict[str, Callable[..., NDArray[np.uint8]]] = {
    IMAGE: image_messages.image_to_rgb,
    COMPRESSED: image_messages.compressed_to_rgb,
}
TO_LABELS: dict[str, Callable[[Any], NDArray[np.uint16]]] = {
    IMAGE: image_messages.image_to_labels,
    COMPRESSED: image_messages.compressed_to_labels,
}

# Names of image topics without a camera picture: used only on request.
NO_CAMERA = ("/debug/", "depth", "ground_truth", "labels", "overlay")
MAX_WAITING = 64  # messages of truth that wait for their counterpart
LISTED = 40  # topics that an error lists
LATEST_NS = (1 << 63) - 1  # that rosbag2 can read

log = logging.getLogger(__name__)


class BagSource:
    """The camera frames of one image topic of a recording; may be iterated more than once.

    topic: name of an Image or CompressedImage topic; None if there is only one candidate. depth:
    of the depth images that belong to it, whose stamps are at most `slop_ms` away; None: no depth.
    type: of its messages. total: number of frames. Intrinsics come from the first message on
    `camera_info` beside the images, if it has their `frame_id`.

    While iterating, `next` raises ImageError for a frame that cannot be converted, and may then be
    called for the following one; TruncatedInputError comes after the last frame before a break.
    """

    def __init__(
        self,
        path: str | Path,
        topic: str | None = None,
        config: InputConfig = image_messages.AS_IT_COMES,
        depth: str | None = None,
        slop_ms: float = DepthConfig().slop_ms,
    ) -> None:
        self.config = config
        self._depth, self._slop_ns = depth, slop_ms * 1e6
        self._recording = open_recording(path)
        self.topic = _pick_topic(f"bag {path}", self._recording.topics, topic)
        found = self._recording.topics[self.topic]
        self.total = found.count
        self.type, self._to_rgb = found.type, TO_RGB[found.type]
        if depth is not None:
            _pick_topic(f"bag {path}", self._recording.topics, depth)

    def __iter__(self) -> Iterator[Frame]:
        if self._depth is None:
            return map(self.frame, self.messages())
        return _WithDepth(self, self._recording, self._depth, self._slop_ns)

    def messages(self) -> Iterator[RawMessage]:
        """The recorded image messages. Raises TruncatedInputError as iteration does."""
        return self._recording.messages([self.topic])

    @functools.cached_property
    def _camera_info(self) -> Any:
        return info_beside(self._recording, self.topic)

    def frame(self, raw: RawMessage) -> Frame:
        """Convert one of `messages` to a frame. Raises ImageError if it cannot be converted."""
        message = deserialize(raw, self.type)
        header = message.header
        try:
            image = self._to_rgb(message, self.config)
        except InstasegError:
            raise
        except Exception as error:  # from numpy, OpenCV, ... depending on the damage
            raise ImageError(
                f"image of {raw.topic} received at {raw.received_ns / 1e9:.3f} s cannot be "
                f"converted: {reason(error)}"
            ) from error
        if not image.flags.writeable:  # a view of the recording's bytes, for which torch warns
            image = image.copy()
        info, matrix, lens = self._camera_info, None, None
        if info is not None and info.header.frame_id == header.frame_id:
            matrix = image_messages.camera_matrix(info, image.shape[:2], self.config.rectified)
            lens = image_messages.lens_distortion(info, self.config.rectified)
        return Frame(
            image,
            message_types.stamp_ns(header),
            header.frame_id,
            intrinsics=matrix,
            received_ns=raw.received_ns,
            distortion=lens,
        )


class _WithDepth:
    """Iterates over the frames of a source, each with its depth if there is any that can be used;
    logs at the end how many have none, and why."""

    def __init__(self, source: BagSource, recording: Recording, topic: str, slop_ns: float) -> None:
        self._source = source
        self._info = info_beside(recording, topic)
        self._without: Counter[str] = Counter()
        types = {name: recording.topics[name].type for name in (source.topic, topic)}

        def read(raw: RawMessage) -> Any:
            try:
                return deserialize(raw, types[raw.topic])
            except ImageError:
                return None

        self._pairs = paired(recording.messages([*types]), topic, read, slop_ns)

    def __iter__(self) -> _WithDepth:
        return self

    def __next__(self) -> Frame:
        try:
            raw, message = next(self._pairs)
        except (StopIteration, TruncatedInputError):
            if self._without:
                log.warning("frames without depth: %s", counted(self._without))
            raise
        frame, config = self._source.frame(raw), self._source.config
        if message is None:
            self._without["no depth image of their time"] += 1
            return frame
        try:
            return with_depth(frame, Depth(message, self._info), config, _no_transforms)
        except ImageError as error:
            self._without[str(error)] += 1
            return frame


def _no_transforms(target: str, source: str) -> tuple[None, str]:
    return None, "a replay does not read /tf"


def info_topic_beside(image_topic: str) -> str:
    """The topic of the CameraInfo that belongs to an image topic, raw or compressed."""
    camera = re.sub("/compressed(Depth)?$", "", image_topic).rpartition("/")[0]
    return f"{camera}/camera_info"


def info_beside(recording: Recording, image_topic: str) -> Any:
    """The first CameraInfo on `camera_info` beside an image topic; None if there is none that can
    be read."""
    topic = info_topic_beside(image_topic)
    found = recording.topics.get(topic)
    if found is None or found.type != CAMERA_INFO:
        return None
    try:
        first = next(recording.messages([topic]), None)
        return None if first is None else deserialize(first, CAMERA_INFO)
    except (ImageError, InputError):  # the recording is truncated before it
        return None


class Truth(NamedTuple):
    """Ground truth of one camera frame.

    labels: (H, W) uint16 label image, 0 = background. class_names: by label value; objects without
    one have an unknown class.
    """

    stamp_ns: int
    labels: NDArray[np.uint16]
    class_names: dict[int, str]


def read_truth(path: str | Path) -> Iterator[Truth]:
    """Yield the truth on `ground_truth/labels` and `ground_truth/detections`, in any namespace, as
    soon as both messages of a stamp are read. Unusable messages are logged at the end.

    Raises InputError if the recording has no such topics, and ImageError or TruncatedInputError if
    it is damaged.
    """
    recording = open_recording(path)
    labels_topic, detections_topic = truth_topics(path, recording.topics)
    to_labels = TO_LABELS[recording.topics[labels_topic].type]
    left_out: Counter[str] = Counter()
    waiting: dict[int, Any] = {}  # by stamp: the first of the two messages
    for raw in recording.messages([labels_topic, detections_topic]):
        message = deserialize(raw, recording.topics[raw.topic].type)
        stamp_ns = message_types.stamp_ns(message.header)
        other = waiting.pop(stamp_ns, None)
        if other is None:
            waiting[stamp_ns] = message
            if len(waiting) > MAX_WAITING:  # the oldest one's counterpart is lost
                del waiting[next(iter(waiting))]
            continue
        labels, detections = (message, other) if raw.topic == labels_topic else (other, message)
        yield Truth(stamp_ns, to_labels(labels), class_by_label(detections, left_out))
    if left_out:
        log.warning("bag %s: left out of the truth: %s", path, counted(left_out))


def class_by_label(detections: Any, left_out: Counter[str]) -> dict[int, str]:
    """The class name of each label value, from a Detection2DArray of truth.

    Unusable objects are counted in `left_out` by reason.
    """
    names: dict[int, str] = {}
    for one in detections.detections:
        if not re.fullmatch("0{0,9}[1-9][0-9]{0,4}", one.id) or int(one.id) >= 1 << 16:
            left_out["objects whose id is not a label value"] += 1
        elif not one.results:
            left_out["objects without a class"] += 1
        else:
            best = max(one.results, key=lambda result: result.hypothesis.score)
            names[int(one.id)] = best.hypothesis.class_id
    return names


def counted(left_out: Counter[str]) -> str:
    """What was left out, and how often, in words."""
    return ", ".join(f"{what}: {count}" for what, count in left_out.items())


class BagWriter:
    """Writes one `.mcap` file that rosbag2 and Foxglove can read. It gets its name in `close`.

    `msgs` holds message constructors by class name; see `message_types.message_classes`. count:
    messages written so far. path: the file; part: its name until then, under which it can be read
    up to the last `flush`.
    """

    def __init__(self, path: str | Path, overwrite: bool = False) -> None:
        self.msgs = message_types.message_classes()
        self._store = message_types.typestore()
        self._output = OutputFile(path, overwrite)
        self.count, self.path, self.part = 0, self._output.path, self._output.part
        self._file = self.part.open("wb")
        # Chunks of rosbag2's size; LZ4 is fast, while zstd would hold up the network.
        self._writer = Writer(self._file, 768 << 10, CompressionType.LZ4)
        self._writer.start(profile="ros2", library="instaseg_ros")
        self._writer.add_metadata("instaseg_ros", written("recording"))
        self._topics: dict[str, tuple[int, str]] = {}
        self._impossible = 0
        self._schemas: dict[str, int] = {}

    def add_topic(self, topic: str, msgtype: str, latched: bool = False) -> None:
        """Announce a topic of a type in `typestore`. latched: late subscribers to a playback get
        its last message."""
        text, _ = self._store.generate_msgdef(msgtype, ros_version=2)
        offer = LATCHED if latched else OfferedQos(depth=1)
        self.add_serialized_topic(topic, msgtype, text, self._store.hash_rihs01(msgtype), [offer])

    def add_serialized_topic(
        self, topic: str, msgtype: str, text: str, type_hash: str, offers: Iterable[OfferedQos]
    ) -> None:
        """Announce a topic of any type, for `write_serialized`.

        text: the type's definition and those of its fields, as in rosbag2's recordings; empty if it
        is unknown. type_hash: likewise. offers: of the topic's publishers.
        """
        if msgtype not in self._schemas:
            encoding = "ros2msg" if text else ""
            self._schemas[msgtype] = self._writer.register_schema(msgtype, encoding, text.encode())
        metadata = {"offered_qos_profiles": to_text(offers), "topic_type_hash": type_hash}
        channel = self._writer.register_channel(topic, "cdr", self._schemas[msgtype], metadata)
        self._topics[topic] = channel, msgtype

    def write(self, topic: str, message: Any, received_ns: int) -> None:
        """Append a message to an announced topic. A time that no recording can hold is counted and
        replaced by the nearest possible one."""
        data = self._store.serialize_cdr(message, self._topics[topic][1])
        self.write_serialized(topic, cast(bytes, data), received_ns)  # a view; mcap copies it

    def write_serialized(
        self, topic: str, data: bytes, received_ns: int, published_ns: int | None = None
    ) -> None:
        """Append a message that is already CDR. published_ns: None if that is unknown."""
        channel, _ = self._topics[topic]
        time_ns = min(max(received_ns, 0), LATEST_NS)
        self._impossible += time_ns != received_ns
        published_ns = time_ns if published_ns is None else min(max(published_ns, 0), LATEST_NS)
        self._writer.add_message(channel, time_ns, data, publish_time=published_ns)
        self.count += 1

    def flush(self) -> None:
        """Hand everything so far to the operating system, so that it outlives this process."""
        self._writer.flush()

    def close(self) -> None:
        """Finish the file and give it its name."""
        if self._impossible:
            log.warning(
                "bag %s: %d messages have the nearest possible time, as theirs was not between "
                "1970 and 2262",
                self.path,
                self._impossible,
            )
        self._writer.finish()
        self._file.close()
        self._output.commit()

    def discard(self) -> None:
        """Remove the unfinished file."""
        self._file.close()
        self._output.discard()

    def abandon(self) -> None:
        """Leave the unfinished file as it is, under the name `part`."""
        with suppress(OSError):  # a full disk, which may be why it ended
            self._file.close()


def _pick_topic(what: str, topics: dict[str, Topic], asked: str | None) -> str:
    """The requested topic, or the only one that can be a camera's."""
    known = {name: topic for name, topic in topics.items() if topic.type in TO_RGB}
    lines = [f"\n  {n}: {t.type}, {t.count} messages" for n, t in sorted(known.items())]
    listed = "".join(lines[:LISTED]) + ("\n  ..." if len(lines) > LISTED else "")
    if asked is not None:
        if asked not in known:
            raise InputError(f"{what} has no image topic '{asked}'; it has:{listed or ' none'}")
        return asked
    if not known:
        named = [f"{name} ({topic.type})" for name, topic in sorted(topics.items())]
        others = ", ".join(named[:LISTED]) + (", ..." if len(named) > LISTED else "")
        raise InputError(f"{what} has no image topic; its topics: {others or 'none'}")
    likely = {
        name
        for name, topic in known.items()
        if topic.count and not any(word in name.lower() for word in NO_CAMERA)
    }
    # If a camera was recorded both raw and compressed, use the raw images.
    cameras = sorted(likely - {f"{name}/compressed" for name in likely})
    if len(cameras) != 1:
        found = f"{len(cameras)} that could be a camera's" if cameras else "none with a picture"
        raise InputError(f"{what} has {found}; choose one with --topic:{listed}")
    return cameras[0]


def truth_topics(
    path: str | Path, topics: dict[str, Topic], any_labels: bool = False
) -> tuple[str, str]:
    """The topics `ground_truth/labels` and `ground_truth/detections`, in any namespace, raw or
    compressed. any_labels: without them, the only pair of `labels` and `detections`. Raises
    InputError if one is missing."""
    if any_labels and not any("ground_truth/" in topic for topic in topics):
        return said_topics(path, topics)
    labels = _truth_topic(path, topics, "labels", tuple(TO_LABELS))
    return labels, _truth_topic(path, topics, "detections", (DETECTIONS,))


def _truth_topic(
    path: str | Path, topics: dict[str, Topic], name: str, types: tuple[str, ...]
) -> str:
    ending = f"ground_truth/{name}"
    for topic, found in topics.items():
        if topic.removesuffix("/compressed").endswith(ending) and found.type in types:
            return topic
    raise InputError(f"bag {path} carries no truth: expected a topic .../{ending} of {types[0]}")


def said_topics(
    path: str | Path, topics: dict[str, Topic], labels: str | None = None
) -> tuple[str, str]:
    """The topics `labels` (raw or compressed) and `detections` of one node or camera, which are not
    ground truth. labels: the one to take; None: the only one that there is, raw rather than
    compressed. Raises InputError for none, or several."""
    pairs: dict[str, tuple[str, str]] = {}
    for topic in sorted(topics, key=len):
        bare = topic.removesuffix("/compressed")
        space = bare.removesuffix("labels")
        detections = topics.get(f"{space}detections")
        if (
            space != bare
            and not space.endswith("ground_truth/")
            and topics[topic].type in TO_LABELS
            and detections is not None
            and detections.type == DETECTIONS
            and labels in (None, topic, bare)
        ):
            pairs.setdefault(bare, (topic, f"{space}detections"))
    if len(pairs) == 1:
        return next(iter(pairs.values()))
    if pairs:
        raise InputError(f"bag {path} has labels of several cameras: {', '.join(sorted(pairs))}")
    expected = ".../labels" if labels is None else labels
    raise InputError(
        f"bag {path} is not labelled: expected a topic {expected} of {IMAGE}, with detections "
        f"beside it; it has {', '.join(sorted(topics)) or 'none'}"
    )


def deserialize(raw: RawMessage, msgtype: str) -> Any:
    """Deserialize a message. Raises ImageError if the bytes are not of that type."""
    try:
        return message_types.typestore().deserialize_cdr(raw.cdr, msgtype)
    except (
        Exception
    ) as error:  # SerdeError, IndexError, AssertionError, ... depending on the damage
        raise ImageError(
            f"message of {raw.topic} received at {raw.received_ns / 1e9:.3f} s is not a {msgtype}: "
            f"{reason(error)}"
        ) from error
