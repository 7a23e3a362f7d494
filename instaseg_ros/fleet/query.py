"""Asks the rows of a run with SQL, by DuckDB, which can only read them.

Tables: `frames`, `truths`, `predictions`, `pairs` of these that overlap, and `pictures` of some
frames; `everything` has the rows of all kinds. `other_frames` and the like where a second run is
given. Columns are those of `rows.COLUMNS`.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from instaseg_ros.errors import ConfigError, InputError
from instaseg_ros.fleet.folder import files_in
from instaseg_ros.fleet.parquet import connect, duckdb, quoted, read_facts, rows_of, selected

TABLES = {
    "frames": "frame",
    "truths": "truth",
    "predictions": "prediction",
    "pairs": "pair",
    "pictures": "picture",
}
# Beyond these DuckDB would reach files, the network, or Python's variables.
CLOSED = (
    "SET python_enable_replacements = false",
    "SET temp_directory = ''",
    "SET allowed_paths = [{paths}]",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)


class Answer(NamedTuple):
    """The names of the columns, and the rows."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


@contextlib.contextmanager
def opened_run(run: Path, other: Path | None = None) -> Iterator[Any]:
    """A read-only connection to the rows of a run, and of another one. Raises InputError for what
    is no run."""
    runs = {"": files_in(run)}
    if other is not None:
        runs["other_"] = files_in(other)
    for file in (file for files in runs.values() for file in files):
        read_facts(file)
    with tempfile.TemporaryDirectory(prefix="instaseg_query_") as scratch:
        path = str(Path(scratch, "views.duckdb"))
        with connect(path) as database:
            for prefix, files in runs.items():
                _make_views(database, prefix, files)
        with connect(path, read_only=True) as database:
            paths = ", ".join(quoted(str(f)) for files in runs.values() for f in files)
            for statement in CLOSED:
                database.execute(statement.format(paths=paths))
            yield database


def _make_views(database: Any, prefix: str, files: Sequence[Path]) -> None:
    try:
        database.execute(f"CREATE VIEW {prefix}everything AS {rows_of(files)}")
        for table, kind in TABLES.items():
            database.execute(
                f"CREATE VIEW {prefix}{table} AS SELECT {selected(kind)} FROM {prefix}everything "
                f"WHERE kind = '{kind}'"
            )
    except duckdb.Error as error:
        raise InputError(f"rows of {files[0].parent} cannot be read: {_first(error)}") from error


def ask(database: Any, statement: str, values: Sequence[Any] = ()) -> Answer:
    """The answer to one SELECT. Raises ConfigError for another statement, or one that cannot be
    answered."""
    try:
        statements = duckdb.extract_statements(statement)
    except duckdb.Error as error:
        raise ConfigError(f"SQL: {_said(error)}") from error
    kinds = [one.type.name for one in statements]
    if kinds != ["SELECT"]:
        raise ConfigError(
            "SQL: expected one SELECT, since rows are only read, got "
            f"{', '.join(kinds) or 'nothing'}"
        )
    try:
        found = database.execute(statements[0], list(values) or None)
        return Answer(tuple(one[0] for one in found.description), found.fetchall())
    except (duckdb.Error, ValueError, OverflowError) as error:
        raise ConfigError(f"SQL: {_said(error)}") from error


def _said(error: Exception) -> str:
    """An error of DuckDB, without its internals."""
    return str(error).strip()


def _first(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def worst(database: Any, count: int) -> Answer:
    """The frames with the most errors, missed and wrong together."""
    return ask(
        database,
        "SELECT recording, frame, stamp_ns, missed + wrong AS errors, missed, wrong, found, "
        "dropped FROM frames ORDER BY errors DESC, recording, frame LIMIT ?",
        [count],
    )


def by_class(database: Any) -> Answer:
    """Recall, precision and mean IoU by class and size. Sizes are in pixels, four times as large
    from one to the next, of the true object or the wrong prediction."""
    size = "CAST(pow(4, floor(log2(greatest(px, 1)) / 2)) AS BIGINT)"
    return ask(
        database,
        f"""
        WITH judged AS (
            SELECT class, {size} AS from_px, verdict, iou FROM truths
            WHERE verdict IN ('found', 'missed')
            UNION ALL
            SELECT class, {size}, verdict, iou FROM predictions WHERE verdict = 'wrong'
        )
        SELECT class, from_px,
            count(*) FILTER (verdict <> 'wrong') AS objects,
            count(*) FILTER (verdict = 'found') AS found,
            count(*) FILTER (verdict = 'wrong') AS wrong,
            found / nullif(objects, 0) AS recall,
            found / nullif(found + wrong, 0) AS precision,
            avg(iou) FILTER (verdict = 'found') AS iou
        FROM judged GROUP BY class, from_px ORDER BY class, from_px
        """,
    )


def by_minute(database: Any) -> Answer:
    """Recall and precision by minute; latency is the median of recorded results, otherwise of those
    made now."""
    return ask(
        database,
        """
        SELECT recording, minute, count(*) AS frames,
            count(*) FILTER (dropped) AS dropped,
            CAST(sum(objects) AS BIGINT) AS objects,
            CAST(sum(frames.found) AS BIGINT) AS found,
            CAST(sum(frames.wrong) AS BIGINT) AS wrong,
            sum(frames.found) / nullif(sum(objects), 0) AS recall,
            sum(frames.found) / nullif(sum(frames.found) + sum(frames.wrong), 0) AS precision,
            median(coalesce(latency_ms, ms)) AS ms
        FROM frames GROUP BY recording, minute ORDER BY recording, minute
        """,
    )


def switches(database: Any) -> Answer:
    """Each moment at which an object got another id, with the id before."""
    return ask(
        database,
        """
        WITH matched AS (
            SELECT *, lag(partner) OVER (
                PARTITION BY recording, class, id ORDER BY frame) AS before
            FROM truths WHERE partner IS NOT NULL
        )
        SELECT recording, frame, stamp_ns, class, id AS object, before AS id_before,
            partner AS id_after
        FROM matched WHERE switched ORDER BY recording, frame, object
        """,
    )


def disagreements(database: Any, count: int) -> Answer:
    """Of frames in both runs, those in which the most objects were found by one of them only;
    wrong predictions beside. Needs `other`."""
    return ask(
        database,
        """
        WITH here AS (SELECT recording, stamp_ns, class, id, verdict FROM truths),
            there AS (SELECT recording, stamp_ns, class, id, verdict FROM other_truths),
            differing AS (
                SELECT recording, stamp_ns,
                    count(*) FILTER (here.verdict = 'found' AND there.verdict = 'missed') AS here,
                    count(*) FILTER (here.verdict = 'missed' AND there.verdict = 'found') AS there
                FROM here JOIN there USING (recording, stamp_ns, class, id)
                GROUP BY recording, stamp_ns
            )
        SELECT f.recording, f.frame, f.stamp_ns, coalesce(d.here, 0) AS only_here,
            coalesce(d.there, 0) AS only_other, f.wrong AS wrong_here, o.wrong AS wrong_other
        FROM frames f JOIN other_frames o USING (recording, stamp_ns)
            LEFT JOIN differing d USING (recording, stamp_ns)
        WHERE only_here + only_other > 0 OR wrong_here <> wrong_other
        ORDER BY only_here + only_other DESC, abs(wrong_here - wrong_other) DESC,
            f.recording, f.frame
        LIMIT ?
        """,
        [count],
    )


def json_lines(answer: Answer) -> str:
    """The answer for programs, a JSON object per row."""
    return "".join(
        json.dumps(dict(zip(answer.columns, row, strict=True)), default=str) + "\n"
        for row in answer.rows
    )
