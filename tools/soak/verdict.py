"""Judges a soak by what its journal says. Needs no ROS."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from soak.journal import ABOUT, BROKEN, EVENTS, SAMPLES
from soak.ledger import UNACCOUNTED

WARM_UP_SHARE, WARM_UP_S = 1 / 6, 600.0  # of the run, at most; memory is judged after it
GROWTH_MB_PER_HOUR = 1.0
SLOWER = 1.1  # times the first p99
SIXTH, LONGEST_PART_S = 1 / 6, 600.0  # the parts whose p99 are compared
FEWEST = 100  # images in such a part, quiet readings after warm-up: 10
FEWEST_READINGS = 10
CONFIGURING = ("configured anew", "compressed images")  # faults after which memory is another
SETTLE_S = 120.0  # after them
SHORTEST_S = 900.0  # of runs whose memory and latency are judged
THREADS_MORE, FILES_MORE = 3, 8
OVERLOAD_PERIODS = 2.0
FAIR = 0.9  # of the images of the camera with most labels
OVERLOAD_GROWTH_MB = 30.0


class Run(NamedTuple):
    """The journal of a run: ABOUT, and the lines of SAMPLES and EVENTS."""

    about: dict[str, Any]
    samples: list[dict[str, Any]]
    events: list[dict[str, Any]]

    @property
    def seconds(self) -> float:
        """From the first sample to the last."""
        return (
            float(self.samples[-1]["time_s"] - self.samples[0]["time_s"]) if self.samples else 0.0
        )


class Promise(NamedTuple):
    """kept: None if the run was too short to say. said: figures, for people."""

    name: str
    kept: bool | None
    said: str


class Fit(NamedTuple):
    """The slope of readings, for an hour, and the interval that holds it in 95 of 100 cases."""

    per_hour: float
    low: float
    high: float


def load(folder: Path) -> Run:
    """The journal, also of a run that still goes on or was killed."""

    def lines(name: str) -> list[dict[str, Any]]:
        text = (folder / name).read_text()
        whole = text[: text.rfind("\n") + 1]  # the last line may be in the making
        return [json.loads(line) for line in whole.splitlines()]

    return Run(json.loads((folder / ABOUT).read_text()), lines(SAMPLES), lines(EVENTS))


def judge(run: Run) -> list[Promise]:
    """What was promised, and whether it was kept."""
    if run.about["kind"] == "overload":
        own = [_overload_latency(run), _fairness(run), _bounded(run)]
    else:
        own = [
            _latency(run),
            _memory(run),
            _levels(run),
            _flat(run, "threads"),
            _flat(run, "descriptors"),
        ]
        own.append(_flat(run, "shm_files"))
    return [_complete(run), _nothing_broken(run), _accounted(run), *own]


def fit(
    time_s: Sequence[float], values: Sequence[float], groups: Sequence[int] | None = None
) -> Fit | None:
    """The median slope of all pairs (Theil and Sen), which a few odd readings do not move. The
    interval is Sen's, by Kendall's variance. None for fewer than FEWEST_READINGS.

    groups: pairs are of one group each, as the level of groups differs.
    """
    if len(values) < FEWEST_READINGS:
        return None
    x, y = np.asarray(time_s, float), np.asarray(values, float)
    group = np.zeros(len(x)) if groups is None else np.asarray(groups)
    first, second = np.triu_indices(len(x), 1)
    alike = group[first] == group[second]
    first, second = first[alike], second[alike]
    if not len(first):
        return None
    slopes = np.sort((y[second] - y[first]) / (x[second] - x[first]))
    n = np.unique(group, return_counts=True)[1]
    spread = 1.96 * np.sqrt((n * (n - 1) * (2 * n + 5)).sum() / 18)
    low, high = (int(np.clip((len(slopes) + s) / 2, 0, len(slopes) - 1)) for s in (-spread, spread))
    slope = float(np.median(slopes))
    return Fit(slope * 3600, float(slopes[low]) * 3600, float(slopes[high]) * 3600)


def quiet_readings(run: Run, name: str) -> tuple[list[float], list[float]]:
    """Times and the newest reading of each quiet stretch after warm-up."""
    warm_s = min(WARM_UP_S, run.seconds * WARM_UP_SHARE)
    ends = [
        one
        for one, following in zip_longest(run.samples, run.samples[1:])
        if one["quiet"] and not (following and following["quiet"]) and one["time_s"] >= warm_s
    ]
    return [one["time_s"] for one in ends], [one[name] for one in ends]


def latencies(run: Run, begin_s: float, end_s: float, quiet: bool) -> NDArray[np.float64]:
    """Milliseconds from the stamp until labels came, of all cameras."""
    found = [
        ms
        for sample in run.samples
        if begin_s <= sample["time_s"] < end_s and sample["quiet"] >= quiet
        for times in sample["latency_ms"].values()
        for ms in times
    ]
    return np.array(found, float)


def _complete(run: Run) -> Promise:
    whole = run.about["complete"]
    said = f"{run.seconds:.0f} s of {run.about['seconds']:.0f} s"
    return Promise("The run ends as planned", whole or None, said)


def _nothing_broken(run: Run) -> Promise:
    broken = [event for event in run.events if event["name"] == BROKEN]
    said = (
        f"{len(broken)}, the first: {broken[0]['what']}" if broken else "none in checks as it ran"
    )
    return Promise("No check fails", not broken, said)


def _accounted(run: Run) -> Promise:
    accounts = run.samples[-1]["accounts"].values() if run.samples else ()
    exact, calls = (sum(one[name] for one in accounts) for name in ("exact", "roll_calls"))
    received = sum(one["received"] for one in accounts)
    broken = any(e["what"].startswith(UNACCOUNTED) for e in run.events if e["name"] == BROKEN)
    kept = not broken if calls else None
    said = f"{received} images, {calls} roll calls of a camera, {exact} of them exact"
    return Promise("Every image is accounted for", kept, said)


def _latency(run: Run) -> Promise:
    part_s = min(LONGEST_PART_S, run.seconds * SIXTH)
    begin_s = run.samples[0]["time_s"] if run.samples else 0.0
    parts = [
        latencies(run, begin_s, begin_s + part_s, quiet=True),
        latencies(run, begin_s + run.seconds - part_s, float("inf"), quiet=True),
    ]
    length = f"{part_s / 60:.0f} min" if part_s >= 60 else f"{part_s:.0f} s"
    name = f"p99 of the last {length} within a tenth of the first"
    if min(map(len, parts)) < FEWEST:
        return Promise(name, None, "too few images")
    first, last = (float(np.percentile(part, 99)) for part in parts)
    kept = last <= SLOWER * first if run.seconds >= SHORTEST_S else None
    return Promise(name, kept, f"{last:.1f} ms, first {first:.1f} ms ({last / first - 1:+.0%})")


def growth(run: Run) -> Fit | None:
    """Of memory while the node stays configured: how much it takes for a configuration differs by
    some MB each time. The first SETTLE_S of each are left out."""
    at_s = [event["time_s"] for event in run.events if event["name"] in CONFIGURING]
    begun_s = np.array([-SETTLE_S, *at_s])
    kept = []
    for time_s, value in zip(*quiet_readings(run, "own_mb"), strict=True):
        number = int(np.searchsorted(begun_s, time_s, "right")) - 1
        if time_s >= begun_s[number] + SETTLE_S:
            kept.append((time_s, value, number))
    return fit(*map(list, zip(*kept, strict=True))) if kept else None


def _levels(run: Run) -> Promise:
    """Whether memory of each configuration is given back."""
    name = f"Configuring anew costs less than {GROWTH_MB_PER_HOUR:g} MB each time"
    at_s = [event["time_s"] for event in run.events if event["name"] in CONFIGURING]
    time_s, values = quiet_readings(run, "own_mb")
    number = np.searchsorted(at_s, time_s, "right")
    levels = [float(np.median(np.array(values)[number == n])) for n in np.unique(number)]
    line = fit(np.arange(len(levels)).tolist(), levels)
    if line is None:
        return Promise(name, None, f"only {len(levels)} configurations")
    slope, low = line.per_hour / 3600, line.low / 3600
    said = (
        f"{slope:+.2f} MB, {len(levels)} configurations, {min(levels):.0f} to {max(levels):.0f} MB"
    )
    return Promise(name, slope < GROWTH_MB_PER_HOUR or low <= 0, said)


def _memory(run: Run) -> Promise:
    name = f"Memory grows less than {GROWTH_MB_PER_HOUR:g} MB an hour"
    line = growth(run)
    if line is None:
        return Promise(name, None, "too few readings")
    said = f"{line.per_hour:+.2f} MB an hour (95%: {line.low:+.2f} to {line.high:+.2f})"
    kept = line.per_hour < GROWTH_MB_PER_HOUR or line.low <= 0
    return Promise(name, kept if run.seconds >= SHORTEST_S else None, said)


def _flat(run: Run, name: str) -> Promise:
    """Counts may differ for a moment, but not drift: the last third is no higher than the first."""
    _, values = quiet_readings(run, name)
    titles = {
        "threads": "Threads",
        "descriptors": "File descriptors",
        "shm_files": "Shared-memory files",
    }
    title = f"{titles[name]} do not pile up"
    if len(values) < 6:
        return Promise(title, None, "too few readings")
    third = len(values) // 3
    first, last = (float(np.median(part)) for part in (values[:third], values[-third:]))
    allowed = THREADS_MORE if name == "threads" else FILES_MORE
    said = f"median {first:.0f}, then {last:.0f}; most {max(values)}"
    return Promise(title, last <= first + allowed, said)


def _overload_latency(run: Run) -> Promise:
    limit_ms = OVERLOAD_PERIODS * 1e3 / run.about["rate_hz"]
    found = latencies(run, run.seconds * SIXTH, float("inf"), quiet=True)
    name = f"Latency at most {OVERLOAD_PERIODS:g} periods, {limit_ms:.0f} ms"
    if len(found) < FEWEST:
        return Promise(name, None, "too few images")
    p50, p99 = np.percentile(found, [50, 99]).tolist()
    return Promise(name, p99 <= limit_ms, f"p50 {p50:.0f} ms, p99 {p99:.0f} ms")


def _fairness(run: Run) -> Promise:
    accounts = run.samples[-1]["accounts"].values() if run.samples else ()
    labelled = [one["labelled"] for one in accounts] or [0]
    most = max(labelled)
    said = f"{min(labelled)} to {most} labelled of a camera"
    return Promise(
        "Cameras get the same share", min(labelled) >= FAIR * most if most else None, said
    )


def _bounded(run: Run) -> Promise:
    resident = [one["rss_mb"] for one in run.samples if one["quiet"]]
    third = len(resident) // 3
    if not third:
        return Promise("Memory is bounded", None, "too few readings")
    first, last = max(resident[:third]), max(resident[-third:])
    said = f"at most {first:.0f} MB in the first third, {last:.0f} MB in the last"
    return Promise("Memory is bounded", last - first < OVERLOAD_GROWTH_MB, said)
