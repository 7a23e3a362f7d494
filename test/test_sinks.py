"""Each kind of output, whole under its name or not there at all."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import recordings
from recordings import CLASS_NAMES, HEIGHT, WIDTH, stamp_ns
from rosbags.rosbag2 import Reader

from instaseg_ros import outputs
from instaseg_ros.bag_types import typestore
from instaseg_ros.config import Config
from instaseg_ros.errors import ConfigError
from instaseg_ros.images import image_to_labels, image_to_rgb
from instaseg_ros.sinks import CallbackSink, open_sink
from instaseg_ros.types import Frame, Result
from instaseg_ros.visualization import overlay

CONFIG = Config()


def frame(index: int) -> Frame:
    return Frame(recordings.image(index), stamp_ns(index), "camera_front")


def fill(sink, count: int) -> None:
    for i in range(count):
        sink.write(frame(i), Result(recordings.instances(i)))


def expected_overlay(index: int) -> np.ndarray:
    alpha = CONFIG.node.overlay_alpha
    return overlay(frame(index), recordings.instances(index), CLASS_NAMES, alpha)


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
    node = outputs.NODE_NAME
    assert types == {f"/{node}/{name}": topic.type for name, topic in outputs.TOPICS.items()}
    assert len(read.pop(f"/{node}/label_info")) == 1
    for messages in read.values():
        assert [time_ns for time_ns, _ in messages] == [stamp_ns(i) for i in range(3)]
    for i, (_, message) in enumerate(read[f"/{node}/labels"]):
        np.testing.assert_array_equal(image_to_labels(message), recordings.instances(i).labels)
        assert message.header == recordings.header(i)
    for i, (_, message) in enumerate(read[f"/{node}/overlay"]):
        np.testing.assert_array_equal(image_to_rgb(message), expected_overlay(i))


def test_folder_of_pngs(tmp_path):
    path = tmp_path / "deep" / "out"
    sink = open_sink(path, CLASS_NAMES, CONFIG)
    fill(sink, 2)
    assert not path.exists()
    sink.close()
    for i in range(2):
        labels = cv2.imread(str(path / "labels" / f"{i:06d}.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(labels, recordings.instances(i).labels)
        picture = cv2.imread(str(path / "overlay" / f"{i:06d}.png"))[..., ::-1]
        np.testing.assert_array_equal(picture, expected_overlay(i))
    lines = [json.loads(line) for line in (path / "detections.jsonl").read_text().splitlines()]
    assert [line["stamp_ns"] for line in lines] == [stamp_ns(0), stamp_ns(1)]
    assert lines[1]["file"] == "000001.png"
    assert lines[1]["instances"][1] == {
        "id": 7, "class": "person", "score": 0.5, "box_xyxy": [31.0, 25.0, 46.0, 40.0],
    }  # fmt: skip


@pytest.mark.parametrize("count", [1, 4])
def test_video_of_the_overlay(tmp_path, count):
    path = tmp_path / "out.mp4"
    sink = open_sink(path, CLASS_NAMES, CONFIG)
    fill(sink, count)
    assert not path.exists()
    sink.close()
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(20 if count > 1 else 10)  # 50 ms apart
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    assert [f.shape for f in frames] == [(HEIGHT, WIDTH, 3)] * count


def test_video_scales_frames_of_another_size(tmp_path):
    sink = open_sink(tmp_path / "out.mp4", CLASS_NAMES, CONFIG)
    fill(sink, 2)
    larger = Frame(np.zeros((2 * HEIGHT, 2 * WIDTH, 3), np.uint8), stamp_ns(2))
    empty = recordings.Instances.empty(2 * HEIGHT, 2 * WIDTH)
    sink.write(larger, Result(empty))
    sink.close()
    capture = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 3


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
    with pytest.raises(ConfigError, match=r"\.mcap .* or \.mp4"):
        open_sink(tmp_path / "out.avi", CLASS_NAMES, CONFIG)


def test_callback_gets_frame_and_result():
    got = []
    fill(CallbackSink(lambda frame, result: got.append((frame.stamp_ns, len(result.instances)))), 2)
    assert got == [(stamp_ns(0), 2), (stamp_ns(1), 2)]
