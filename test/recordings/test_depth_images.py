"""Depth in recordings: which image it belongs to, and what a replay makes of it."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rosbags")

import written_recordings
from rosbags.highlevel import AnyReader
from written_recordings import CLASS_NAMES, HEIGHT, WIDTH, StandInPipeline, noise_image

from instaseg_ros.config import Config
from instaseg_ros.errors import InputError, TruncatedInputError
from instaseg_ros.recordings import result_messages
from instaseg_ros.recordings.bags import CAMERA_INFO, IMAGE, BagSource, BagWriter
from instaseg_ros.recordings.depth_images import AHEAD, paired
from instaseg_ros.recordings.message_types import make_header, typestore
from instaseg_ros.recordings.recording import RawMessage
from instaseg_ros.recordings.replay import replay
from instaseg_ros.recordings.sinks import open_sink
from instaseg_ros.recordings.sources import open_source

CAMERA = "camera_front"
K = np.array([50.0, 0, 32, 0, 50, 24, 0, 0, 1])
MS = 1_000_000


def depth_message(msgs, stamp_ns: int, metres: float, frame_id: str = CAMERA):
    values = np.full((HEIGHT, WIDTH), metres, "<f4")
    return msgs.Image(
        header=make_header(stamp_ns, frame_id),
        height=HEIGHT,
        width=WIDTH,
        encoding="32FC1",
        step=4 * WIDTH,
        data=values.view(np.uint8).reshape(-1),
    )


def write(path: Path, late_ms: tuple[float, ...], frame_id: str = CAMERA) -> Path:
    """A recording of images, each with depth taken so much later, of 2 m, 3 m, ..."""
    writer = BagWriter(path)
    writer.add_topic("/front/image", IMAGE)
    writer.add_topic("/front/depth", IMAGE)
    writer.add_topic("/front/camera_info", CAMERA_INFO)
    msgs = writer.msgs
    info = msgs.CameraInfo(header=make_header(0, CAMERA), height=HEIGHT, width=WIDTH, k=K)
    writer.write("/front/camera_info", info, 0)
    messages = []
    for i, late in enumerate(late_ms):
        taken_ns = written_recordings.stamp_ns(i)
        image = result_messages.overlay_message(msgs, written_recordings.header(i), noise_image(i))
        depth_ns = taken_ns + round(late * MS)
        messages.append((taken_ns, "/front/image", image))
        messages.append((depth_ns, "/front/depth", depth_message(msgs, depth_ns, 2 + i, frame_id)))
    for received_ns, topic, message in sorted(messages, key=lambda one: one[0]):
        writer.write(topic, message, received_ns)
    writer.close()
    return path


def distances(source: BagSource) -> list[float | None]:
    return [None if f.depth is None else float(f.depth[0, 0]) for f in source]


def test_frames_have_the_depth_of_their_stamp_else_the_nearest(tmp_path, caplog):
    path = write(tmp_path / "in.mcap", (0, 15, -18, 22, 5))
    source = BagSource(path, "/front/image", depth="/front/depth")
    with caplog.at_level(logging.WARNING):
        assert distances(source) == [2, 3, 4, None, 6]
    assert "frames without depth: no depth image of their time: 1" in caplog.text
    assert distances(source) == [2, 3, 4, None, 6]  # iterated again
    wider = open_source(path, "/front/image", depth="/front/depth", slop_ms=25)
    assert distances(wider) == [2, 3, 4, 5, 6]
    assert distances(open_source(path, "/front/image")) == [None] * 5


def test_depth_that_cannot_be_used_is_said_once(tmp_path, caplog):
    path = write(tmp_path / "in.mcap", (0, 0, 0), frame_id="depth_camera")
    with caplog.at_level(logging.WARNING):
        source = BagSource(path, "/front/image", depth="/front/depth")
        assert distances(source) == [None] * 3
    assert caplog.text.count("expected the depth's calibrated camera_info") == 1
    assert caplog.text.rstrip().endswith(": 3")


def test_a_topic_that_is_not_there_is_refused(tmp_path):
    path = write(tmp_path / "in.mcap", (0,))
    with pytest.raises(InputError, match="no image topic '/depth'; it has:\n  /front/depth"):
        open_source(path, "/front/image", depth="/depth")
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match="--depth is for recordings"):
        open_source(tmp_path / "images", depth="/depth")


def test_a_replay_with_depth_writes_places(tmp_path):
    path = write(tmp_path / "in.mcap", (0, 40, 0))
    source = BagSource(path, "/front/image", depth="/front/depth")
    sink = open_sink(tmp_path / "out.mcap", CLASS_NAMES, Config())
    assert replay(source, StandInPipeline(), [sink]).labelled == 3
    found: dict[str, list] = {"detections_3d": [], "markers": []}
    with AnyReader([tmp_path / "out.mcap"], default_typestore=typestore()) as reader:
        for connection, _, data in reader.messages():
            name = connection.topic.rpartition("/")[2]
            if name in found:
                found[name].append(reader.deserialize(data, connection.msgtype))
    stamps = [m.header.stamp.nanosec for m in found["detections_3d"]]
    assert stamps == [written_recordings.header(i).stamp.nanosec for i in (0, 2)]
    for message, away_m in zip(found["detections_3d"], (2, 4), strict=True):
        assert [one.id for one in message.detections] == ["300", "7"]
        for one in message.detections:
            assert one.results[0].pose.pose.position.z == pytest.approx(away_m)
    boxes = [[m.ns for m in message.markers].count("box") for message in found["markers"]]
    assert boxes == [2, 0, 2]


def raw(topic: str, stamp_ns: int) -> RawMessage:
    return RawMessage(topic, stamp_ns, b"")


def read(message: RawMessage):
    return SimpleNamespace(header=make_header(message.received_ns, ""), name=message.received_ns)


def pairs(messages, slop_ns: float = 10):
    found = paired(messages, "d", read, slop_ns)
    return [(image.received_ns, depth and depth.name) for image, depth in found]


def test_pairs_in_any_order_of_recording():
    assert pairs([raw("d", 100), raw("i", 100), raw("i", 200), raw("d", 195), raw("d", 204)]) == [
        (100, 100),
        (200, 204),
    ]
    assert pairs([raw("i", 100), raw("i", 200), raw("d", 100), raw("d", 200)]) == [
        (100, 100),
        (200, 200),
    ]
    assert pairs([raw("i", 100)]) == [(100, None)]


def test_images_do_not_wait_for_ever():
    messages = [raw("i", number) for number in range(AHEAD + 5)]
    found = paired(iter(messages), "d", read, 10)
    assert next(found)[0].received_ns == 0
    assert len(list(found)) == AHEAD + 4


def test_a_damaged_message_holds_up_nothing():
    found = paired([raw("i", 1), raw("d", 1), raw("i", 2)], "d", lambda message: None, 10)
    assert [(image.received_ns, depth) for image, depth in found] == [(1, None), (2, None)]


def test_a_break_comes_after_the_images_before_it():
    def broken():
        yield raw("i", 100)
        raise TruncatedInputError("breaks off")

    found = paired(broken(), "d", read, 10)
    assert next(found)[0].received_ns == 100
    with pytest.raises(TruncatedInputError):
        next(found)
