"""Writes and reads the rows of a recording as a Parquet file, by DuckDB."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from instaseg_ros.contract import format_of
from instaseg_ros.errors import InputError, MissingExtraError
from instaseg_ros.files import written_whole
from instaseg_ros.fleet.pictures import Picture
from instaseg_ros.fleet.rows import COLUMNS, COUNTED, FRAME, KINDS, Table

try:
    import duckdb
except ModuleNotFoundError as error:
    raise MissingExtraError("duckdb", "query", "rows that can be queried") from error

SUFFIX = ".parquet"
NULL = " is null"  # after the name of a column: whether it has no value
BLOBS = {c.name for c in COLUMNS if c.type == "BLOB"}
FORMAT = "rows"  # in `contract.RESULTS`
# DuckDB otherwise fetches what it lacks from the internet.
ALONE: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}


def connect(path: str = ":memory:", read_only: bool = False) -> Any:
    """A connection that installs and loads nothing."""
    return duckdb.connect(path, read_only=read_only, config=ALONE)


def write_rows(path: Path, tables: Mapping[str, Table], facts: Mapping[str, Any]) -> int:
    """Write the rows by kind, whole or not at all, and return their number. facts: stored in the
    file, as JSON."""
    kept = {"format": format_of(FORMAT), "facts": json.dumps(facts)}
    about = ", ".join(f"{key}: {quoted(value)}" for key, value in kept.items())
    with connect() as database, written_whole(path) as part:
        parts = [_select(kind) for kind in KINDS if kind in tables]
        for kind, table in tables.items():
            count = len(next(iter(table.values())))
            columns = {**table, "kind": np.full(count, kind, object)}
            database.register(f"rows_{kind}", _with_masks(columns))
        database.execute(
            f"COPY ({' UNION ALL '.join(parts)}) TO {quoted(str(part))} "
            f"(FORMAT parquet, COMPRESSION zstd, KV_METADATA {{{about}}})"
        )
    return sum(len(next(iter(table.values()))) for table in tables.values())


def _select(kind: str) -> str:
    values = {
        c: f"CASE WHEN {_name(c.name + NULL)} THEN NULL ELSE {_name(c.name)} END"
        if kind in c.kinds
        else "NULL"
        for c in COLUMNS
    }
    columns = ", ".join(f"{_as(c.type, v)} AS {_name(c.name)}" for c, v in values.items())
    return f"SELECT {columns} FROM rows_{kind}"


def _as(kind: str, value: str) -> str:
    return f"from_base64({value})" if kind == "BLOB" else f"CAST({value} AS {kind})"


def _with_masks(table: Table) -> Table:
    """The columns without masks, and these beside them, and bytes as text: what DuckDB makes of a
    mask or of bytes depends on its version."""
    plain = {name: np.asarray(np.ma.getdata(column)) for name, column in table.items()}
    for name in BLOBS & plain.keys():
        plain[name] = np.array([b64encode(value).decode() for value in plain[name]], object)
    masks = {name + NULL: np.ma.getmaskarray(column) for name, column in table.items()}
    return {**plain, **masks}


def read_facts(path: Path) -> dict[str, Any]:
    """What `write_rows` stored beside the rows. Raises InputError for another file."""
    try:
        with connect() as database:
            found = database.execute(
                f"SELECT decode(key), decode(value) FROM parquet_kv_metadata({quoted(str(path))})"
            ).fetchall()
        kept = dict(found)
        written = kept.get("format")
        if written == format_of(FORMAT):
            facts = json.loads(kept["facts"])
            if isinstance(facts, dict):
                return facts
            raise ValueError("its facts are not an object")
    except (duckdb.Error, ValueError, KeyError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"rows {path}: {_EXPECTED}; it cannot be read: {first}") from error
    raise InputError(
        f"rows {path}: {_EXPECTED}, found {written!r:.60}"
        if written
        else f"rows {path}: {_EXPECTED}, found a Parquet file of something else"
    )


_EXPECTED = f"expected a file of `instaseg evaluate -o` ({format_of(FORMAT)})"


def read_rows(path: Path) -> dict[str, Table]:
    """The rows that are counted, by kind, in order, with the columns of the kind. Raises InputError
    if damaged."""
    try:
        with connect() as database:
            rows = {kind: _read(database, path, kind) for kind in (FRAME, *COUNTED)}
    except duckdb.Error as error:
        raise InputError(f"rows {path} cannot be read: {str(error).splitlines()[0]}") from error
    if not len(rows[FRAME]["frame"]):
        raise InputError(f"rows {path} cannot be read: there is no frame in it")
    return rows


def _read(database: Any, path: Path, kind: str) -> Table:
    order = "frame" if kind == FRAME else "frame, place"
    found = database.execute(
        f"SELECT {selected(kind)} FROM ({rows_of([path])}) WHERE kind = '{kind}' ORDER BY {order}"
    ).fetchnumpy()
    return {name: np.ma.asarray(column) for name, column in found.items()}


def picture_sizes(path: Path) -> dict[int, int]:
    """The frames of a recording of which a picture was kept, and its bytes."""
    size = "octet_length(jpeg) + strlen(outlines)"
    return dict(_pictures(path, f"frame, {size}"))


def read_pictures(path: Path, frames: Sequence[int]) -> dict[int, Picture]:
    """Those of them that were kept of these frames."""
    wanted = f"AND frame IN ({', '.join(map(str, frames))})" if frames else "AND false"
    rows = _pictures(path, "frame, jpeg, outlines", wanted)
    return {frame: Picture(jpeg, outlines) for frame, jpeg, outlines in rows}


def _pictures(path: Path, columns: str, where: str = "") -> list[tuple[Any, ...]]:
    try:
        with connect() as database:
            found: list[tuple[Any, ...]] = database.execute(
                f"SELECT {columns} FROM ({rows_of([path])}) WHERE kind = 'picture' {where} "
                "ORDER BY frame"
            ).fetchall()
            return found
    except duckdb.Error as error:
        raise InputError(f"rows {path} cannot be read: {str(error).splitlines()[0]}") from error


def rows_of(paths: Sequence[Path]) -> str:
    """All rows of some files, in SQL. Columns that came after a file was written are null."""
    columns = ", ".join(f"CAST(NULL AS {c.type}) AS {_name(c.name)}" for c in COLUMNS)
    files = ", ".join(quoted(str(path)) for path in paths)
    return (
        f"SELECT {columns} WHERE false UNION ALL BY NAME "
        f"SELECT * FROM read_parquet([{files}], union_by_name = true)"
    )


def selected(kind: str) -> str:
    """The columns of the rows of one kind, in SQL."""
    return ", ".join(_name(c.name) for c in COLUMNS if kind in c.kinds and c.name != "kind")


def _name(column: str) -> str:
    return f'"{column}"'


def quoted(text: str) -> str:
    """A string in SQL."""
    return "'" + text.replace("'", "''") + "'"
