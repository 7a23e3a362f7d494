"""Ready questions against numbers worked by hand, and statements that must not get through."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("duckdb")

from fleet_runs import SECOND_NS, write_hand_run

from instaseg_ros import cli
from instaseg_ros.errors import ConfigError, InputError
from instaseg_ros.fleet import query
from instaseg_ros.fleet.parquet import duckdb

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hand_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hand_run(tmp_path_factory.mktemp("runs") / "other", other=True)


def test_worst_frames(run: Path) -> None:
    with query.opened_run(run) as database:
        columns, rows = query.worst(database, 3)
    assert columns[:4] == ("recording", "frame", "stamp_ns", "errors")
    assert rows == [
        ("drive", 1, 30 * SECOND_NS, 2, 1, 1, 1, False),
        ("drive", 2, 59 * SECOND_NS, 2, 2, 0, 0, True),
        ("drive", 0, 0, 0, 0, 0, 2, False),
    ]


def test_by_class_and_size(run: Path) -> None:
    with query.opened_run(run) as database:
        columns, rows = query.by_class(database)
    assert columns == (
        *("class", "from_px", "objects", "found", "wrong"),
        *("recall", "precision", "iou"),
    )
    # 200, 225 and 80 pixels: all from 64 to below 256.
    assert rows == [("car", 64, 4, 3, 1, 0.75, 0.75, 1.0), ("person", 64, 4, 2, 0, 0.5, 1.0, 1.0)]


def test_by_minute(run: Path) -> None:
    with query.opened_run(run) as database:
        columns, rows = query.by_minute(database)
    assert columns[-3:] == ("recall", "precision", "ms")
    assert rows == [
        ("drive", 0, 3, 1, 6, 3, 1, 0.5, 0.75, 50.0),
        ("drive", 1, 1, 0, 2, 2, 0, 1.0, 1.0, 80.0),
    ]


def test_switches(run: Path) -> None:
    with query.opened_run(run) as database:
        answer = query.switches(database)
    assert answer.rows == [("drive", 3, 61 * SECOND_NS, "car", 300, 300, 301)]


def test_disagreements(run: Path, other: Path) -> None:
    with query.opened_run(run, other) as database:
        answer = query.disagreements(database, 10)
        assert query.disagreements(database, 1).rows == answer.rows[:1]
    assert answer.columns[3:] == ("only_here", "only_other", "wrong_here", "wrong_other")
    assert answer.rows == [
        ("drive", 1, 30 * SECOND_NS, 0, 1, 1, 0),
        ("drive", 3, 61 * SECOND_NS, 1, 0, 0, 0),
    ]


def test_any_select_over_the_tables(run: Path, other: Path) -> None:
    with query.opened_run(run, other) as database:
        count = "SELECT (SELECT count(*) FROM {0}frames), (SELECT count(*) FROM {0}truths), "
        count += "(SELECT count(*) FROM {0}predictions), (SELECT count(*) FROM {0}pairs), "
        count += "(SELECT count(*) FROM {0}pictures), (SELECT count(*) FROM {0}everything)"
        assert query.ask(database, count.format("")).rows == [(4, 8, 6, 5, 4, 27)]
        assert query.ask(database, count.format("other_")).rows == [(4, 8, 5, 5, 4, 26)]
        described = query.ask(database, "DESCRIBE truths").rows
        assert ("verdict", "VARCHAR") in [one[:2] for one in described]


WRITING = (
    "CREATE TABLE t AS SELECT 1",
    "CREATE TEMP TABLE t AS SELECT 1",
    "DROP VIEW frames",
    "COPY frames TO '{run}/drive.parquet'",
    "COPY frames TO '{run}/new.csv'",
    "EXPORT DATABASE '{run}/out'",
    "ATTACH '{run}/x.db'",
    "SET enable_external_access = true",
    "PRAGMA enable_profiling",
    "INSTALL httpfs",
    "LOAD httpfs",
    "CALL pragma_version()",
    "SELECT 1; DROP VIEW frames",
    "",
)
REACHING = (
    "SELECT * FROM read_text('/etc/hostname')",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM glob('/*')",
    "SELECT * FROM read_parquet('https://example.org/x.parquet')",
    "SELECT * FROM secret_of_the_caller",
    "SELECT * FROM query('COPY frames TO ''{run}/drive.parquet''')",
    "SELECT no_such_column FROM frames",
    "SELECT 'a' + 1 FROM frames WHERE",
)


@pytest.mark.parametrize("statement", (*WRITING, *REACHING))
def test_only_one_select_of_rows_is_answered(run: Path, statement: str) -> None:
    secret_of_the_caller = {"a": [1]}
    assert secret_of_the_caller
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    with query.opened_run(run) as database, pytest.raises(ConfigError, match=r"^SQL: ."):
        query.ask(database, statement.format(run=run))
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before


@pytest.mark.parametrize(
    "statement",
    [
        one
        for one in WRITING
        if one and "TEMP" not in one and not one.startswith(("CALL", "PRAGMA"))
    ],
)
def test_the_engine_itself_refuses_what_changes_something(run: Path, statement: str) -> None:
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    with query.opened_run(run) as database, pytest.raises(duckdb.Error):
        database.execute(statement.format(run=run))
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before


def test_what_is_no_run_is_named(run: Path, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match=r"expected a folder that `instaseg evaluate -o`"):
            query.opened_run(path).__enter__()
    duckdb.sql(f"COPY (SELECT 1 AS kind) TO '{tmp_path}/a.parquet' (FORMAT parquet)")
    with pytest.raises(InputError, match=r"a\.parquet: expected .* something else"):
        query.opened_run(tmp_path).__enter__()


def test_the_verb(run: Path, other: Path, capsys: Capture) -> None:
    assert cli.main(["query", str(run), "--worst", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "recording": "drive",
        "frame": 1,
        "stamp_ns": 30 * SECOND_NS,
        "errors": 2,
        "missed": 1,
        "wrong": 1,
        "found": 1,
        "dropped": False,
    }
    for question in (["--by-class"], ["--by-minute"], ["--switches"], ["--worst"]):
        assert cli.main(["query", str(run), *question]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert (
            len(lines) > 1
            and {"--by-class": "class", "--switches": "recording"}.get(question[0], "recording")
            in lines[0]
        )
    assert cli.main(["query", str(run), "--disagreements", str(other)]) == 0
    assert "only_other" in capsys.readouterr().out
    assert cli.main(["query", str(run), "select frame from frames where wrong > 5"]) == 0
    assert capsys.readouterr().out == "frame\n(0 rows)\n"
    for wrong in ([], ["select 1", "--by-class"], ["--worst", "0"], ["drop view frames"]):
        assert cli.main(["query", str(run), *wrong]) == 2
        assert "expected" in capsys.readouterr().err
