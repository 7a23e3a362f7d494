"""Builds the page of an evaluation of recordings from its frames, numbers and kept pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from instaseg_ros.evaluation.limits import Checked
from instaseg_ros.evaluation.matching import rankings
from instaseg_ros.evaluation.metrics.average_precision import AveragePrecision
from instaseg_ros.evaluation.metrics.breakdown import Bin
from instaseg_ros.evaluation.metrics.tracking import TITLES
from instaseg_ros.evaluation.report import build as evaluation_report
from instaseg_ros.evaluation.report import plots
from instaseg_ros.evaluation.report.build import Card, accuracy_cards
from instaseg_ros.evaluation.summary import COLUMNS, table_cells
from instaseg_ros.fleet.report.drive import (
    RECORDINGS,
    Drives,
    Seen,
    chosen_pictures,
    drive,
    moments,
    seen_of,
)
from instaseg_ros.fleet.rows import Stored

WORST = 24  # moments listed, unless asked otherwise
MINUTES = 20  # the worst


class About(NamedTuple):
    """What the page says beside the numbers. config: as text; empty for recorded results."""

    title: str
    subtitle: str
    config: str = ""


def page(
    frames: Sequence[Stored],
    class_names: Sequence[str],
    numbers: Mapping[str, Any],
    files: Mapping[str, Path],
    about: About,
    checked: Sequence[Checked] = (),
    worst: int = WORST,
) -> str:
    """The page as HTML that needs no other file.

    numbers: as in the JSON of the evaluation. files: of rows, by recording. worst: moments listed.
    """
    drives = seen_of(frames)
    by_errors = sorted(drives, key=lambda name: -_errors_per_frame(drives[name]))
    drives = {name: drives[name] for name in by_errors[:RECORDINGS]}
    listed = moments(drives, worst)
    pictures = chosen_pictures({name: files[name] for name in drives}, listed)
    tracking, count = "tracking" in numbers, len(drives)
    shown = {name: drive(own, class_names, tracking, count) for name, own in drives.items()}
    left_out = {
        "recordings": len(by_errors) - len(drives),
        "pictures": pictures.left_out,
        "each": max(one["each"] for one in shown.values()),
    }
    return rendered(
        "run.html",
        about=about,
        remarks=[*numbers["remarks"], *_not_evaluated(numbers)],
        checked=checked,
        tiles=_tiles(numbers, len(by_errors)),
        columns=["class", *COLUMNS.values()],
        classes=_classes(numbers),
        recordings=_recordings(drives, shown, tracking),
        minutes=_minutes(numbers["by_minute"]),
        tracking=_tracking(numbers.get("tracking")),
        cards=_cards(frames, class_names, numbers),
        live=_live(numbers["recordings"]),
        left_out=left_out,
        pictures=sum(map(len, pictures.by_recording.values())),
        data={
            "recordings": [
                {"name": name, **one, "pictures": pictures.by_recording[name]}
                for name, one in shown.items()
            ],
            "worst": [_moment(one) for one in listed],
        },
    )


def rendered(template: str, **values: Any) -> str:
    """A page of this folder, with its size at its foot."""
    from jinja2 import Environment, FileSystemLoader

    folders = [Path(__file__).parent, Path(evaluation_report.__file__).parent]  # its page.css
    environment = Environment(loader=FileSystemLoader(folders), autoescape=True)
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    text = environment.get_template(template).render(size="{size}", **values)
    size = f"{len(text.encode('utf-8', 'replace')) / 1e6:.1f} MB"
    return text.replace("{size}", size, 1)


def _errors_per_frame(frames: Sequence[Seen]) -> float:
    return sum(one.errors for one in frames) / len(frames)


def _moment(one: Seen) -> dict[str, Any]:
    keys = ("recording", "number", "objects", "missed", "wrong", "dropped")
    return {**{key: getattr(one, key) for key in keys}, "time_s": round(one.time_s, 1)}


def _not_evaluated(numbers: Mapping[str, Any]) -> list[str]:
    broken = numbers.get("broken", {})
    return [f"not evaluated: {name}: {error}" for name, error in broken.items()]


def _number(value: float | None, form: str = ".3f") -> str:
    return "-" if value is None or value != value else format(value, form)


def _tiles(numbers: Mapping[str, Any], recordings: int) -> dict[str, str]:
    tracking = numbers.get("tracking", {})
    tiles = {name: _number(numbers[k]) for k, name in (("ap", "AP"), ("ap50", "AP50"))}
    tiles["PQ"] = _number(numbers["pq"])
    if tracking:
        tiles |= {"HOTA": _number(tracking["hota"]), "IDF1": _number(tracking["idf1"])}
        tiles["id switches"] = f"{tracking['id_switches']}"
    tiles |= {"recordings": f"{recordings}", "frames": f"{numbers['frames']}"}
    tiles |= {"objects": f"{numbers['objects']}", "dropped": f"{numbers['dropped']}"}
    tiles["ms, p50"] = _number(numbers["p50_ms"], ".0f")
    tiles["ms, p99"] = _number(numbers["p99_ms"], ".0f")
    return tiles


def _classes(numbers: Mapping[str, Any]) -> list[list[str]]:
    rows = {**numbers["per_class"], "mean": numbers}
    return [[name, *table_cells(row)] for name, row in rows.items()]


def _recordings(
    drives: Drives, shown: Mapping[str, dict[str, Any]], tracking: bool
) -> list[dict[str, str]]:
    """A row for each, by column."""
    rows = []
    for name, frames in drives.items():
        objects = sum(one.objects for one in frames)
        found = objects - sum(one.missed for one in frames)
        wrong = sum(one.wrong for one in frames)
        known = [one.ms for one in frames if one.ms is not None]
        p50, p99 = np.percentile(known, [50, 99]) if known else (None, None)
        row = {
            "recording": name,
            "frames": f"{len(frames)}",
            "dropped": f"{sum(one.dropped for one in frames)}",
            "objects": f"{objects}",
            "recall": _number(found / objects if objects else None),
            "precision": _number(found / (found + wrong) if found + wrong else None),
        }
        if tracking:
            row["id switches"] = f"{sum(shown[name]['switches'])}"
        rows.append(row | {"ms, p50": _number(p50, ".0f"), "ms, p99": _number(p99, ".0f")})
    return rows


def _minutes(minutes: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    known = [one for one in minutes if one["ap50"] == one["ap50"]]
    worst = sorted(known, key=lambda one: float(one["ap50"]))[:MINUTES]
    keys = ("recording", "minute", "frames", "dropped", "objects", "found", "wrong")
    return [[*(f"{one[k]}" for k in keys), _number(one["ap50"])] for one in worst]


def _tracking(tracking: Mapping[str, Any] | None) -> list[list[str]]:
    """Heads, then a row per class and one for all; empty without."""
    if not tracking:
        return []
    counts = ("id_switches", "fragmentations", "mostly_tracked", "mostly_lost", "tracks")
    heads = ["class", *TITLES.values(), *(key.replace("_", " ") for key in counts)]
    rows = {**tracking["per_class"], "all": tracking}
    return [
        heads,
        *(
            [name, *(_number(row[k]) for k in TITLES), *(f"{row[k]}" for k in counts)]
            for name, row in rows.items()
        ),
    ]


def _cards(
    frames: Sequence[Stored], class_names: Sequence[str], numbers: Mapping[str, Any]
) -> list[Card]:
    counts = [frame.tracked.counts for frame in frames]
    cards = accuracy_cards(counts, class_names, rankings(counts, class_names))
    if by := numbers.get("by_distance"):
        bins = [Bin(one["low"], one["high"] or np.inf, _ap(one), {}) for one in by]
        caption = "By the median depth of the true object. Mean over the classes that are there."
        cards.append(Card("AP over distance", plots.bins_plot(bins, "metres"), caption))
    live = [one.latency_ms for one in frames if one.latency_ms is not None]
    made = [one.ms for one in frames if one.ms is not None]
    if live or made:
        title = "Latency of the robot's results" if live else "Time of each frame"
        caption = "The share of frames that took at most so long; those dropped are not among them."
        cards.append(Card(title, plots.share_plot(live or made, "ms"), caption))
    return cards


def _ap(one: Mapping[str, Any]) -> AveragePrecision:
    return AveragePrecision(one["ap"], one["ap50"], one["objects"])


def _live(facts: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """What robots said of their own pace, by recording."""
    return [(name, one["live"]) for name, one in facts.items() if "live" in one]
