"""The raw messages of a rosbag2 recording, whole or broken, with no ROS installed.

Whole files are read by `rosbags`, by their index. A file that it refuses (no footer because the
recorder was killed, cut by a full disk) is read from its start for as long as that goes.
"""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, Protocol

from instaseg_ros.bag_types import full_type
from instaseg_ros.errors import InputError, MissingExtraError, TruncatedInputError
from instaseg_ros.sources import BAG_SUFFIXES

try:
    import lz4.frame
    import zstandard
    from mcap.data_stream import ReadDataStream
    from mcap.opcode import Opcode
    from mcap.records import Channel, Chunk, Header, McapRecord, Message, Schema
    from mcap.stream_reader import StreamReader, breakup_chunk
    from rosbags.rosbag2 import Reader
except ModuleNotFoundError as error:
    raise MissingExtraError(error.name or "rosbags", "pip", "reading bags") from error

FOREVER_NS = (1 << 63) - 1
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # no CDR message begins so


class RawMessage(NamedTuple):
    """One serialised (CDR) message. received_ns: when the recorder got it."""

    topic: str
    received_ns: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic of a recording: its type (`sensor_msgs/msg/Image`) and number of messages."""

    type: str
    count: int


class Messages(Protocol):
    """Gives the messages of the topics named, as recorded; those received within
    [start_ns, stop_ns) only, which a whole file finds by its index.

    Raises TruncatedInputError after the last message before a break.
    """

    def __call__(
        self, names: Collection[str], start_ns: int = 0, stop_ns: int = FOREVER_NS
    ) -> Iterator[RawMessage]: ...


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording's topics and messages."""

    topics: dict[str, Topic]
    messages: Messages


def open_recording(path: str | Path) -> Recording:
    """The recording in a bag directory, a bare `.mcap` or a bare `.db3`.

    A directory is its storage files in order; its metadata.yaml, which a killed recorder does not
    write, is not needed. Raises InputError when nothing can be read.
    """
    path = Path(path)
    if path.is_dir():
        return _chain([_open_file(file) for file in _storage_files(path)])
    if path.suffix == ".bag":
        raise InputError(f"bag {path} is of ROS 1: convert it with `rosbags-convert` first")
    if not path.is_file():
        raise InputError(f"bag {path}: no such file or directory")
    if path.suffix not in BAG_SUFFIXES:
        raise InputError(f"bag {path}: expected a directory or a file of .mcap or .db3")
    return _open_file(path)


def _storage_files(directory: Path) -> list[Path]:
    """Its storage files, `x_2.mcap` before `x_10.mcap`."""
    files = [file for file in directory.iterdir() if file.suffix in BAG_SUFFIXES]
    if not files and list(directory.glob("*.zstd")):
        raise InputError(
            f"bag {directory} is compressed file by file: unpack it, `unzstd {directory}/*.zstd`"
        )
    if not files:
        raise InputError(f"bag {directory}: expected .mcap or .db3 files in it, found none")
    return sorted(files, key=lambda file: [int(n) for n in re.findall(r"\d+", file.stem)[-1:]])


def _open_file(path: Path) -> Recording:
    """The recording in one file, by its index where it has one."""
    if path.stat().st_size == 0:
        raise InputError(f"bag {path} is empty (0 bytes): the recorder wrote nothing")
    try:
        with Reader(path) as reader:
            topics = _merged((c.topic, c.msgtype, c.msgcount) for c in reader.connections)
    except Exception:  # rosbags lets out errors of many kinds for a broken file
        return _open_broken_mcap(path) if path.suffix == ".mcap" else _open_broken_db3(path)

    def messages(names: Collection[str], start_ns: int, stop_ns: int) -> Iterator[RawMessage]:
        with Reader(path) as reader:
            wanted = [c for c in reader.connections if c.topic in names]
            # Without a wanted connection rosbags would give all.
            found = reader.messages(wanted, start_ns, stop_ns) if wanted else ()
            for connection, time_ns, data in found:
                yield RawMessage(connection.topic, time_ns, data)

    return Recording(topics, _guarded(path, messages))


def _open_broken_mcap(path: Path) -> Recording:
    """An MCAP file without a usable index, read chunk by chunk."""
    topics: Counter[tuple[str, str]] = Counter()
    encodings: set[str] = set()
    profile = ""
    channels: dict[int, tuple[str, str]] = {}
    schemas: dict[int, str] = {}
    reason = "it ends before the first"
    try:
        for record in _mcap_records(path):
            if isinstance(record, Header):
                profile = record.profile
            elif isinstance(record, Schema):
                schemas[record.id] = record.name
            elif isinstance(record, Channel):
                channels[record.id] = (record.topic, schemas.get(record.schema_id, ""))
                encodings.add(record.message_encoding)
            elif isinstance(record, Message):
                topics[channels[record.channel_id]] += 1
    except Exception as error:  # by kind of damage: of the library, zstd, struct, ...
        reason = str(error)
    if encodings - {"cdr"}:
        raise InputError(
            f"bag {path} is no ROS 2 recording: profile '{profile}', messages encoded as "
            f"{', '.join(sorted(encodings))}; expected profile 'ros2' and cdr"
        )
    if not topics:
        raise InputError(f"bag {path}: no message can be read from it ({reason})")

    def messages(names: Collection[str], start_ns: int, stop_ns: int) -> Iterator[RawMessage]:
        ids: dict[int, str] = {}
        for record in _mcap_records(path):
            if isinstance(record, Channel) and record.topic in names:
                ids[record.id] = record.topic
            elif (
                isinstance(record, Message)
                and record.channel_id in ids
                and start_ns <= record.log_time < stop_ns
            ):
                yield RawMessage(ids[record.channel_id], record.log_time, record.data)

    counts = _merged((topic, kind, count) for (topic, kind), count in topics.items())
    return Recording(counts, _guarded(path, messages))


def _mcap_records(path: Path) -> Iterator[McapRecord]:
    """The records of an MCAP file in the order they stand in it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        records = StreamReader(file, emit_chunks=True, record_size_limit=size).records
        while True:
            start = file.tell()
            try:
                record = next(records)
            except StopIteration:
                return
            except Exception as error:
                file.seek(start)
                yield from _cut_chunk(file.read())
                raise InputError(f"it ends at byte {size}, in the record at {start}") from error
            if not isinstance(record, Chunk):
                yield record
                continue
            try:
                inner = breakup_chunk(record, validate_crc=True)
            except Exception as error:
                raise InputError(f"the chunk at byte {start} is damaged: {error}") from error
            yield from inner


def _cut_chunk(data: bytes) -> Iterator[McapRecord]:
    """The whole records within a chunk record of which only the beginning is there."""
    with suppress(Exception):  # ends where the data do, in whatever way that shows
        if data[0] != Opcode.CHUNK:
            return
        chunk = Chunk.read(ReadDataStream(BytesIO(data[9:])))  # behind opcode and length
        unpack = {
            "zstd": lambda: zstandard.ZstdDecompressor().decompressobj(),
            "lz4": lambda: lz4.frame.LZ4FrameDecompressor(),
        }.get(chunk.compression)
        content = unpack().decompress(chunk.data) if unpack else chunk.data
        yield from StreamReader(BytesIO(content), skip_magic=True).records


def _open_broken_db3(path: Path) -> Recording:
    """An SQLite file that is shorter than its header says, read row by row."""
    try:
        with closing(_open_sqlite(path)) as database:
            rows = database.execute("SELECT id, name, type FROM topics").fetchall()
            counts: Counter[int] = Counter()
            try:
                for (topic_id,) in database.execute("SELECT topic_id FROM messages ORDER BY id"):
                    counts[topic_id] += 1
            except sqlite3.Error:
                pass  # counted as far as it goes
    except sqlite3.Error as error:
        raise InputError(f"bag {path}: no message can be read from it ({error})") from error
    names_by_id = {topic_id: name for topic_id, name, _ in rows}

    def messages(names: Collection[str], start_ns: int, stop_ns: int) -> Iterator[RawMessage]:
        with closing(_open_sqlite(path)) as database:
            query = "SELECT topic_id, timestamp, data FROM messages ORDER BY id"
            for topic_id, time_ns, data in database.execute(query):
                if names_by_id[topic_id] in names and start_ns <= time_ns < stop_ns:
                    yield RawMessage(names_by_id[topic_id], time_ns, data)

    topics = _merged((name, kind, counts[topic_id]) for topic_id, name, kind in rows)
    return Recording(topics, _guarded(path, messages))


def _open_sqlite(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False
    )
    database.execute("PRAGMA writable_schema=ON")  # else SQLite refuses a file cut short at once
    return database


def _guarded(
    path: Path, read: Callable[[Collection[str], int, int], Iterator[RawMessage]]
) -> Messages:
    """`read` with messages decompressed where the recorder compressed each; a break is named."""

    def messages(
        names: Collection[str], start_ns: int = 0, stop_ns: int = FOREVER_NS
    ) -> Iterator[RawMessage]:
        count, last_ns = 0, 0
        try:
            for message in read(names, start_ns, stop_ns):
                if message.data[:4] == ZSTD_MAGIC:
                    data = zstandard.ZstdDecompressor().decompressobj().decompress(message.data)
                    message = message._replace(data=data)
                yield message
                count, last_ns = count + 1, message.received_ns
        except Exception as error:  # by kind of damage: of rosbags, apsw, sqlite, zstd, struct, ...
            raise TruncatedInputError(
                f"bag {path} breaks off after {count} messages of {', '.join(names)}"
                f"{f', the last received at {last_ns / 1e9:.3f} s' if count else ''}: {error}"
            ) from error

    return messages


def _chain(parts: list[Recording]) -> Recording:
    """Recordings that follow one another."""
    topics = _merged(
        (name, topic.type, topic.count) for part in parts for name, topic in part.topics.items()
    )

    def messages(
        names: Collection[str], start_ns: int = 0, stop_ns: int = FOREVER_NS
    ) -> Iterator[RawMessage]:
        for part in parts:
            yield from part.messages(names, start_ns, stop_ns)

    return Recording(topics, messages)


def _merged(found: Iterator[tuple[str, str, int]]) -> dict[str, Topic]:
    """Topics by name from (name, type, count); counts of one name are added."""
    topics: dict[str, Topic] = {}
    for name, kind, count in found:
        before = topics[name].count if name in topics else 0
        topics[name] = Topic(full_type(kind), before + count)
    return topics
