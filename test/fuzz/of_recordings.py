"""Recordings: their containers, their index, and the messages in them."""

from __future__ import annotations

import random
import struct
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zstandard
from driver import mutated, took_all_memory
from mcap.writer import CompressionType
from rosbags.rosbag2 import StoragePlugin
from written_recordings import (
    HEIGHT,
    WIDTH,
    write_db3,
    write_mcap,
    write_street_bag,
    write_with_rosbags,
)

from instaseg_ros.config import InputConfig
from instaseg_ros.datasets.bag import LabelledBag
from instaseg_ros.errors import ImageError, InputError, InstasegError
from instaseg_ros.recordings.bags import BagSource, BagWriter, read_truth
from instaseg_ros.recordings.storage import open_recording

MEMORY_MB = 300  # beside the 64 that messages may wait in
CONFIG = InputConfig(max_pixels=4 * HEIGHT * WIDTH)
FRAMES = 3
NAMES = {b"M": "bag.mcap", b"S": "bag.db3", b"Z": "bag.db3.zstd"}
FOLDER, MESSAGES = b"F", b"C"


def seeds() -> list[bytes]:
    """A letter of what it is, then a file; of a folder metadata.yaml; or messages."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        db3 = write_db3(folder / "a.db3", FRAMES).read_bytes()
        street = write_street_bag(folder / "street.mcap", FRAMES)
        made = [b"M" + street.read_bytes(), b"S" + db3, b"Z" + zstandard.compress(db3)]
        for k, options in enumerate(
            (
                {"compression": CompressionType.NONE, "enable_crcs": False},
                {"compression": CompressionType.NONE, "enable_crcs": False, "use_chunking": False},
                {"compression": CompressionType.ZSTD},
            )
        ):
            made.append(b"M" + write_mcap(folder / f"{k}.mcap", FRAMES, **options).read_bytes())
        bag = write_with_rosbags(folder / "bag", StoragePlugin.MCAP, FRAMES)
        made.append(FOLDER + (bag / "metadata.yaml").read_bytes())
        messages = (
            _packed(raw.topic, recording.topics[raw.topic].type, raw.cdr)
            for recording in [open_recording(street)]
            for raw in recording.messages(list(recording.topics))
        )
        return [*made, MESSAGES + b"".join(messages)]


def mutate(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """A place with structure: either end, or the beginning of an SQLite page."""
    whole = rng.choice(seeds)
    if whole[:1] == FOLDER:
        return FOLDER + mutated(rng, [whole[1:]])
    if whole[:1] == MESSAGES:
        messages = [*_messages(whole[1:])]
        k = rng.randrange(len(messages))
        topic, kind, cdr = messages[k]
        end = rng.choice((16, 100, len(cdr)))
        messages[k] = topic, kind, mutated(rng, [cdr[:end]]) + cdr[end:]
        return MESSAGES + b"".join(_packed(*message) for message in messages)
    pages = rng.choice((0, 4096 * rng.randrange(len(whole) // 4096 + 1)))
    start = rng.choice((1, 1 + pages, max(1, len(whole) - 2000), rng.randrange(1, len(whole))))
    end = min(len(whole), start + rng.choice((50, 300, 2000)))
    return whole[:start] + mutated(rng, [whole[start:end]]) + whole[end:]


def feed(data: bytes, folder: Path) -> None:
    kind, content = data[:1], data[1:]
    with tempfile.TemporaryDirectory(dir=folder) as name:
        path = Path(name)
        if kind == FOLDER:
            path = write_with_rosbags(path / "bag", StoragePlugin.MCAP, FRAMES)
            (path / "metadata.yaml").write_bytes(content)
        elif kind == MESSAGES:
            path = _written(path / "bag.mcap", content)
        else:
            path = path / NAMES[kind]
            path.write_bytes(content)
        _use(path)


def _use(path: Path) -> None:
    """As replay does, and as training does where there is truth."""
    refused: InstasegError | None = None
    try:
        for frame in _all(iter(BagSource(path, config=CONFIG))):
            assert frame.image.size <= 3 * CONFIG.max_pixels
    except InputError as error:
        assert "bag" in str(error)
        refused = error
    with _refused(InstasegError):
        for truth in _all(read_truth(path)):
            assert truth.labels.size
    with _refused(InstasegError):
        dataset = LabelledBag(path)
        for k in range(len(dataset)):
            with _refused(InputError):
                sample = dataset[k]
                assert sample.labels.shape == sample.frame.image.shape[:2]
                assert len(sample.ids) == len(sample.class_ids)
    if refused is not None:
        raise refused


@contextmanager
def _refused(kind: type[InstasegError]) -> Iterator[None]:
    """Where a sentence of the kind may end the block."""
    try:
        yield
    except kind as error:
        if took_all_memory(error):
            raise


def _all(iterator: Iterator[Any]) -> Iterator[Any]:
    """What comes, without what cannot be converted."""
    while True:
        with _refused(ImageError):
            try:
                item = next(iterator)
            except StopIteration:
                return
            yield item


def _written(path: Path, content: bytes) -> Path:
    writer = BagWriter(path)
    topics: set[bytes] = set()
    for k, (topic, kind, cdr) in enumerate(_messages(content)):
        if topic not in topics:
            writer.add_topic(topic.decode(), kind.decode())
            topics.add(topic)
        writer.write_serialized(topic.decode(), cdr, k)
    writer.close()
    return path


def _packed(topic: str | bytes, kind: str | bytes, cdr: bytes) -> bytes:
    words = [word.encode() if isinstance(word, str) else word for word in (topic, kind)]
    return b"".join(struct.pack("<I", len(part)) + part for part in (*words, bytes(cdr)))


def _messages(content: bytes) -> Iterator[tuple[bytes, ...]]:
    """Topic, type and CDR of each."""
    parts, at = [], 0
    while at < len(content):
        (length,) = struct.unpack_from("<I", content, at)
        parts.append(content[at + 4 : at + 4 + length])
        at += 4 + length
    yield from zip(parts[::3], parts[1::3], parts[2::3], strict=True)
