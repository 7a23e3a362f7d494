"""Reads SQLite files (`.db3`), whole or broken, row by row with an index of our own.

Every row is listed once when the file is opened, and later fetched by its number: so neither
SQLite's index of times nor a damaged page hides rows that can be read.
"""

from __future__ import annotations

import itertools
import logging
import shutil
import sqlite3
from array import array
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.errors import InputError
from instaseg_ros.recordings.message_types import full_type
from instaseg_ros.recordings.recording import (
    FIRST_NS,
    LAST_NS,
    RawMessage,
    Recording,
    Topic,
    merged,
)

log = logging.getLogger(__name__)

LEAST_ROW = 4  # bytes that a row takes at least
STEPS = 1_000_000  # of SQLite's, between two checks of their number
COLUMNS = {"topics": {"id", "name", "type"}, "messages": {"topic_id", "timestamp", "data"}}


class _Rows(NamedTuple):
    """Number, topic and time of receipt of the messages, (N,) int64 each, ordered by time."""

    numbers: NDArray[np.int64]
    topics: NDArray[np.int64]
    times_ns: NDArray[np.int64]


def open_db3(path: Path) -> Recording:
    """The recording in an SQLite file. If it is damaged, its `messages` raise an error of any kind
    after all that can be read.

    Raises InputError if it is not a recording of ROS 2, and errors of any kind if nothing can be
    read.
    """
    damage = _shortness(path)
    with closing(_connect(path)) as database:
        _expect_tables(path, database)
        channels = _channels(path, database, damage)
        rows = _rows(path, database, damage)
    if damage and not len(rows.numbers):
        raise ValueError(damage[0])
    topics = merged(
        (name, replace(topic, count=int(np.count_nonzero(rows.topics == number))))
        for number, (name, topic) in channels.items()
    )

    def messages(
        names: Collection[str], start_ns: int = FIRST_NS, stop_ns: int = LAST_NS
    ) -> Iterator[RawMessage]:
        lost = list(damage)
        wanted = np.isin(rows.topics, [i for i, (name, _) in channels.items() if name in names])
        wanted &= (rows.times_ns >= start_ns) & (rows.times_ns < stop_ns)
        chosen = zip(*(column[wanted].tolist() for column in rows), strict=True)
        with closing(_connect(path)) as database:
            for number, topic, time_ns in chosen:
                try:
                    query = "SELECT data FROM messages WHERE rowid = ?"
                    ((data,),) = database.execute(query, (number,))
                    if not isinstance(data, bytes):
                        raise ValueError(f"it holds {type(data).__name__}, expected bytes")
                except (sqlite3.Error, ValueError) as error:
                    lost.append(f"message {number} cannot be read: {error}")
                else:
                    yield RawMessage(channels[topic][0], time_ns, data)
        if lost:
            raise ValueError("; ".join(lost[:3]))

    return Recording(topics, messages, int(rows.times_ns[0]) if len(rows.times_ns) else LAST_NS)


def logs_beside(path: Path) -> list[Path]:
    """The logs beside the file, left by a killed recorder, whose content belongs into it."""
    beside = [path.with_name(f"{path.name}-{kind}") for kind in ("wal", "journal")]
    return [file for file in beside if file.is_file() and file.stat().st_size]


def recovered(path: Path, folder: Path) -> Path:
    """A copy of the file in `folder`, into which SQLite has merged the logs beside it, if it
    can."""
    copy = folder / path.name
    for part in (path, *logs_beside(path)):
        shutil.copyfile(part, folder / part.name)
    try:
        with closing(sqlite3.connect(copy)) as database:
            database.execute("PRAGMA journal_mode=DELETE").fetchall()
    except sqlite3.Error as error:
        names = ", ".join(file.name for file in logs_beside(path))
        log.warning("bag %s is read without %s, which cannot be used: %s", path, names, error)
    return copy


def _connect(path: Path) -> sqlite3.Connection:
    """Open the file read-only, without writing anything beside it."""
    database = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False
    )
    database.text_factory = lambda data: data.decode("utf-8", "replace")
    # A damaged or hostile tree of pages may be endless: no intact one takes so many steps.
    most = 100 + path.stat().st_size // 10_000
    ticks = itertools.count()
    database.set_progress_handler(lambda: next(ticks) > most, STEPS)
    database.execute(
        "PRAGMA writable_schema=ON"
    )  # otherwise SQLite refuses a truncated file at once
    return database


def _shortness(path: Path) -> list[str]:
    """A message if the file is shorter than its header says."""
    with path.open("rb") as file:
        header = file.read(100)
    page = int.from_bytes(header[16:18], "big")
    expected = (page if page > 1 else 1 << 16) * int.from_bytes(header[28:32], "big")
    size = path.stat().st_size
    is_valid = header[24:28] == header[92:96]  # otherwise an old SQLite wrote the size
    return [f"it ends at byte {size} of {expected}"] if is_valid and size < expected else []


def _expect_tables(path: Path, database: sqlite3.Connection) -> None:
    """Raises InputError unless the tables of a recording exist: real ones, since a view can
    generate endless rows."""
    query = "SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0"
    tables = {name for (name,) in database.execute(query)}
    for table, expected in COLUMNS.items():
        # Generated columns, which can do the same, are not listed.
        columns = {row[1] for row in database.execute(f"PRAGMA table_info({table})")}
        if table not in tables or not expected <= columns:
            raise InputError(
                f"bag {path} is not a recording: expected a table '{table}' (not a view) with "
                f"columns {', '.join(sorted(expected))}"
            )


def _channels(
    path: Path, database: sqlite3.Connection, damage: list[str]
) -> dict[int, tuple[str, Topic]]:
    """Each ROS 2 topic with its name, by number; not yet with its count."""
    channels: dict[int, tuple[str, Topic]] = {}
    others: set[str] = set()
    cursor = database.execute("SELECT * FROM topics")
    columns = [column[0] for column in cursor.description]
    for values in cursor:
        # Some writers store text as bytes.
        texts = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values]
        row = dict(zip(columns, texts, strict=True))
        number, name, kind = row["id"], row["name"], row["type"]
        encoding = row.get("serialization_format", "cdr")
        if encoding != "cdr":
            others.add(str(encoding))
        elif isinstance(number, int) and isinstance(name, str) and isinstance(kind, str):
            # Both columns are of later versions.
            facts = (row.get(c) for c in ("offered_qos_profiles", "type_description_hash"))
            channels[number] = name, Topic(full_type(kind), 0, *(str(fact or "") for fact in facts))
        else:
            damage.append(f"expected name and type of a topic, found {name!r:.80} and {kind!r:.80}")
    if others and not channels:
        raise InputError(
            f"bag {path} is not a ROS 2 recording: messages encoded as "
            f"{', '.join(sorted(others))}; expected cdr"
        )
    if damage and not channels:
        raise InputError(f"bag {path} has no topic that can be used: {damage[-1]}")
    return channels


def _rows(path: Path, database: sqlite3.Connection, damage: list[str]) -> _Rows:
    """All messages that can be found: from the first on and, behind a damaged page, from the last
    back."""
    found = array("q")
    most = path.stat().st_size // LEAST_ROW
    last = -(1 << 63)
    query = "SELECT rowid, topic_id, timestamp FROM messages WHERE rowid "
    for rest in (">= ? ORDER BY rowid", "> ? ORDER BY rowid DESC"):
        try:
            for row in database.execute(query + rest, (last,)):
                if not all(isinstance(value, int) for value in row):
                    damage.append(f"message {row[0]} has no topic or no time")
                    continue
                found.extend(row)
                if len(found) > 3 * most:
                    raise ValueError("it has more messages than bytes for them")
        except sqlite3.Error as error:
            damage.append(f"messages cannot be read: {error}")
        else:
            break
        last = found[-3] if found else last
    table = np.frombuffer(found, np.int64).reshape(-1, 3) if found else np.zeros((0, 3), np.int64)
    return _Rows(*table[np.argsort(table[:, 2], kind="stable")].T)
