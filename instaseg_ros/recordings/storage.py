"""Reads the raw messages of a rosbag2 recording, whole or broken, without ROS.

For every kind of storage, the promised messages (by a folder's metadata.yaml, or by a file's own
count) are compared with those found.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import tempfile
import weakref
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

import yaml
import zstandard

from instaseg_ros.errors import InputError, TruncatedInputError
from instaseg_ros.recordings.bag_paths import holds_recording, is_storage_file
from instaseg_ros.recordings.mcap_file import open_mcap
from instaseg_ros.recordings.message_types import full_type
from instaseg_ros.recordings.recording import (
    FIRST_NS,
    LAST_NS,
    RawMessage,
    Recording,
    Topic,
    merged,
    parsing,
    reason,
)
from instaseg_ros.recordings.sqlite_file import logs_beside, open_db3, recovered

log = logging.getLogger(__name__)

METADATA = "metadata.yaml"
MAX_METADATA = 4 << 20  # bytes; a thousand files of a hundred topics take a tenth
NAMED = 5  # files that a message names one by one
# A compressed file may unpack to the larger of these: camera images do not shrink to a hundredth.
UNPACKED_BYTES, UNPACKED_TIMES = 1 << 30, 100


class _Metadata(NamedTuple):
    """The content of metadata.yaml: names of the files in order, and the topics."""

    files: list[str]
    topics: dict[str, Topic]


def open_recording(path: str | Path) -> Recording:
    """The recording in a bag directory, an `.mcap` or a `.db3`, which may be compressed (`.zstd`).

    A directory's files are those that its metadata.yaml lists, in that order; without one, as left
    by a killed recorder, all its files in order of time. Raises InputError if nothing can be read;
    missing parts are logged, and `messages` then raise TruncatedInputError at the end.
    """
    path = Path(path)
    if path.is_dir():
        return _checked(path, _open_directory(path))
    if not path.is_file():
        raise InputError(f"bag {path}: no such file or directory")
    if path.suffix.lower() == ".bag":
        raise InputError(f"bag {path} is of ROS 1: convert it with `rosbags-convert` first")
    if not is_storage_file(path):
        raise InputError(f"bag {path}: expected a directory or a file of .mcap or .db3")
    return _open_file(path)


def _open_directory(directory: Path) -> Recording:
    """The recording in the files of a directory. Its `messages` raise ValueError at their end if
    something is missing."""
    files, missing, metadata = _storage_files(directory)
    parts: list[Recording] = []
    for file in files:
        try:
            parts.append(_open_file(file))
        except InputError as error:
            missing.append(str(error))
    if not parts:
        raise InputError("; ".join(missing[:NAMED]))
    for sentence in missing[:NAMED]:
        log.warning("%s", sentence)
    if metadata is None:  # parts without a message may stand anywhere
        parts.sort(key=lambda part: part.start_ns)
    topics = merged(found for part in parts for found in part.topics.items())
    for name, topic in metadata.topics.items() if metadata else ():
        found = topics.get(name, topic)
        count = max(found.count, topic.count)
        topics[name] = dataclasses.replace(found, count=count, qos=found.qos or topic.qos)

    def messages(
        names: Collection[str], start_ns: int = FIRST_NS, stop_ns: int = LAST_NS
    ) -> Iterator[RawMessage]:
        lost = list(missing)
        for part in parts:
            try:
                yield from part.messages(names, start_ns, stop_ns)
            except TruncatedInputError as error:
                lost.append(str(error))
        if lost:
            raise ValueError("; ".join(lost[:NAMED]))

    return Recording(topics, messages, min(part.start_ns for part in parts))


def _storage_files(directory: Path) -> tuple[list[Path], list[str], _Metadata | None]:
    """The storage files of a recording's directory, messages about missing ones, and the content of
    metadata.yaml, if usable."""
    there = {file.name: file for file in sorted(directory.iterdir()) if is_storage_file(file)}
    if not there:
        raise InputError(f"bag {directory}: {_what_else(directory)}")
    metadata = _metadata(directory)
    if metadata is None:
        # If the recorder was killed while compressing a file, the whole file is still beside it.
        halves = {f"{name}.zstd" for name in there}
        return [file for name, file in there.items() if name not in halves], [], None
    files, missing = [], []
    for name in metadata.files:
        bare = name.removesuffix(".zstd")
        found = next((n for n in (name, bare, f"{bare}.zstd") if n in there), None)
        if found is None:
            missing.append(f"bag {directory}: {name:.80} is listed in {METADATA}, but missing")
        else:
            files.append(there[found])
    extra = [name for name in there if there[name] not in files]
    if extra:
        log.warning(
            "bag %s: not listed in %s and not read: %s", directory, METADATA, _enumerated(extra)
        )
    return files, missing, metadata


def _what_else(directory: Path) -> str:
    """A message about a directory without storage files."""
    if any(file.suffix.lower() == ".bag" for file in directory.iterdir()):
        return "its recordings are of ROS 1: convert them with `rosbags-convert` first"
    inner = sorted(path.name for path in directory.iterdir() if holds_recording(path))
    if inner:
        return f"a folder of {len(inner)} recordings: give one of them, {_enumerated(inner)}"
    return "expected .mcap or .db3 files in it, found none"


def _metadata(directory: Path) -> _Metadata | None:
    """The content of metadata.yaml; None if it is missing or unusable."""
    path = directory / METADATA
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > MAX_METADATA:
            raise ValueError(f"{path.stat().st_size} bytes, expected at most {MAX_METADATA}")
        # Not CSafeLoader, which is faster but crashes on deep nesting.
        found = yaml.safe_load(path.read_bytes())["rosbag2_bagfile_information"]
        # Early versions list `bag/bag_0.db3`.
        files = [PureWindowsPath(name).name for name in found["relative_file_paths"]]
        topics = {
            str(one["topic_metadata"]["name"]): Topic(
                full_type(str(one["topic_metadata"]["type"])),
                int(one["message_count"]),
                _qos_text(one["topic_metadata"].get("offered_qos_profiles", "")),
            )
            for one in found["topics_with_message_count"]
            if one["topic_metadata"].get("serialization_format", "cdr") == "cdr"
        }
    except Exception as error:  # from yaml, KeyError, TypeError, ... depending on the damage
        log.warning("bag %s cannot be used, the files are read by time: %s", path, reason(error))
        return None
    return _Metadata(list(dict.fromkeys(files)), topics) if files else None


def _qos_text(profiles: object) -> str:
    """Offered QoS as text, which since Jazzy stands in metadata.yaml as a list."""
    return profiles if isinstance(profiles, str) else yaml.safe_dump(profiles)


def _enumerated(names: list[str]) -> str:
    """The names, as many as fit into a message."""
    more = len(names) - NAMED
    named = ", ".join(f"{name:.80}" for name in names[:NAMED])
    return f"{named} and {more} more" if more > 0 else named


def _open_file(path: Path) -> Recording:
    """The recording in one file."""
    with parsing(path):
        local, scratch = _local(path)
        if local.stat().st_size == 0:
            raise InputError(f"bag {path} is empty (0 bytes): the recorder wrote nothing")
        found = open_mcap(local) if local.suffix.lower() == ".mcap" else open_db3(local)
    return _checked(path, dataclasses.replace(found, scratch=scratch))


def _local(path: Path) -> tuple[Path, _Scratch | None]:
    """The file to read instead of `path`: itself, or a version in a temporary folder, which lasts
    as long as the returned object. Nothing is written beside the recording."""
    is_compressed = path.suffix.lower() == ".zstd"
    has_logs = path.suffix.lower() == ".db3" and bool(logs_beside(path))
    if not (is_compressed or has_logs):
        return path, None
    scratch = _Scratch()
    try:
        made = (_unzstd if is_compressed else recovered)(path, scratch.path)
    except OSError as error:
        raise InputError(
            f"bag {path} cannot be {'unpacked' if is_compressed else 'copied'} into "
            f"{scratch.path}: {error}; TMPDIR names a folder with more room"
        ) from error
    return made, scratch


def _unzstd(path: Path, folder: Path) -> Path:
    """Unpack a zstd file into `folder`; of a truncated one, the beginning."""
    most = max(UNPACKED_BYTES, UNPACKED_TIMES * path.stat().st_size)
    log.info("bag %s: unpacking into %s", path, folder)
    made = folder / path.stem
    with path.open("rb") as packed, made.open("wb") as file:
        pieces = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
        try:
            while piece := pieces.read(1 << 20):
                file.write(piece)
                if file.tell() > most:
                    raise InputError(
                        f"bag {path}: {path.stat().st_size} bytes unpack to more than {most}, as "
                        f"no recording does; if you trust it, `unzstd {path}`"
                    )
        except zstandard.ZstdError:
            if not file.tell():
                raise
    return made


class _Scratch:
    """A temporary folder that lasts as long as this object."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="instaseg_bag_"))
        weakref.finalize(self, _remove, self.path, os.getpid())


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # not in a forked process
        shutil.rmtree(folder, ignore_errors=True)


def _checked(path: Path, recording: Recording) -> Recording:
    """The recording, whose messages now raise only TruncatedInputError, also if a topic has fewer
    messages than promised."""

    def messages(
        names: Collection[str], start_ns: int = FIRST_NS, stop_ns: int = LAST_NS
    ) -> Iterator[RawMessage]:
        given: Counter[str] = Counter()
        last_ns, why = 0, ""
        try:
            for message in recording.messages(names, start_ns, stop_ns):
                yield message
                given[message.topic] += 1
                last_ns = message.received_ns
        except (
            Exception
        ) as error:  # from mcap, sqlite3, zstandard, struct, ... depending on the damage
            why = f"; {reason(error)}"
        is_all = start_ns <= FIRST_NS and stop_ns >= LAST_NS
        promised = {n: recording.topics[n].count for n in names if n in recording.topics}
        lacking = [n for n, count in promised.items() if is_all and given[n] < count]
        if not (why or lacking):
            return
        if lacking:
            counts = ", ".join(f"{given[n]} of {promised[n]} messages of {n}" for n in lacking)
        else:
            counts = f"{sum(given.values())} messages of {', '.join(names)}"
        last = f", the last received at {last_ns / 1e9:.3f} s" if given else ""
        raise TruncatedInputError(f"bag {path} is not whole: it gives {counts}{last}{why}")

    return dataclasses.replace(recording, messages=messages)
