"""Defines a recording, and the rules for all its readers: limited memory, and InputErrors that name
the file."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from instaseg_ros.errors import InputError, InstasegError, MissingExtraError

try:
    import lz4.frame
    import zstandard
except ModuleNotFoundError as error:
    raise MissingExtraError(error.name or "zstandard", "pip", "reading bags") from error

FIRST_NS, LAST_NS = -(1 << 63), 1 << 64  # before and after every time that a recording can hold
MAX_UNPACKED = 512 << 20  # bytes of one message or chunk: an image of 13,000 x 13,000 pixels
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # no CDR message begins like this


class RawMessage(NamedTuple):
    """One serialised message. received_ns: when the recorder received it. data: as stored, maybe
    compressed; `cdr` is what the recorder received."""

    topic: str
    received_ns: int
    data: bytes

    @property
    def cdr(self) -> bytes:
        """The uncompressed message. Raises ValueError or an error of zstandard if damaged."""
        if self.data[:4] != ZSTD_MAGIC:
            return self.data
        size = zstandard.frame_content_size(self.data)
        return unpacked("zstd", self.data, MAX_UNPACKED if size < 0 else size)


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic of a recording: its type (`sensor_msgs/msg/Image`) and number of messages.

    qos: what its publishers offered, for `offered_qos.read_offer`. type_hash: of the type's
    definition, as in `RIHS01_...`. Both are empty where the recording does not say.
    """

    type: str
    count: int
    qos: str = ""
    type_hash: str = ""


class Messages(Protocol):
    """Yields the messages of the named topics in recorded order, only those received within
    [start_ns, stop_ns), which an intact file finds by its index.

    Raises TruncatedInputError after the last readable message if there should be more.
    """

    def __call__(
        self, names: Collection[str], start_ns: int = FIRST_NS, stop_ns: int = LAST_NS
    ) -> Iterator[RawMessage]: ...


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording: its topics, with the message counts it claims, and its messages.

    start_ns: when the first message was received; LAST_NS if there is none. scratch: an object that
    must live as long as messages are read.
    """

    topics: dict[str, Topic]
    messages: Messages
    start_ns: int
    scratch: object = None


def merged(found: Iterable[tuple[str, Topic]]) -> dict[str, Topic]:
    """Topics by name; counts for the same name are added."""
    topics: dict[str, Topic] = {}
    for name, topic in found:
        before = topics.get(name, Topic("", 0))
        topics[name] = Topic(
            topic.type,
            before.count + topic.count,
            before.qos or topic.qos,
            before.type_hash or topic.type_hash,
        )
    return topics


@contextmanager
def parsing(path: Path) -> Iterator[None]:
    """Turn whatever a parser (mcap, sqlite3, zstandard, struct, ...) raises within the block into
    an InputError with the file's name."""
    try:
        yield
    except InstasegError:
        raise
    except Exception as error:
        raise InputError(f"bag {path}: no message can be read from it ({reason(error)})") from error


def reason(error: Exception) -> str:
    """An error's message; some, such as MemoryError, have only their name."""
    return str(error) or type(error).__name__


def unpacked(compression: str, data: bytes, size: int) -> bytes:
    """Unpack data whose content has the declared `size` in bytes; of truncated data, the beginning.

    compression: `zstd`, `lz4`, or empty for none. Raises ValueError for another, or if the content
    is larger than declared or allowed: no more is ever allocated.
    """
    if size > MAX_UNPACKED:
        raise ValueError(f"it unpacks to {size} bytes; {MAX_UNPACKED} are allowed")
    if compression == "":
        content = data
    elif compression == "zstd":
        frames = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True)
        content = frames.read(size + 1)
    elif compression == "lz4":
        content = lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=size + 1)
    else:
        raise ValueError(f"compressed as '{compression}', expected zstd or lz4")
    if len(content) > size:
        raise ValueError(f"it unpacks to more than the {size} bytes that it declares")
    return content
