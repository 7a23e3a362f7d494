"""`instaseg compare A B`: two runs of `instaseg evaluate -o` side by side, by their rows."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instaseg_ros.errors import ConfigError, require

if TYPE_CHECKING:
    from instaseg_ros.fleet.comparison import Change, Comparison, Paired
    from instaseg_ros.fleet.query import Answer

FRAMES = 20
SEARCHED = 2000  # differing frames, for those of which there are pictures

EXAMPLES = """
instaseg compare runs/monday runs/tuesday
instaseg compare runs/monday runs/tuesday --report page/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    for name, which in (("a", "before"), ("b", "after")):
        help_ = f"folder of `instaseg evaluate -o`, {which} the change"
        parser.add_argument(name, type=Path, metavar=name.upper(), help=help_)
    parser.add_argument(
        "--frames",
        type=int,
        default=FRAMES,
        metavar="N",
        help=f"list the N frames in which they differ most (default: {FRAMES})",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the numbers to this file"
    )
    parser.add_argument(
        "--report", type=Path, metavar="DIR", help="write a page to DIR/compare.html"
    )


def run(args: argparse.Namespace) -> int:
    require("duckdb", "query", "this")
    if args.frames < 1:
        raise ConfigError(f"--frames: expected at least 1, got {args.frames}")
    if args.report:
        require("jinja2", "plots", "the page")
    from tqdm import tqdm

    from instaseg_ros.cli.evaluate_recordings import report_output
    from instaseg_ros.contract import plain_json, written
    from instaseg_ros.files import OutputFile, write_whole
    from instaseg_ros.fleet import query
    from instaseg_ros.fleet.comparison import compare, paired, settings_apart

    json = OutputFile(args.json, overwrite=True) if args.json else None
    page = report_output(args.report, "compare.html") if args.report else None
    runs, both = paired((args.a, args.b))
    with tqdm(unit="resample", disable=None, leave=False) as bar:
        found = compare(both, bar.update)
    searched = max(args.frames, SEARCHED)
    with query.opened_run(args.a, args.b) as database:
        differing = query.disagreements(database, searched)
    frames = differing._replace(rows=differing.rows[: args.frames])
    apart = settings_apart(*runs)
    _print(args, both, found, apart, frames)
    if json:
        facts = {
            **written("comparison"),
            "a": str(args.a),
            "b": str(args.b),
            "frames": len(both.frames[0]),
            "classes": both.classes,
            "remarks": both.remarks,
            "resampled": found.resampled,
            "settings": apart,
            "changes": [{**one._asdict(), "difference": one.difference} for one in found.changes],
            "disagreements": [dict(zip(frames.columns, row, strict=True)) for row in frames.rows],
        }
        write_whole(json.path, plain_json(facts).encode())
    if page:
        from instaseg_ros.fleet.report.compare import page as page_of

        paths = args.a, args.b
        text = page_of(paths, runs, both, found, apart, differing, args.frames)
        write_whole(page.path, text.encode("utf-8", "replace"))
        print(f"page: {page.path}, {page.path.stat().st_size / 1e6:.1f} MB")
    return 0


def _print(
    args: argparse.Namespace,
    both: Paired,
    found: Comparison,
    apart: dict[str, tuple[str, str]],
    frames: Answer,
) -> None:
    from instaseg_ros.cli.query import table_of
    from instaseg_ros.tables import text_table

    print(f"A: {args.a}\nB: {args.b}\n{len(both.frames[0])} frames of both")
    for remark in both.remarks:
        print(remark)
    for name, (a, b) in apart.items():
        print(f"  {name}: {a} -> {b}")
    rows = [_cells(one) for one in found.changes]
    heads = ("", "A", "B", "B - A", "95 % of it", "")
    print("\n" + text_table(heads, rows, ("", *(".4g" for _ in range(4)), "")))
    print(f"(intervals: {found.resampled})")
    if frames.rows:
        print("\nwhere they differ most (only_here: found by A only, only_other: by B only)")
        print(table_of(frames), end="")


def _cells(change: Change) -> list[Any]:
    known = [None if v != v else v for v in (change.a, change.b, change.difference)]
    interval = None
    if change.interval is not None:
        interval = f"{change.interval[0]:+.3g} to {change.interval[1]:+.3g}"
    return [change.title, *known, interval, change.verdict]
