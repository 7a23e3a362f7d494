"""Small recordings, and a stand-in for the pipeline, for tests of reading, replay and writing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mcap.writer import Writer as McapWriter
from rosbags.rosbag2 import StoragePlugin, Writer

from instaseg_ros.errors import TruncatedInputError
from instaseg_ros.frames import Frame, Instances, Result
from instaseg_ros.recordings import result_messages
from instaseg_ros.recordings.bags import COMPRESSED, DETECTIONS, IMAGE, BagWriter
from instaseg_ros.recordings.message_types import make_header, message_classes, typestore

CLASS_NAMES = ("car", "person")
HEIGHT, WIDTH = 48, 64
FIRST_NS, PERIOD_NS = 12_000_000_000, 50_000_000


def noise_image(index: int) -> np.ndarray:
    """(HEIGHT, WIDTH, 3) uint8 noise that says which frame it is by its red corner."""
    pixels = np.random.default_rng(index).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    pixels[:8, :8] = index, 0, 0
    return pixels


def two_instances(index: int) -> Instances:
    """Two objects, one of a label value over 255; the second moves with the index."""
    labels = np.zeros((HEIGHT, WIDTH), np.uint16)
    labels[10:20, 5:25] = 300
    labels[25:40, 30 + index % 10 : 45 + index % 10] = 7
    left = 30.0 + index % 10
    return Instances(
        labels=labels,
        ids=np.array([300, 7], np.uint16),
        class_ids=np.array([0, 1]),
        scores=np.array([0.9, 0.5], np.float32),
        boxes_xyxy=np.array([[5, 10, 25, 20], [left, 25, left + 15, 40]], np.float32),
        centers_xy=np.array([[15, 15], [left + 7.5, 32.5]], np.float32),
        bandwidths=np.ones((2, 2), np.float32),
    )


class StandInPipeline:
    """Stands in for Pipeline: its answer depends on the red corner of the image alone."""

    class_names = CLASS_NAMES

    def process(self, frames: list[Frame]) -> list[Result]:
        return [Result(two_instances(int(f.image[0, 0, 0])), {"network": 1.5}) for f in frames]


def stamp_ns(index: int) -> int:
    """When frame `index` was taken."""
    return FIRST_NS + index * PERIOD_NS


def header(index: int) -> Any:
    """A `std_msgs/Header` of rosbags for frame `index` of the front camera."""
    return make_header(stamp_ns(index), "camera_front")


def serialized_image(index: int) -> bytes:
    """The image as a serialised sensor_msgs/Image."""
    message = result_messages.overlay_message(message_classes(), header(index), noise_image(index))
    return bytes(typestore().serialize_cdr(message, IMAGE))


def write_with_rosbags(
    folder: Path, storage: StoragePlugin, count: int, first: int = 0, msgtype: str = IMAGE
) -> Path:
    """A recording directory as rosbag2 makes it, of the images from `first` on."""
    with Writer(folder, version=8, storage_plugin=storage) as writer:
        connection = writer.add_connection("/image", msgtype, typestore=typestore())
        for i in range(first, first + count):
            writer.write(connection, stamp_ns(i), serialized_image(i))
    return folder


def write_mcap(path: Path, count: int = 12, **options: Any) -> Path:
    """Images beside a channel of JSON, in small chunks.

    options: those of mcap's `Writer`, such as the compression.
    """
    with path.open("wb") as file:
        writer = McapWriter(file, chunk_size=20_000, **options)
        writer.start(profile="")
        schema = writer.register_schema(IMAGE, "ros2msg", b"")
        channel = writer.register_channel("/image", "cdr", schema)
        events = writer.register_channel("/events", "json", 0)
        for i in range(count):
            writer.add_message(events, stamp_ns(i), b"{}", stamp_ns(i))
            writer.add_message(channel, stamp_ns(i), serialized_image(i), stamp_ns(i))
        writer.finish()
    return path


def write_db3(path: Path, count: int = 12) -> Path:
    """A bare SQLite recording of `count` images, without the metadata of its folder."""
    made = write_with_rosbags(path.with_suffix(""), StoragePlugin.SQLITE3, count)
    return next(made.glob("*.db3")).rename(path)


def change_db3(path: Path, *statements: str) -> Path:
    """Run SQL in a recording, to damage it; returns its path."""
    database = sqlite3.connect(path)
    for statement in statements:
        database.execute(statement)
    database.commit()
    database.close()
    return path


def assert_frames(frames: Iterable[Frame], indices: Iterable[int]) -> None:
    """These are the frames of these indices, in this order, pixel for pixel."""
    got, expected = list(frames), list(indices)
    assert [f.stamp_ns for f in got] == [stamp_ns(i) for i in expected]
    for frame, i in zip(got, expected, strict=True):
        assert frame.frame_id == "camera_front"
        np.testing.assert_array_equal(frame.image, noise_image(i))


def until_broken(source: Iterable[Frame]) -> tuple[list[Frame], str]:
    """The frames that come before TruncatedInputError, and what it says."""
    frames: list[Frame] = []
    with pytest.raises(TruncatedInputError) as caught:
        frames.extend(source)  # extend keeps what came before the error
    return frames, str(caught.value)


def write_bag(path: Path, count: int, topic: str = "/image") -> Path:
    """A recording of `count` raw images."""
    writer = BagWriter(path)
    writer.add_topic(topic, IMAGE)
    for i in range(count):
        writer.write(
            topic,
            result_messages.overlay_message(writer.msgs, header(i), noise_image(i)),
            stamp_ns(i),
        )
    writer.close()
    return path


def write_street_bag(path: Path, count: int) -> Path:
    """A recording like the synthetic street's: PNG images, depth, and the truth."""
    writer = BagWriter(path)
    msgs = writer.msgs
    writer.add_topic("/image/compressed", COMPRESSED)
    writer.add_topic("/depth", IMAGE)
    writer.add_topic("/ground_truth/labels", COMPRESSED)
    writer.add_topic("/ground_truth/detections", DETECTIONS)
    for i in range(count):
        picture = _png(msgs, i, "rgb8; png compressed bgr8", noise_image(i)[..., ::-1])
        writer.write("/image/compressed", picture, stamp_ns(i))
        depth = result_messages.labels_message(
            msgs, header(i), np.full((HEIGHT, WIDTH), 1500, np.uint16)
        )
        writer.write("/depth", depth, stamp_ns(i))
        labels = _png(msgs, i, "mono16; png compressed", two_instances(i).labels)
        writer.write("/ground_truth/labels", labels, stamp_ns(i))
        detections = result_messages.detections_message(
            msgs, header(i), two_instances(i), CLASS_NAMES
        )
        writer.write("/ground_truth/detections", detections, stamp_ns(i))
    writer.close()
    return path


def _png(msgs: Any, index: int, form: str, pixels: np.ndarray) -> Any:
    """A `CompressedImage` whose format reads `form`."""
    data = cv2.imencode(".png", pixels)[1]
    return msgs.CompressedImage(header=header(index), format=form, data=data)
