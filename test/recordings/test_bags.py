"""Recordings: what is written is read back."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import written_recordings
import zstandard
from mcap.reader import make_reader
from mcap.writer import Writer as McapWriter
from rosbags.rosbag2 import Reader, StoragePlugin
from written_recordings import (
    CLASS_NAMES,
    assert_frames,
    noise_image,
    serialized_image,
    stamp_ns,
    write_bag,
    write_street_bag,
    write_with_rosbags,
)

from instaseg_ros.errors import ConfigError, ImageError, InputError
from instaseg_ros.recordings import bags, result_messages
from instaseg_ros.recordings.bags import IMAGE, BagSource, BagWriter, read_truth
from instaseg_ros.recordings.message_types import (
    FOXGLOVE_MSGS,
    VISION_MSGS,
    full_type,
    make_header,
    message_classes,
    typestore,
)


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
@pytest.mark.parametrize("bare", [False, True])
def test_reads_directories_and_bare_files(tmp_path, storage, bare):
    bag = write_with_rosbags(tmp_path / "bag", storage, 5)
    if bare:
        bag = next(file for file in bag.iterdir() if file.suffix in (".mcap", ".db3"))
    source = BagSource(bag)
    assert (source.topic, source.total) == ("/image", 5)
    assert_frames(source, range(5))
    assert_frames(source, range(5))  # again


def test_old_type_names_and_messages_compressed_one_by_one(tmp_path):
    """As rosbag2 of 2019 wrote types, and as its per-message compression stores data."""
    path = tmp_path / "old.mcap"
    with path.open("wb") as file:
        writer = McapWriter(file)
        writer.start(profile="ros2")
        schema = writer.register_schema("sensor_msgs/Image", "ros2msg", b"")
        channel = writer.register_channel("/image", "cdr", schema)
        for i in range(3):
            data = zstandard.compress(serialized_image(i))
            writer.add_message(channel, stamp_ns(i), data, stamp_ns(i))
        writer.finish()
    assert_frames(BagSource(path), range(3))


def test_tables_of_the_first_recorders(tmp_path: Path) -> None:
    """As rosbag2 of Dashing (2019) made them: no QoS, no index, no schema's version, old types."""
    path = tmp_path / "dashing.db3"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.executescript(
            "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL, "
            "serialization_format TEXT NOT NULL); "
            "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, "
            "timestamp INTEGER NOT NULL, data BLOB NOT NULL);"
        )
        database.execute("INSERT INTO topics VALUES (1, '/text', 'std_msgs/String', 'cdr')")
        database.execute("INSERT INTO topics VALUES (2, '/image', 'sensor_msgs/Image', 'cdr')")
        database.execute("INSERT INTO messages VALUES (1, 1, 0, x'00010000')")
        for i in range(3):
            row = (i + 2, 2, stamp_ns(i), serialized_image(i))
            database.execute("INSERT INTO messages VALUES (?, ?, ?, ?)", row)
        database.commit()
    source = BagSource(path)
    assert (source.topic, source.total) == ("/image", 3)
    assert_frames(source, range(3))


def test_camera_is_told_from_depth_and_truth(tmp_path):
    source = BagSource(write_street_bag(tmp_path / "street.mcap", 3))
    assert source.topic == "/image/compressed"
    assert_frames(source, range(3))


def test_topics_are_listed_where_the_choice_is_open(tmp_path):
    writer = BagWriter(tmp_path / "two.mcap")
    for side, count in (("left", 1), ("right", 2)):
        writer.add_topic(f"/{side}/image_raw", IMAGE)
        for i in range(count):
            message = result_messages.overlay_message(
                writer.msgs, written_recordings.header(i), noise_image(i)
            )
            writer.write(f"/{side}/image_raw", message, stamp_ns(i))
    writer.close()
    with pytest.raises(InputError, match="2 that could be") as caught:
        BagSource(tmp_path / "two.mcap")
    assert "/right/image_raw: sensor_msgs/msg/Image, 2 messages" in str(caught.value)
    assert_frames(BagSource(tmp_path / "two.mcap", "/right/image_raw"), range(2))
    with pytest.raises(InputError, match="no image topic '/up'; it has:\n  /left/image_raw"):
        BagSource(tmp_path / "two.mcap", "/up")


def test_pictures_that_the_node_makes_are_no_camera(tmp_path):
    writer = BagWriter(tmp_path / "all.mcap")
    pictures = {**result_messages.TOPICS, **result_messages.DEBUG_TOPICS}
    made = [f"/instaseg_node/front/{n}" for n, one in pictures.items() if one.type == IMAGE]
    for topic in ("/front/image_raw", *made):
        writer.add_topic(topic, IMAGE)
        message = result_messages.overlay_message(
            writer.msgs, written_recordings.header(0), noise_image(0)
        )
        writer.write(topic, message, stamp_ns(0))
    writer.close()
    assert len(made) > 6
    assert BagSource(tmp_path / "all.mcap").topic == "/front/image_raw"


def test_damaged_frame_can_be_skipped(tmp_path):
    writer = BagWriter(tmp_path / "bad.mcap")
    writer.add_topic("/image", IMAGE)
    for i in range(4):
        message = result_messages.overlay_message(
            writer.msgs, written_recordings.header(i), noise_image(i)
        )
        if i == 1:
            message.data = message.data[:100]
        if i == 2:
            message.encoding = "unheard_of"
        writer.write("/image", message, stamp_ns(i))
    writer.close()
    frames, errors = [], []
    iterator = iter(BagSource(tmp_path / "bad.mcap"))
    for _ in range(4):
        try:
            frames.append(next(iterator))
        except ImageError as error:
            errors.append(str(error))
    assert_frames(frames, [0, 3])
    assert "got 100" in errors[0]
    assert "unheard_of" in errors[1]


def test_unusable_inputs_say_why(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        BagSource(tmp_path / "absent.mcap")
    (tmp_path / "empty.mcap").touch()
    with pytest.raises(InputError, match="0 bytes"):
        BagSource(tmp_path / "empty.mcap")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="found none"):
        BagSource(tmp_path / "folder")
    for name in ("noise.mcap", "noise.db3"):
        (tmp_path / name).write_bytes(b"no recording at all, but some text" * 9)
        with pytest.raises(InputError, match="no message can be read"):
            BagSource(tmp_path / name)
    (tmp_path / "old.bag").touch()
    with pytest.raises(InputError, match="ROS 1"):
        BagSource(tmp_path / "old.bag")
    with pytest.raises(InputError, match="none with a picture"):
        BagSource(write_bag(tmp_path / "zero.mcap", 0))


def test_recording_of_another_system_is_refused(tmp_path):
    with (tmp_path / "json.mcap").open("wb") as file:
        writer = McapWriter(file)
        writer.start(profile="x")
        channel = writer.register_channel("/a", "json", 0)
        writer.add_message(channel, 1, b"{}", 1)
        writer.finish()
    with pytest.raises(InputError, match=r"not a ROS 2 recording: profile 'x', messages .* json"):
        BagSource(tmp_path / "json.mcap")


def test_recording_without_images_names_its_topics(tmp_path):
    writer = BagWriter(tmp_path / "talk.mcap")
    writer.add_topic("/info", "vision_msgs/msg/LabelInfo")
    message = result_messages.label_info_message(
        writer.msgs, written_recordings.header(0), CLASS_NAMES
    )
    writer.write("/info", message, 1)
    writer.close()
    with pytest.raises(InputError, match="no image topic; its topics: /info"):
        BagSource(tmp_path / "talk.mcap")


def test_truth_is_joined_by_stamp(tmp_path):
    path = write_street_bag(tmp_path / "street.mcap", 3)
    truths = list(read_truth(path))
    assert [truth.stamp_ns for truth in truths] == [stamp_ns(i) for i in range(3)]
    for i, truth in enumerate(truths):
        np.testing.assert_array_equal(truth.labels, written_recordings.two_instances(i).labels)
        assert truth.class_names == {300: "car", 7: "person"}
    with pytest.raises(InputError, match=r"carries no truth: .*ground_truth/labels"):
        next(read_truth(write_bag(tmp_path / "plain.mcap", 1)))


def test_truth_without_its_other_half_is_left_out_and_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(bags, "MAX_WAITING", 2)
    writer = BagWriter(tmp_path / "half.mcap")
    writer.add_topic("/cam/ground_truth/labels", IMAGE)
    writer.add_topic("/cam/ground_truth/detections", bags.DETECTIONS)
    for i in range(5):
        header, truth = written_recordings.header(i), written_recordings.two_instances(i)
        labels = result_messages.labels_message(writer.msgs, header, truth.labels)
        writer.write("/cam/ground_truth/labels", labels, stamp_ns(i))
    for i in (0, 4):  # the first comes too late
        header, truth = written_recordings.header(i), written_recordings.two_instances(i)
        detections = result_messages.detections_message(writer.msgs, header, truth, CLASS_NAMES)
        writer.write("/cam/ground_truth/detections", detections, stamp_ns(4) + i)
    writer.close()
    assert [truth.stamp_ns for truth in read_truth(tmp_path / "half.mcap")] == [stamp_ns(4)]


def test_written_recording_is_whole_for_others(tmp_path):
    """The file has schemas, hashes and QoS, and gets its name only when it is whole."""
    path = tmp_path / "out.mcap"
    writer = BagWriter(path)
    writer.add_topic("/info", "vision_msgs/msg/LabelInfo", latched=True)
    message = result_messages.label_info_message(
        writer.msgs, written_recordings.header(0), CLASS_NAMES
    )
    writer.write("/info", message, stamp_ns(0))
    assert not path.exists()
    writer.close()
    assert list(tmp_path.iterdir()) == [path]
    with path.open("rb") as file:
        schema, channel, raw = next(make_reader(file).iter_messages())
    assert (schema.name, schema.encoding) == ("vision_msgs/msg/LabelInfo", "ros2msg")
    assert b"MSG: vision_msgs/VisionClass\nuint16 class_id" in schema.data
    assert channel.message_encoding == "cdr"
    assert channel.metadata["topic_type_hash"].startswith("RIHS01_")
    assert raw.log_time == stamp_ns(0)
    with Reader(path) as reader:
        [connection] = reader.connections
        assert connection.ext.offered_qos_profiles[0].durability.name == "TRANSIENT_LOCAL"
        [(_, _, data)] = reader.messages()
    read = typestore().deserialize_cdr(data, connection.msgtype)
    assert [c.class_name for c in read.class_map] == list(CLASS_NAMES)


def test_writer_replaces_only_when_told_and_discards_cleanly(tmp_path):
    path = write_bag(tmp_path / "a.mcap", 1)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="--overwrite"):
        BagWriter(path)
    BagWriter(path, overwrite=True).discard()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    BagWriter(path, overwrite=True).close()
    assert path.read_bytes() != before


def test_time_that_no_recording_holds_gives_way_to_the_nearest(tmp_path, caplog):
    writer = BagWriter(tmp_path / "a.mcap")
    writer.add_topic("/image", IMAGE)
    stamps = [-1, 5, (1 << 31) * 10**9 + 7, 1 << 70]
    for stamp in stamps:
        picture = result_messages.overlay_message(
            writer.msgs, make_header(stamp, ""), noise_image(0)
        )
        writer.write("/image", picture, stamp)
    writer.close()
    latest = (1 << 31) * 10**9 - 1
    frames = list(BagSource(tmp_path / "a.mcap"))
    assert [f.stamp_ns for f in frames] == [-1, 5, latest, latest]
    assert [f.received_ns for f in frames] == [0, 5, stamps[2], (1 << 63) - 1]
    assert "2 messages have the nearest possible time" in caplog.text


def test_types_are_those_of_a_robot():
    robot = "RIHS01_214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968"
    assert typestore().hash_rihs01("vision_msgs/msg/Detection2DArray") == robot
    assert full_type("sensor_msgs/Image") == full_type("sensor_msgs/msg/Image") == IMAGE


def test_every_type_has_a_zero_that_serialises():
    store, msgs = typestore(), message_classes()
    for name in ("CameraInfo", "Marker", "Image", *FOXGLOVE_MSGS, *VISION_MSGS):
        message = getattr(msgs, name)()
        raw = store.serialize_cdr(message, message.__msgtype__)
        assert str(store.deserialize_cdr(raw, message.__msgtype__)) == str(message)
