"""Recordings that are hostile or senseless: an error of ours that names the file, bounded time and
memory."""

from __future__ import annotations

import io
import sqlite3
from pathlib import Path

import lz4.frame
import pytest
import zstandard
from mcap.data_stream import RecordBuilder
from mcap.records import Chunk
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from written_recordings import (
    assert_frames,
    change_db3,
    serialized_image,
    stamp_ns,
    until_broken,
    write_db3,
    write_mcap,
)

from instaseg_ros.errors import ImageError, InputError
from instaseg_ros.recordings import recording, storage
from instaseg_ros.recordings.bags import IMAGE, BagSource
from instaseg_ros.recordings.storage import open_recording


def chunk_file(path: Path, compression: str, data: bytes, size: int) -> Path:
    """An MCAP file of one chunk that claims to have `size` bytes."""
    buffer, builder = io.BytesIO(), RecordBuilder()
    McapWriter(buffer, compression=CompressionType.NONE).start()
    Chunk(compression, data, 0, 0, 0, size).write(builder)
    path.write_bytes(buffer.getvalue() + builder.end())
    return path


@pytest.mark.parametrize(
    ("compression", "pack"), [("zstd", zstandard.compress), ("lz4", lz4.frame.compress)]
)
def test_chunk_unpacks_to_no_more_than_is_allowed(tmp_path, monkeypatch, compression, pack):
    monkeypatch.setattr(recording, "MAX_UNPACKED", 1 << 20)
    data = pack(bytes(1 << 21))
    for name, size in (("honest", 1 << 21), ("lying", 1000), ("huge", 1 << 62)):
        with pytest.raises(InputError, match=r"it unpacks to .* bytes"):
            open_recording(chunk_file(tmp_path / f"{name}.mcap", compression, data, size))
    with pytest.raises(InputError, match="compressed as 'brotli', expected zstd or lz4"):
        open_recording(chunk_file(tmp_path / "odd.mcap", "brotli", data, 1000))


def test_message_unpacks_to_no_more_than_is_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "MAX_UNPACKED", 1 << 20)
    path = tmp_path / "bag.mcap"
    with path.open("wb") as file:
        writer = McapWriter(file)
        writer.start()
        schema = writer.register_schema(IMAGE, "ros2msg", b"")
        channel = writer.register_channel("/image", "cdr", schema)
        bomb = zstandard.compress(bytes(1 << 21))
        unsized = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 21))
        for i, data in enumerate(
            [bomb, unsized, bomb[:9], zstandard.compress(serialized_image(3))]
        ):
            writer.add_message(channel, stamp_ns(i), data, stamp_ns(i))
        writer.finish()
    iterator, errors = iter(BagSource(path)), []
    for _ in range(3):
        with pytest.raises(ImageError) as caught:
            next(iterator)
        errors.append(str(caught.value))
    assert "it unpacks to" in errors[0] and "it unpacks to" in errors[1]
    assert_frames(iterator, [3])


def test_file_unpacks_to_no_more_than_is_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "UNPACKED_BYTES", 1 << 20)
    bomb = tmp_path / "bomb.db3.zstd"
    bomb.write_bytes(zstandard.compress(bytes(1 << 23)))
    with pytest.raises(InputError, match=r"bomb\.db3\.zstd: \d+ bytes unpack to more than 1048576"):
        open_recording(bomb)


OLD = "ALTER TABLE topics RENAME TO old"
NEW = "CREATE TABLE topics AS SELECT id, {}, serialization_format FROM old"
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (["DROP TABLE topics"], "expected a table 'topics'"),
        (["DROP TABLE messages"], "expected a table 'messages'"),
        (
            [
                "DROP TABLE messages",
                "CREATE VIEW messages AS " + ENDLESS + " SELECT i AS id, "
                "1 AS topic_id, i AS timestamp, zeroblob(1000000000) AS data FROM n",
            ],
            "expected a table 'messages' (not a view)",
        ),
        (
            [
                "DROP TABLE topics",
                "CREATE VIEW topics AS " + ENDLESS + " SELECT i AS id, '/a' AS "
                "name, 'b' AS type FROM n WHERE i < 0",
            ],
            "expected a table 'topics' (not a view)",
        ),
        (
            [
                "DROP TABLE messages",
                "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id "
                "INTEGER, timestamp INTEGER, data BLOB AS (zeroblob(1000000000)))",
            ],
            "expected a table 'messages'",
        ),
        ([OLD, NEW.format("5 AS name, type")], "expected name and type of a topic, found 5 and 's"),
        ([OLD, NEW.format("name, NULL AS type")], "expected name and type of a topic, found '/im"),
    ],
)
def test_tables_that_are_no_recording_are_refused(tmp_path, statements, said):
    bag = write_db3(tmp_path / "bag.db3", 2)
    database = sqlite3.connect(bag)
    database.execute("DROP INDEX IF EXISTS timestamp_idx")
    database.close()
    with pytest.raises(InputError) as caught:
        BagSource(change_db3(bag, *statements))
    assert said in str(caught.value) and "bag.db3" in str(caught.value)


def test_names_stored_as_bytes_are_names(tmp_path):
    change = "UPDATE topics SET name = CAST(name AS BLOB), type = CAST(type AS BLOB)"
    bag = change_db3(write_db3(tmp_path / "bag.db3", 2), change)
    assert_frames(BagSource(bag), range(2))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE messages SET data = 'text' WHERE id = 2",
        "UPDATE messages SET timestamp = 'noon' WHERE id = 2",
        "UPDATE messages SET topic_id = 'x' WHERE id = 2",
    ],
)
def test_row_that_is_no_message_is_said(tmp_path, statement):
    frames, message = until_broken(
        BagSource(change_db3(write_db3(tmp_path / "b.db3", 4), statement))
    )
    assert_frames(frames, [0, 2, 3])
    assert "message 2" in message


def test_times_before_1970_and_behind_2262_are_times(tmp_path):
    bag = write_db3(tmp_path / "bag.db3", 3)
    change_db3(
        bag,
        "UPDATE messages SET timestamp = -5 WHERE id = 2",
        "UPDATE messages SET timestamp = 9223372036854775807 WHERE id = 1",
    )
    frames = list(BagSource(bag))
    assert [f.received_ns for f in frames] == [-5, stamp_ns(2), (1 << 63) - 1]


def test_whatever_a_parser_raises_is_ours(tmp_path, monkeypatch):
    bag = write_mcap(tmp_path / "bag.mcap")
    source = BagSource(bag)

    def failing(*_: object) -> object:
        raise MemoryError

    monkeypatch.setattr(storage, "open_mcap", failing)
    with pytest.raises(InputError, match=r"bag\.mcap: no message can be read .*MemoryError"):
        BagSource(bag)
    monkeypatch.setattr(source, "_to_rgb", failing)
    with pytest.raises(ImageError, match=r"image of /image received at .* MemoryError"):
        next(iter(source))
