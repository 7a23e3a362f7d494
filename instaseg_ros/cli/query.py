"""`instaseg query RUN "select ..."`: ask what an evaluation of recordings has kept."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instaseg_ros.errors import ConfigError, require

if TYPE_CHECKING:
    from instaseg_ros.fleet.query import Answer

WORST = 20

EXAMPLES = """
instaseg query runs/monday --worst
instaseg query runs/monday --by-class --json
instaseg query runs/monday "select recording, count(*) from frames group by all"
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of `instaseg evaluate -o`")
    parser.add_argument(
        "sql",
        nargs="?",
        metavar="SELECT",
        help="one statement over frames, truths, predictions and pairs; "
        "`describe frames` names the columns",
    )
    ready = parser.add_mutually_exclusive_group()
    ready.add_argument(
        "--worst",
        type=int,
        nargs="?",
        const=WORST,
        metavar="N",
        help=f"the frames with the most errors (default: {WORST})",
    )
    ready.add_argument("--by-class", action="store_true", help="by class and size")
    ready.add_argument("--by-minute", action="store_true", help="by recording and minute")
    ready.add_argument("--switches", action="store_true", help="where tracked objects change ids")
    ready.add_argument(
        "--disagreements",
        type=Path,
        metavar="OTHER",
        help="the frames in which this run and another differ most",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object per row")


def run(args: argparse.Namespace) -> int:
    require("duckdb", "query", "this")
    from instaseg_ros.fleet.query import json_lines, opened_run

    ready = [args.worst is not None, args.by_class, args.by_minute, args.switches]
    if (args.sql is not None) + any((*ready, args.disagreements)) != 1:
        raise ConfigError("query: expected one SELECT, or one of the ready questions (--help)")
    if args.worst is not None and args.worst < 1:
        raise ConfigError(f"--worst: expected at least 1, got {args.worst}")
    with opened_run(args.run, args.disagreements) as database:
        answer = _answer(args, database)
    print(json_lines(answer) if args.json else table_of(answer), end="")
    return 0


def _answer(args: argparse.Namespace, database: Any) -> Answer:
    from instaseg_ros.fleet import query

    if args.sql is not None:
        return query.ask(database, args.sql)
    if args.worst is not None:
        return query.worst(database, args.worst)
    if args.by_class:
        return query.by_class(database)
    if args.by_minute:
        return query.by_minute(database)
    if args.switches:
        return query.switches(database)
    return query.disagreements(database, WORST)


def table_of(answer: Answer) -> str:
    """The answer for people."""
    from instaseg_ros.tables import text_table

    rows = [[_cell(value) for value in row] for row in answer.rows]
    count = f"({len(rows)} rows)"
    if not rows:
        return f"{'  '.join(answer.columns)}\n{count}\n"
    return text_table(answer.columns, rows, [""] * len(answer.columns)) + "\n"


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return "".join(c if c.isprintable() else "?" for c in text)
