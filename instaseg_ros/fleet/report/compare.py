"""Builds the page that shows two runs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from instaseg_ros.fleet.comparison import Change, Comparison, Paired, Run
from instaseg_ros.fleet.parquet import picture_sizes
from instaseg_ros.fleet.query import Answer
from instaseg_ros.fleet.report.build import About, rendered
from instaseg_ros.fleet.report.drive import Drives, Seen, seen_of, shown

SHOWN = 16  # frames with pictures


def page(
    paths: tuple[Path, Path],
    runs: tuple[Run, Run],
    both: Paired,
    found: Comparison,
    apart: Mapping[str, tuple[str, str]],
    differing: Answer,
    listed: int,
) -> str:
    """The page as HTML that needs no other file. differing: of `query.disagreements`, of which
    pictures are chosen; the first `listed` of them are in a table."""
    names = [path.resolve().name for path in paths]
    if names[0] == names[1]:
        names = [str(path) for path in paths]
    rows = [dict(zip(differing.columns, row, strict=True)) for row in differing.rows]
    return rendered(
        "compare.html",
        about=About(
            f"{names[0]} against {names[1]}",
            f"A: {paths[0]}; B: {paths[1]}; {len(both.frames[0])} frames of both; classes "
            f"{', '.join(both.classes)}",
        ),
        remarks=both.remarks,
        apart=apart,
        changes=[_row(one) for one in found.changes],
        resampled=found.resampled,
        heads=[name.replace("_", " ") for name in rows[0] if name != "stamp_ns"] if rows else [],
        rows=[[v for k, v in row.items() if k != "stamp_ns"] for row in rows[:listed]],
        data={"frames": _pictured(runs, rows)},
    )


def _row(change: Change) -> dict[str, Any]:
    """A change as text, and its interval as shares of what is drawn, from 0 to 1, 0.5 for none."""
    values = {
        key: "-" if value != value else f"{value:.4g}"
        for key, value in (("a", change.a), ("b", change.b), ("difference", change.difference))
    }
    row: dict[str, Any] = {
        "title": change.title,
        "verdict": change.verdict,
        **values,
        "interval": "-",
    }
    if change.interval is not None:
        low, high = change.interval
        row["interval"] = f"{low:+.3g} to {high:+.3g}"
        most = 2 * max(abs(low), abs(high), abs(change.difference)) or 1.0
        row["drawn"] = [0.5 + v / most for v in (low, change.difference, high)]
    return row


def _pictured(runs: Sequence[Run], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of the frames, for JSON, the first that have pictures, those of both runs before those of
    one."""
    sizes = [{name: picture_sizes(file) for name, file in run.files.items()} for run in runs]
    seen = [_by_stamp(seen_of(run.frames)) for run in runs]
    kept: dict[int, list[dict[str, Any]]] = {2: [], 1: [], 0: []}  # by number of pictures
    for row in rows:
        key = row["recording"], row["stamp_ns"]
        numbers = {name: one[key].number for name, one in zip("ab", seen, strict=True)}
        there = {
            name: number
            for (name, number), own in zip(numbers.items(), sizes, strict=True)
            if number in own[row["recording"]]
        }
        kept[len(there)].append({**row, "time_s": round(seen[0][key].time_s, 1), "pictures": there})
    chosen = (kept[2] + kept[1])[:SHOWN]
    for one in chosen:
        del one["stamp_ns"]  # beyond what numbers of JavaScript can hold
        for name, run in zip("ab", runs, strict=True):
            if name in one["pictures"]:
                number = one["pictures"][name]
                one["pictures"][name] = shown(run.files[one["recording"]], [number])[number]
    return chosen


def _by_stamp(drives: Drives) -> dict[tuple[str, int], Seen]:
    return {(one.recording, one.stamp_ns): one for own in drives.values() for one in own}
