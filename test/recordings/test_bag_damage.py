"""Recordings that are broken or oddly made give what they have, and say what is lacking."""

from __future__ import annotations

from pathlib import Path

import pytest
from mcap.reader import make_reader
from mcap.writer import CompressionType, IndexType
from mcap.writer import Writer as McapWriter
from written_recordings import (
    assert_frames,
    change_db3,
    serialized_image,
    stamp_ns,
    until_broken,
    write_bag,
    write_db3,
    write_mcap,
)

from instaseg_ros.errors import InputError, TruncatedInputError
from instaseg_ros.recordings import bags
from instaseg_ros.recordings.bags import IMAGE, BagSource
from instaseg_ros.recordings.storage import open_recording


def cut(path: Path, share: float) -> Path:
    """The same file, cut short."""
    data = path.read_bytes()
    short = path.with_name(f"cut{path.suffix}")
    short.write_bytes(data[: int(len(data) * share)])
    return short


@pytest.mark.parametrize("share", [0.2, 0.8, 0.999])
@pytest.mark.parametrize("compression", list(CompressionType))
def test_cut_mcap_gives_what_it_has(tmp_path, monkeypatch, share, compression):
    """Cut within the first chunk, within a later one, and within the index."""
    monkeypatch.setattr(bags, "Writer", lambda f, size, _: McapWriter(f, size, compression))
    bag = write_bag(tmp_path / "bag.mcap", 250)
    source = BagSource(cut(bag, share))
    frames, message = until_broken(source)
    assert 0.8 * share * 250 < len(frames) == source.total
    assert_frames(frames, range(len(frames)))
    assert f"gives {len(frames)} messages of /image, the last received at" in message
    assert "it ends at byte" in message


def test_zeros_at_the_end_are_as_a_cut(tmp_path):
    bag = write_bag(tmp_path / "bag.mcap", 250)
    data = bag.read_bytes()
    bag.write_bytes(data[: len(data) // 2] + bytes(100_000))
    frames, _ = until_broken(BagSource(bag))
    assert_frames(frames, range(len(frames)))
    assert len(frames) > 80


def test_cut_db3_gives_what_it_has(tmp_path):
    frames, message = until_broken(BagSource(cut(write_db3(tmp_path / "bag.db3", 60), 0.5)))
    assert 20 < len(frames) < 40
    assert_frames(frames, range(len(frames)))
    assert f"gives {len(frames)} of " in message


def test_damaged_chunk_costs_no_other(tmp_path):
    bag = write_mcap(tmp_path / "bag.mcap")
    with bag.open("rb") as file:
        chunk = make_reader(file).get_summary().chunk_indexes[1]
    data = bytearray(bag.read_bytes())
    data[chunk.chunk_start_offset + chunk.chunk_length // 2] ^= 0xFF
    for name, damaged in (("whole.mcap", data), ("cut.mcap", data[:-5])):
        (tmp_path / name).write_bytes(damaged)
        frames, message = until_broken(BagSource(tmp_path / name))
        assert {f.stamp_ns for f in frames} > {stamp_ns(0), stamp_ns(11)}
        assert 6 < len(frames) < 12
        assert f"the chunk at byte {chunk.chunk_start_offset} is damaged" in message
    assert "of 12 messages of /image" in until_broken(BagSource(tmp_path / "whole.mcap"))[1]


def test_damaged_page_costs_no_other_row(tmp_path):
    bag = write_db3(tmp_path / "bag.db3", 60)
    data = bytearray(bag.read_bytes())
    position = data.index(serialized_image(30)[:60]) // 4096 * 4096
    data[position : position + 4096] = bytes(range(256)) * 16
    bag.write_bytes(data)
    frames, message = until_broken(BagSource(bag))
    found = {f.stamp_ns for f in frames}
    assert {stamp_ns(0), stamp_ns(20), stamp_ns(40), stamp_ns(59)} <= found
    assert "malformed" in message


@pytest.mark.parametrize(
    "options",
    [
        {"index_types": IndexType.ALL},
        {"index_types": IndexType.CHUNK},
        {"index_types": IndexType.NONE},
        {"use_chunking": False},
        {"use_statistics": False},
        {"repeat_channels": False, "repeat_schemas": False},
        {"use_summary_offsets": False},
    ],
)
def test_every_kind_of_index_gives_every_message(tmp_path, options):
    source = BagSource(write_mcap(tmp_path / "bag.mcap", **options))
    assert source.total == 12
    assert_frames(source, range(12))


def test_chunks_without_an_index_between_others(tmp_path):
    path = tmp_path / "bag.mcap"
    with path.open("wb") as file:
        writer = McapWriter(file, chunk_size=5000)  # a chunk for each image
        writer.start(profile="ros2")
        schema = writer.register_schema(IMAGE, "ros2msg", b"")
        channel = writer.register_channel("/image", "cdr", schema)
        for i in range(6):
            kinds = IndexType.ALL & ~IndexType.MESSAGE if i in (2, 3) else IndexType.ALL
            writer._Writer__index_types = kinds
            writer.add_message(channel, stamp_ns(i), serialized_image(i), stamp_ns(i))
        writer.finish()
    assert_frames(BagSource(path), range(6))


def test_messages_come_by_time_where_chunks_overlap(tmp_path):
    path = tmp_path / "bag.mcap"
    with path.open("wb") as file:
        writer = McapWriter(file, chunk_size=30_000)
        writer.start(profile="ros2")
        schema = writer.register_schema(IMAGE, "ros2msg", b"")
        channel = writer.register_channel("/image", "cdr", schema)
        for i in (3, 0, 5, 1, 9, 2, 4, 8, 6, 7):
            writer.add_message(channel, stamp_ns(i), serialized_image(i), stamp_ns(i))
        writer.finish()
    assert_frames(BagSource(path), range(10))


def test_fewer_than_promised_is_said(tmp_path):
    """Statistics that count more than there are."""
    path = tmp_path / "bag.mcap"
    with path.open("wb") as file:
        writer = McapWriter(file)
        writer.start(profile="ros2")
        schema = writer.register_schema(IMAGE, "ros2msg", b"")
        channel = writer.register_channel("/image", "cdr", schema)
        for i in range(3):
            writer.add_message(channel, stamp_ns(i), serialized_image(i), stamp_ns(i))
        writer._Writer__statistics.channel_message_counts[channel] = 5
        writer.finish()
    source = BagSource(path)
    frames, message = until_broken(source)
    assert_frames(frames, range(3))
    assert source.total == 5
    assert "bag.mcap is not whole: it gives 3 of 5 messages of /image" in message


def test_more_of_one_topic_do_not_make_up_for_another(tmp_path):
    path = tmp_path / "bag.mcap"
    with path.open("wb") as file:
        writer = McapWriter(file)
        writer.start(profile="ros2")
        schema = writer.register_schema(IMAGE, "ros2msg", b"")
        left, right = (writer.register_channel(t, "cdr", schema) for t in ("/left", "/right"))
        for channel in (left, left, right):
            writer.add_message(channel, 1, serialized_image(0), 1)
        writer._Writer__statistics.channel_message_counts.update({left: 1, right: 2})
        writer.finish()
    with pytest.raises(TruncatedInputError, match="gives 1 of 2 messages of /right, the last"):
        list(open_recording(path).messages(["/left", "/right"]))


def test_only_json_is_refused_and_json_beside_is_not(tmp_path):
    assert_frames(BagSource(write_mcap(tmp_path / "both.mcap")), range(12))
    frames, _ = until_broken(BagSource(cut(tmp_path / "both.mcap", 0.7)))
    assert len(frames) > 4
    database = write_db3(tmp_path / "both.db3")
    change_db3(database, "INSERT INTO topics VALUES (9, '/e', 'Event', 'json', '', '')")
    assert_frames(BagSource(database), range(12))
    change_db3(database, "UPDATE topics SET serialization_format = 'json'")
    with pytest.raises(InputError, match="not a ROS 2 recording: messages encoded as json"):
        BagSource(database)
