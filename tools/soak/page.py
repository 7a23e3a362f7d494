"""Makes the page of a soak from its journal, at any time: python -m soak.page runs/soak

Writes soak.html and soak.json there, and returns 1 and says why if a promise was broken.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from instaseg_ros.evaluation.report import plots
from instaseg_ros.evaluation.report.plots import COLORS, INK, Plot
from instaseg_ros.files import OutputFile
from soak import verdict
from soak.journal import BROKEN
from soak.ledger import COUNTED, FATES, LOST
from soak.verdict import Promise, Run

PAGE, SUMMARY = "soak.html", "soak.json"
SHOWN = 50  # broken promises on the page
BIN_S = 10.0  # least, of latency
BINS = 240  # most
WORDS = {True: "kept", False: "broken", None: "too short to say"}


class Card(NamedTuple):
    """A figure and its explanation."""

    title: str
    svg: str
    caption: str


def write_page(folder: Path) -> list[Promise]:
    """Write PAGE and SUMMARY into the folder of a journal; returns what is judged."""
    run = verdict.load(folder)
    promises = verdict.judge(run)
    _write(folder / SUMMARY, json.dumps(summary(run, promises), indent=2) + "\n")
    try:
        _write(folder / PAGE, page(run, promises))
    except ImportError as error:
        print(f"no page: {error}; make it with a Python that has it: python -m soak.page {folder}")
    return promises


def summary(run: Run, promises: Sequence[Promise]) -> dict[str, Any]:
    """The figures, for programs."""
    quiet, all_ = (verdict.latencies(run, 0, float("inf"), only) for only in (True, False))
    return {
        **run.about,
        "ran_s": run.seconds,
        "promises": [promise._asdict() for promise in promises],
        "cameras": run.samples[-1]["accounts"] if run.samples else {},
        "latency_ms": {"quiet": _percentiles(quiet), "all": _percentiles(all_)},
        "faults": dict(Counter(e["name"] for e in run.events if e["name"] != BROKEN)),
        "broken": [event for event in run.events if event["name"] == BROKEN],
    }


def page(run: Run, promises: Sequence[Promise]) -> str:
    """The page as HTML that needs no other file."""
    from jinja2 import Environment, FileSystemLoader

    about, broken = run.about, [event for event in run.events if event["name"] == BROKEN]
    folders = [Path(__file__).parent, Path(plots.__file__).parent]  # its page.css
    environment = Environment(loader=FileSystemLoader(folders), autoescape=True)
    return environment.get_template("page.html").render(
        title=f"{'Overload' if about['kind'] == 'overload' else 'Soak'} of instaseg_node",
        subtitle=(
            f"{about['cameras']} cameras, {about['size']}, {about['rate_hz']:g} Hz; weights "
            f"{about['weights']}; ROS 2 {about['distribution']}; {about['machine']}; began "
            f"{about['began']}, seed {about['seed']}"
        ),
        promises=[(p.name, WORDS[p.kept], p.said) for p in promises],
        tiles=_tiles(run),
        cards=_cards(run) if len(run.samples) > 1 else [],
        columns=["camera", "published", *COUNTED, "labels that came", "not subscribed"],
        rows=_rows(run),
        broken=broken[:SHOWN],
        unseen=max(0, len(broken) - SHOWN),
        faults=sorted(Counter(e["name"] for e in run.events if e["name"] != BROKEN).items()),
    )


def _write(path: Path, text: str) -> None:
    output = OutputFile(path, overwrite=True)
    try:
        output.part.write_text(text)
        output.commit()
    finally:
        output.discard()


def _percentiles(values: Any) -> list[float]:
    return [round(v, 1) for v in np.percentile(values, [50, 99]).tolist()] if len(values) else []


def _tiles(run: Run) -> dict[str, str]:
    accounts = run.samples[-1]["accounts"].values() if run.samples else ()
    quiet = _percentiles(verdict.latencies(run, 0, float("inf"), True))
    faults = sum(event["name"] != BROKEN for event in run.events)
    tiles = {"ran": f"{run.seconds / 60:.1f} min"}
    if run.samples:
        labelled = sum(one["labelled"] for one in accounts)
        tiles["images labelled"] = f"{labelled}"
        tiles["labelled in a second"] = f"{labelled / max(run.seconds, 1):.1f}"
        tiles["faults"] = f"{faults}"
        tiles["ms, p50 and p99"] = ", ".join(f"{ms:.0f}" for ms in quiet) or "-"
        tiles["load of the machine"] = f"{np.median([s['load'] for s in run.samples]):.1f}"
        tiles["MB resident"] = f"{run.samples[-1]['rss_mb']:.0f}"
    return tiles


def _rows(run: Run) -> list[list[Any]]:
    rows = []
    for name, one in (run.samples[-1]["accounts"] if run.samples else {}).items():
        unheard = one["published"] - one["received"] - one["lost on the way"]
        counts = [one[name] for name in COUNTED]
        rows.append([name, one["published"], *counts, one["labels"], unheard])
    return rows


def _cards(run: Run) -> list[Card]:
    hours = run.seconds > 2 * 3600
    unit = "h" if hours else "min"
    time = np.array([s["time_s"] for s in run.samples]) / (3600 if hours else 60)
    return [
        Card(
            "Memory",
            _memory(run, time, unit),
            "Resident, with its share of common pages, and its own, which is neither of a file nor "
            "of the middleware's segments. Dots: ends of quiet stretches, which are judged.",
        ),
        Card(
            "Latency",
            _latency(run, unit),
            "From the stamp until the labels are with another process: in quiet stretches, and "
            "always, where the stamp is true.",
        ),
        Card(
            "Threads, descriptors, shared-memory files",
            _counts(run, time, unit),
            "Of the node's process.",
        ),
        Card(
            "Processor",
            _processor(run, time, unit),
            "Processors that the node used, and the share of its time in which it could run but "
            "waited for one, as other programs had them.",
        ),
        Card("What becomes of images", _fates(run, unit), "All cameras together."),
        Card(
            "Labels of each camera",
            _shares(run, time, unit),
            "So far; with equal shares, one line.",
        )
        if run.about["kind"] == "overload"
        else Card("Faults", _faults(run, unit), "When each began; red: a broken promise."),
    ]


@contextmanager
def _over_time(plot: Plot, unit: str, what: str) -> Iterator[Any]:
    with plot as axes:
        yield axes
        axes.set(xlabel=unit, ylabel=what)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(
                frameon=False, fontsize=9, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0)
            )


def _scale(unit: str) -> float:
    return 3600.0 if unit == "h" else 60.0


def _memory(run: Run, time: Any, unit: str) -> str:
    plot = Plot()
    with _over_time(plot, unit, "MB") as axes:
        for name, label, color in (
            ("rss_mb", "resident", COLORS[0]),
            ("pss_mb", "share", COLORS[2]),
            ("own_mb", "own", COLORS[3]),
        ):
            axes.plot(time, [s[name] for s in run.samples], color=color, lw=1.2, label=label)
        at_s, values = verdict.quiet_readings(run, "own_mb")
        axes.plot(np.array(at_s) / _scale(unit), values, ".", color=INK, ms=4)
        axes.set_ylim(bottom=0)
    return plot.svg


def _latency(run: Run, unit: str) -> str:
    plot = Plot()
    width_s = max(BIN_S, run.seconds / BINS)
    with _over_time(plot, unit, "ms") as axes:
        for quiet, name, color in ((False, "all", COLORS[4]), (True, "quiet", COLORS[0])):
            parts = []
            for begin_s in np.arange(run.samples[0]["time_s"], run.samples[-1]["time_s"], width_s):
                found = verdict.latencies(run, begin_s, begin_s + width_s, quiet)
                if len(found) >= 10:
                    parts.append([begin_s + width_s / 2, *np.percentile(found, [50, 99])])
            if parts:
                x, p50, p99 = np.array(parts).T
                axes.plot(x / _scale(unit), p99, color=color, lw=1.3, label=f"p99 {name}")
                if quiet:
                    axes.plot(x / _scale(unit), p50, color=COLORS[2], lw=1.3, label="p50 quiet")
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        axes.set_ylim(low / 2, high * 2)  # so that the axis has numbers
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(lambda x, _: f"{x:g}" if f"{x:g}"[0] in "25" else "")
    return plot.svg


def _counts(run: Run, time: Any, unit: str) -> str:
    plot = Plot()
    names = {"threads": "threads", "descriptors": "descriptors", "shm_files": "shared memory"}
    with _over_time(plot, unit, "") as axes:
        for color, (name, label) in zip(COLORS, names.items(), strict=False):
            axes.plot(time, [s[name] for s in run.samples], color=color, lw=1.2, label=label)
        axes.set_ylim(bottom=0)
    return plot.svg


def _processor(run: Run, time: Any, unit: str) -> str:
    plot = Plot()
    with _over_time(plot, unit, "processors, share") as axes:
        used, at = (np.array([s[n] for s in run.samples]) for n in ("processor_s", "time_s"))
        rate = np.diff(used) / np.maximum(np.diff(at), 0.5)
        axes.plot(time[1:], rate, color=COLORS[0], lw=1, label="used")
        waiting = [s["waiting"] for s in run.samples]
        axes.plot(time, waiting, color=COLORS[1], lw=1, label="waiting")
        axes.set_ylim(bottom=0)
    return plot.svg


def _fates(run: Run, unit: str) -> str:
    totals = {
        name: [sum(one[name] for one in s["accounts"].values()) for s in run.samples]
        for name in (*FATES, LOST)
    }
    return _rates(
        run, {name.partition(" ")[0]: total for name, total in totals.items() if total[-1]}, unit
    )


def _shares(run: Run, time: Any, unit: str) -> str:
    plot = Plot()
    with _over_time(plot, unit, "images labelled") as axes:
        for color, name in zip(COLORS * 9, run.samples[-1]["accounts"], strict=False):
            labelled = [s["accounts"][name]["labelled"] for s in run.samples]
            axes.plot(time, labelled, color=color, lw=1.2, label=name)
    return plot.svg


def _rates(run: Run, totals: dict[str, list[int]], unit: str) -> str:
    """How much is added to each total in a second."""
    plot = Plot()
    step = max(1, len(run.samples) // BINS, 10 if len(run.samples) > 100 else 1)
    with _over_time(plot, unit, "images/s") as axes:
        at_s = np.array([s["time_s"] for s in run.samples])[::step]
        for color, (name, total) in zip(COLORS, totals.items(), strict=False):
            rate = np.diff(total[::step]) / np.maximum(np.diff(at_s), 0.5)
            axes.plot(at_s[1:] / _scale(unit), rate, color=color, lw=1.1, label=name)
    return plot.svg


def _faults(run: Run, unit: str) -> str:
    plot = Plot()
    names = sorted({e["name"] for e in run.events} - {BROKEN}, reverse=True)
    with _over_time(plot, unit, "") as axes:
        for row, name in enumerate(names):
            times = [e["time_s"] / _scale(unit) for e in run.events if e["name"] == name]
            axes.plot(times, [row] * len(times), "|", color=COLORS[0], ms=7)
        for event in run.events:
            if event["name"] == BROKEN:
                axes.axvline(event["time_s"] / _scale(unit), color=COLORS[1], lw=1)
        axes.set_yticks(range(len(names)), names)
        axes.set_xlim(0, run.samples[-1]["time_s"] / _scale(unit))
    return plot.svg


def main() -> int:
    (folder,) = map(Path, sys.argv[1:])
    promises = write_page(folder)
    for promise in promises:
        print(f"{WORDS[promise.kept]:>16}  {promise.name}: {promise.said}")
    print(f"{folder / SUMMARY}, {PAGE}")
    return int(any(promise.kept is False for promise in promises))


if __name__ == "__main__":
    sys.exit(main())
