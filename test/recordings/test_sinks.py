"""Each kind of output, whole under its name or not there at all."""

from __future__ import annotations

import dataclasses
import json

import cv2
import numpy as np
import pytest
import written_recordings
from mcap.reader import make_reader
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from written_recordings import CLASS_NAMES, HEIGHT, WIDTH, stamp_ns

from instaseg_ros.config import Config, merge
from instaseg_ros.errors import ConfigError
from instaseg_ros.frames import Frame, Instances, Result
from instaseg_ros.recordings import result_messages
from instaseg_ros.recordings.bags import CAMERA_INFO, IMAGE, BagSource, BagWriter
from instaseg_ros.recordings.image_messages import image_to_labels, image_to_rgb
from instaseg_ros.recordings.message_types import make_header, typestore
from instaseg_ros.recordings.sinks import CallbackSink, open_sink
from instaseg_ros.visualization import color, overlay

CONFIG = Config()


def frame(index: int) -> Frame:
    return Frame(written_recordings.noise_image(index), stamp_ns(index), "camera_front")


def fill(sink, count: int) -> None:
    for i in range(count):
        sink.write(frame(i), Result(written_recordings.two_instances(i)))


def expected_overlay(index: int) -> np.ndarray:
    alpha = CONFIG.node.overlay_alpha
    return overlay(frame(index), written_recordings.two_instances(index), CLASS_NAMES, alpha)


def test_recording_has_the_topics_of_the_node(tmp_path):
    path = tmp_path / "out.mcap"
    sink = open_sink(path, CLASS_NAMES, CONFIG)
    fill(sink, 3)
    assert not path.exists()
    sink.close()
    read: dict[str, list] = {}
    with Reader(path) as reader:
        types = {connection.topic: connection.msgtype for connection in reader.connections}
        for connection, time_ns, data in reader.messages():
            message = typestore().deserialize_cdr(data, connection.msgtype)
            read.setdefault(connection.topic, []).append((time_ns, message))
    node = result_messages.NODE_NAME
    written = {**result_messages.TOPICS, **result_messages.RECORDED_TOPICS}
    assert types == {
        f"/{node}/{name}": topic.type
        for name, topic in written.items()
        if name != "labels/compressed"  # the same as labels
    }
    assert len(read.pop(f"/{node}/label_info")) == 1
    for messages in read.values():
        assert [time_ns for time_ns, _ in messages] == [stamp_ns(i) for i in range(3)]
    for i, (_, message) in enumerate(read[f"/{node}/labels"]):
        np.testing.assert_array_equal(
            image_to_labels(message), written_recordings.two_instances(i).labels
        )
        assert message.header == written_recordings.header(i)
    for i, (_, message) in enumerate(read[f"/{node}/overlay"]):
        np.testing.assert_array_equal(image_to_rgb(message), expected_overlay(i))


def test_annotations_are_read_by_the_definition_in_the_file(tmp_path):
    """As Foxglove reads them, which knows the type by its name alone."""
    path = tmp_path / "out.mcap"
    sink = open_sink(path, CLASS_NAMES, CONFIG)
    sink.write(frame(0), Result(written_recordings.two_instances(0)))
    sink.write(frame(1), Result(Instances.empty(HEIGHT, WIDTH)))
    sink.close()
    topic = f"/{result_messages.NODE_NAME}/annotations"
    with path.open("rb") as file:
        read = list(make_reader(file).iter_messages([topic]))
    schema, channel, _ = read[0]
    assert (schema.name, schema.encoding) == ("foxglove_msgs/msg/ImageAnnotations", "ros2msg")
    assert channel.message_encoding == "cdr"
    store = get_typestore(Stores.EMPTY)
    store.register(get_types_from_msg(schema.data.decode(), schema.name))
    full, empty = (store.deserialize_cdr(message.data, schema.name) for _, _, message in read)
    assert [message.log_time for _, _, message in read] == [stamp_ns(0), stamp_ns(1)]
    for message, index in ((full, 0), (empty, 1)):
        assert message.timestamp.sec * 10**9 + message.timestamp.nanosec == stamp_ns(index)
    assert not (empty.points or empty.texts or empty.circles)
    assert [text.text for text in full.texts] == ["car 300 0.90", "person 7 0.50"]
    boxes = [one for one in full.points if one.metadata]
    about = [{pair.key: pair.value for pair in one.metadata} for one in boxes]
    assert about[0] == {"class": "car", "id": "300", "score": "0.90"}
    corners = [[(point.x, point.y) for point in one.points] for one in full.points]
    assert corners[0] == [(5, 10), (25, 10), (25, 20), (5, 20)]  # the pixels' outer edges
    assert {*corners[1]} == {(5.5, 10.5), (24.5, 10.5), (24.5, 19.5), (5.5, 19.5)}  # the middles
    assert len(corners) == 4
    for one in full.points:
        assert one.type == one.LINE_LOOP and one.thickness > 0 and one.outline_color.a == 1
    ink = full.texts[1].background_color
    assert tuple(round(255 * part) for part in (ink.r, ink.g, ink.b)) == color(7)
    assert ink == full.points[2].outline_color != full.points[0].outline_color


@pytest.mark.parametrize("frame_id", ["camera_front", "another"])
def test_markers_are_drawn_by_the_camera_info_of_the_recording(tmp_path, frame_id):
    """Of the camera of the images; else a field of view is assumed."""
    k = np.array([500.0, 0, 30, 0, 400, 20, 0, 0, 1])
    writer = BagWriter(tmp_path / "in.mcap")
    writer.add_topic("/front/image_raw", IMAGE)
    writer.add_topic("/front/camera_info", CAMERA_INFO)
    header = make_header(stamp_ns(0), frame_id)
    info = writer.msgs.CameraInfo(header=header, height=HEIGHT, width=WIDTH, k=k)
    writer.write("/front/camera_info", info, stamp_ns(0))
    image = result_messages.overlay_message(
        writer.msgs, written_recordings.header(1), written_recordings.noise_image(1)
    )
    writer.write("/front/image_raw", image, stamp_ns(1))
    writer.close()
    [read] = BagSource(tmp_path / "in.mcap")
    sink = open_sink(tmp_path / "out.mcap", CLASS_NAMES, CONFIG)
    sink.write(read, Result(written_recordings.two_instances(1)))
    sink.close()
    with Reader(tmp_path / "out.mcap") as reader:
        found = [c for c in reader.connections if c.topic.endswith("/markers")]
        (data,) = (data for _, _, data in reader.messages(found))
    outline = typestore().deserialize_cdr(data, found[0].msgtype).markers[1]
    if frame_id != "camera_front":
        k = np.array([WIDTH, 0, WIDTH / 2, 0, WIDTH, HEIGHT / 2, 0, 0, 1])
    pixels = np.array([[p.x, p.y, p.z] for p in outline.points]) @ k.reshape(3, 3).T
    assert set(map(tuple, np.rint(pixels[:, :2]).astype(int).tolist())) == {
        (5, 10), (24, 10), (24, 19), (5, 19),
    }  # fmt: skip


def test_folder_of_pngs(tmp_path):
    path = tmp_path / "deep" / "out"
    sink = open_sink(path, CLASS_NAMES, CONFIG)
    fill(sink, 2)
    assert not path.exists()
    sink.close()
    for i in range(2):
        labels = cv2.imread(str(path / "labels" / f"{i:06d}.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(labels, written_recordings.two_instances(i).labels)
        picture = cv2.imread(str(path / "overlay" / f"{i:06d}.png"))[..., ::-1]
        np.testing.assert_array_equal(picture, expected_overlay(i))
    lines = [json.loads(line) for line in (path / "detections.jsonl").read_text().splitlines()]
    assert [line["stamp_ns"] for line in lines] == [stamp_ns(0), stamp_ns(1)]
    assert lines[1]["file"] == "000001.png"
    assert lines[1]["instances"][1] == {
        "id": 7, "class": "person", "score": 0.5, "box_xyxy": [31.0, 25.0, 46.0, 40.0],
    }  # fmt: skip


def test_files_are_named_after_the_images(tmp_path):
    """And none is lost to another of its name."""
    path = tmp_path / "out"
    sink = open_sink(path, CLASS_NAMES, CONFIG)
    names = ["b", "a.left", "", "b", "B", "../../up"]
    for i, name in enumerate(names):
        named = dataclasses.replace(frame(i), name=name)
        sink.write(named, Result(written_recordings.two_instances(i)))
    sink.close()
    lines = [json.loads(line) for line in (path / "detections.jsonl").read_text().splitlines()]
    files = [line["file"] for line in lines]
    assert files == ["b.png", "a.left.png", "000002.png", "b_2.png", "B_3.png", "up.png"]
    for i, file in enumerate(files):
        labels = cv2.imread(str(path / "labels" / file), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(labels, written_recordings.two_instances(i).labels)
    assert len(list((path / "overlay").iterdir())) == len(names)


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
@pytest.mark.parametrize("count", [1, 4])
def test_video_of_the_overlay(tmp_path, count, suffix):
    path = tmp_path / f"out{suffix}"
    if suffix == ".webm":
        pytest.importorskip("av", reason="the extra `video` is not installed")
    sink = open_sink(path, CLASS_NAMES, CONFIG)
    fill(sink, count)
    assert not path.exists()
    sink.close()
    capture = cv2.VideoCapture(str(path))
    there, first = capture.read()
    assert there and first.shape == (HEIGHT, WIDTH, 3)
    shown, drawn = (picture[10:20, 5:25].mean((0, 1)) for picture in (first, expected_overlay(0)))
    assert np.abs(shown[::-1] - drawn).max() < 12  # of noise, coded with loss
    capture.release()


def test_overlays_name_ids_while_tracking(tmp_path):
    tracked = merge(CONFIG, {"tracking.enabled": True})
    sink = open_sink(tmp_path / "out", CLASS_NAMES, tracked)
    fill(sink, 1)
    sink.close()
    picture = cv2.imread(str(tmp_path / "out" / "overlay" / "000000.png"))[..., ::-1]
    alpha = CONFIG.node.overlay_alpha
    with_ids = overlay(
        frame(0), written_recordings.two_instances(0), CLASS_NAMES, alpha, with_ids=True
    )
    np.testing.assert_array_equal(picture, with_ids)
    assert (picture != expected_overlay(0)).any()


def test_a_video_that_the_disk_refuses_leaves_no_trace(tmp_path, monkeypatch):
    """Closing it fails as writing did; it is discarded all the same."""
    sink = open_sink(tmp_path / "out.mp4", CLASS_NAMES, CONFIG)
    fill(sink, 2)
    sink._output.part.touch()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sink._video, "close", full)
    with pytest.raises(OSError, match="No space left"):
        sink.close()
    sink.discard()
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["out.mcap", "out.mp4", "out"])
def test_outputs_are_replaced_only_when_told_and_discarded_without_a_trace(tmp_path, name):
    path = tmp_path / name
    first = open_sink(path, CLASS_NAMES, CONFIG)
    fill(first, 2)
    first.close()
    with pytest.raises(ConfigError, match=r"exists: .*--overwrite"):
        open_sink(path, CLASS_NAMES, CONFIG)
    discarded = open_sink(path, CLASS_NAMES, CONFIG, overwrite=True)
    fill(discarded, 3)
    discarded.discard()
    assert list(tmp_path.iterdir()) == [path]
    second = open_sink(path, CLASS_NAMES, CONFIG, overwrite=True)
    fill(second, 3)
    second.close()
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_no_output_is_never_replaced(tmp_path):
    (tmp_path / "precious").mkdir()
    with pytest.raises(ConfigError, match=r"not replaced: expected a folder with detections.jsonl"):
        open_sink(tmp_path / "precious", CLASS_NAMES, CONFIG, overwrite=True)
    with pytest.raises(ConfigError, match=r"\.mcap .*\.mp4 or \.webm"):
        open_sink(tmp_path / "out.avi", CLASS_NAMES, CONFIG)


def test_callback_gets_frame_and_result():
    got = []
    fill(CallbackSink(lambda frame, result: got.append((frame.stamp_ns, len(result.instances)))), 2)
    assert got == [(stamp_ns(0), 2), (stamp_ns(1), 2)]
