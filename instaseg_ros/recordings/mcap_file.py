"""Reads MCAP files, whole or broken, by their index or else from the start.

`mcap` parses the records. This module decides which of them to read, since the readers of `mcap`
and `rosbags` drop chunks without a message index, stop at the first damage, and allocate whatever a
file claims.
"""

from __future__ import annotations

import heapq
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from instaseg_ros.errors import InputError, MissingExtraError
from instaseg_ros.recordings.message_types import full_type
from instaseg_ros.recordings.recording import (
    FIRST_NS,
    LAST_NS,
    MAX_UNPACKED,
    RawMessage,
    Recording,
    Topic,
    merged,
    reason,
    unpacked,
)

try:
    from mcap.data_stream import ReadDataStream
    from mcap.opcode import Opcode
    from mcap.records import Channel, Chunk, ChunkIndex, Footer, Header, Message, Schema, Statistics
except ModuleNotFoundError as error:
    raise MissingExtraError(error.name or "mcap", "pip", "reading bags") from error

MAGIC = b"\x89MCAP0\r\n"
FOOTER_SIZE = 9 + 20 + len(MAGIC)
Read = Callable[[int, int], "bytes | memoryview"]  # offset, size
EVERY = range(1 << 16)  # channel
HEAD = struct.Struct("<BQ")  # opcode, length
MESSAGE = struct.Struct("<HIQQ")  # channel, sequence, times of receipt and of publication


def _message(data: bytes | memoryview) -> Message:
    """Like `Message.read`, in a quarter of the time: each image comes with a hundred others."""
    channel_id, sequence, log_time, publish_time = MESSAGE.unpack_from(data)
    return Message(channel_id, log_time, bytes(data[MESSAGE.size :]), publish_time, sequence)


PARSERS: dict[int, Callable[[bytes | memoryview], Any]] = {
    Opcode.HEADER: lambda data: Header.read(ReadDataStream(BytesIO(data))),
    Opcode.FOOTER: lambda data: Footer.read(ReadDataStream(BytesIO(data))),
    Opcode.SCHEMA: lambda data: Schema.read(ReadDataStream(BytesIO(data))),
    Opcode.CHANNEL: lambda data: Channel.read(ReadDataStream(BytesIO(data))),
    Opcode.MESSAGE: _message,
    Opcode.CHUNK: lambda data: Chunk.read(ReadDataStream(BytesIO(data))),
    Opcode.CHUNK_INDEX: lambda data: ChunkIndex.read(ReadDataStream(BytesIO(data))),
    Opcode.STATISTICS: lambda data: Statistics.read(ReadDataStream(BytesIO(data))),
}


class _CutChunk(Chunk):
    """A chunk of which only the beginning is present."""


@dataclass
class _Contents:
    """A file's contents according to its summary, or found by reading all of it.

    counts: messages by channel. start_ns: as in Recording. chunks: all chunks, or none.
    """

    profile: str = ""
    schemas: dict[int, str] = field(default_factory=dict)
    channels: dict[int, Channel] = field(default_factory=dict)
    counts: Counter[int] = field(default_factory=Counter)
    start_ns: int = LAST_NS
    chunks: list[ChunkIndex] = field(default_factory=list)

    def note(self, record: object) -> None:
        """Record what a record says."""
        if isinstance(record, Header):
            self.profile = record.profile
        elif isinstance(record, Schema):
            self.schemas[record.id] = record.name
        elif isinstance(record, Channel):
            self.channels[record.id] = record
        elif isinstance(record, Message):
            self.counts[record.channel_id] += 1
            self.start_ns = min(self.start_ns, record.log_time)

    @property
    def is_known(self) -> bool:
        """Whether all channels with messages are described."""
        known = self.channels.keys() & self.counts.keys()
        schemas = {self.channels[i].schema_id for i in known} - {0}
        return len(known) == len(self.counts) and schemas <= self.schemas.keys()


def open_mcap(path: Path) -> Recording:
    """The recording in an MCAP file. If it is damaged, its `messages` raise an error of any kind
    after all that can be read before and behind the damage.

    Raises InputError if no message is of ROS 2, and errors of any kind if none can be read.
    """
    contents = _summary(path)
    if contents is None or not contents.is_known:
        contents = _scanned(path, contents)
    ros = {i: c for i, c in contents.channels.items() if c.message_encoding == "cdr"}
    if contents.channels and not ros:
        encodings = sorted({c.message_encoding for c in contents.channels.values()})
        raise InputError(
            f"bag {path} is not a ROS 2 recording: profile '{contents.profile}', messages encoded "
            f"as {', '.join(encodings)}; expected cdr"
        )
    topics = merged(
        (
            c.topic,
            Topic(
                full_type(contents.schemas.get(c.schema_id, "")),
                contents.counts[i],
                c.metadata.get("offered_qos_profiles", ""),
                c.metadata.get("topic_type_hash", ""),
            ),
        )
        for i, c in ros.items()
    )

    def messages(
        names: Collection[str], start_ns: int = FIRST_NS, stop_ns: int = LAST_NS
    ) -> Iterator[RawMessage]:
        with path.open("rb") as file:
            walk = _Walk(file, {i for i, channel in ros.items() if channel.topic in names})
            by_index = walk.by_index(contents.chunks, start_ns, stop_ns)
            for record in by_index if contents.chunks else walk.records():
                if isinstance(record, Message) and start_ns <= record.log_time < stop_ns:
                    topic = ros[record.channel_id].topic
                    yield RawMessage(topic, record.log_time, record.data)
        if walk.damage:
            raise ValueError("; ".join(walk.damage[:3]))

    return Recording(topics, messages, contents.start_ns)


def _summary(path: Path) -> _Contents | None:
    """The contents according to the summary at the file's end; None if it cannot be read."""
    contents, chunks, statistics = _Contents(), [], None
    try:
        with path.open("rb") as file:
            read, size = _reader(file), file.seek(0, 2)
            (_, header) = next(_records(read, len(MAGIC), size))
            (_, footer) = next(_records(read, size - FOOTER_SIZE, size - len(MAGIC)))
            if not (isinstance(footer, Footer) and footer.summary_start):
                return None
            contents.note(header)
            for _, record in _records(read, footer.summary_start, size - FOOTER_SIZE):
                contents.note(record)
                if isinstance(record, ChunkIndex):
                    chunks.append(record)
                elif isinstance(record, Statistics):
                    statistics = record
    except Exception:  # any kind, depending on the damage: then read from the start
        return None
    if statistics is None:
        return None
    contents.counts.update({i: n for i, n in statistics.channel_message_counts.items() if n})
    contents.start_ns = statistics.message_start_time if contents.counts else LAST_NS
    # Reject an index that omits chunks, or names one twice.
    if len(chunks) == statistics.chunk_count and sum(c.chunk_length for c in chunks) < size:
        contents.chunks = chunks
    return contents


def _scanned(path: Path, promised: _Contents | None) -> _Contents:
    """The contents found by reading the whole file; counts are at least those of its summary."""
    contents = _Contents()
    with path.open("rb") as file:
        walk = _Walk(file)
        for record in walk.records():
            contents.note(record)
    if walk.damage and not contents.counts:
        raise ValueError(walk.damage[0])
    contents.counts |= promised.counts if promised else Counter()
    return contents


class _Walk:
    """One pass over a file, reading only messages of the channels `ids`.

    damage: what could not be read so far, in words.
    """

    def __init__(self, file: BinaryIO, ids: Collection[int] = EVERY) -> None:
        self.damage: list[str] = []
        self._read, self._size, self._ids = _reader(file), file.seek(0, 2), ids

    def by_index(
        self, chunks: Iterable[ChunkIndex], start_ns: int, stop_ns: int
    ) -> Iterator[Message]:
        """The messages in the chunks that may overlap the time span, in order of receipt. A chunk
        without a message index may contain any channel."""
        waiting: list[tuple[int, int, Message]] = []  # a heap, for chunks that overlap in time
        held = count = 0
        for chunk in sorted(chunks, key=lambda chunk: chunk.message_start_time):
            offsets = chunk.message_index_offsets
            is_of_span = start_ns <= chunk.message_end_time and chunk.message_start_time < stop_ns
            if not is_of_span or (offsets and offsets.keys().isdisjoint(self._ids)):
                continue
            # Limit memory even if all chunks claim to overlap.
            while waiting and (waiting[0][0] < chunk.message_start_time or held > MAX_UNPACKED):
                message = heapq.heappop(waiting)[2]
                held -= len(message.data)
                yield message
            start = chunk.chunk_start_offset
            for record in self.records(start, start + chunk.chunk_length):
                if isinstance(record, Message):
                    heapq.heappush(waiting, (record.log_time, count, record))
                    count += 1
                    held += len(record.data)
        while waiting:
            yield heapq.heappop(waiting)[2]

    def records(self, start: int = 0, stop: int | None = None) -> Iterator[Any]:
        """The records between two offsets, including those inside chunks; by default of the whole
        file."""
        try:
            if start == 0 and self._read(0, len(MAGIC)) != MAGIC:
                raise ValueError("it does not begin like an MCAP file")
            found = _records(self._read, start or len(MAGIC), stop or self._size, self._ids)
            for offset, record in found:
                if isinstance(record, Chunk):
                    yield from self._within(record, offset)
                elif isinstance(record, Exception):
                    self.damage.append(f"the record at byte {offset} is damaged: {reason(record)}")
                else:
                    yield record
                if isinstance(record, Footer):
                    return
            if stop is None:
                raise ValueError(f"it ends at byte {self._size}, without the end of a recording")
        except Exception as error:  # depends on the damage
            self.damage.append(reason(error))

    def _within(self, chunk: Chunk, offset: int) -> Iterator[Any]:
        """The records in a chunk; of one that is cut, which is reported elsewhere, those left."""
        try:
            content = memoryview(unpacked(chunk.compression, chunk.data, chunk.uncompressed_size))
            is_whole = len(content) == chunk.uncompressed_size
            if is_whole and chunk.uncompressed_crc not in (0, zlib.crc32(content)):
                raise ValueError("its checksum is wrong")
            found = _records(lambda at, n: content[at : at + n], 0, len(content), self._ids)
            for _, record in found:
                if isinstance(record, Exception):
                    raise record
                yield record
            if not is_whole:
                raise ValueError(f"it has {len(content)} of {chunk.uncompressed_size} bytes")
        except Exception as error:  # from mcap, zstandard, lz4, struct, ... depending on the damage
            if not isinstance(chunk, _CutChunk):
                self.damage.append(f"the chunk at byte {offset} is damaged: {reason(error)}")


def _records(
    read: Read, start: int, stop: int, ids: Collection[int] = EVERY
) -> Iterator[tuple[int, Any]]:
    """The offset and content of each record between two offsets, or the error instead of a record
    that cannot be parsed. Skips records of no use here, and messages of channels not in `ids`.

    Raises ValueError if a record extends beyond `stop`, after the available part of a chunk.
    """
    while start < stop:
        opcode, length = (
            HEAD.unpack(read(start, HEAD.size)) if stop - start >= HEAD.size else (0, 0)
        )
        end = start + HEAD.size + length
        if end > stop or opcode == 0:  # zeros: what a power cut leaves
            chunk = _parsed(opcode, read, start + HEAD.size, stop)
            if isinstance(chunk, Chunk):
                yield start, _CutChunk(**vars(chunk))
            raise ValueError(f"it ends at byte {stop}, in the record at {start}")
        if opcode == Opcode.MESSAGE:
            if int.from_bytes(read(start + HEAD.size, 2), "little") in ids:
                yield start, _parsed(opcode, read, start + HEAD.size, end)
        elif opcode in PARSERS:
            yield start, _parsed(opcode, read, start + HEAD.size, end)
        start = end


def _reader(file: BinaryIO) -> Read:
    def read(offset: int, size: int) -> bytes:
        file.seek(offset)
        return file.read(size)

    return read


def _parsed(opcode: int, read: Read, start: int, stop: int) -> Any:
    """The record between two offsets, or the error that it raises."""
    try:
        if stop - start > MAX_UNPACKED:
            raise ValueError(f"it has {stop - start} bytes; {MAX_UNPACKED} are allowed")
        return PARSERS[opcode](read(start, stop - start))
    except Exception as error:  # from mcap, struct, unicode, ... depending on the damage
        return error
