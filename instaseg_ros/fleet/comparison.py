"""Compares two runs by their rows, with intervals that tell progress from noise."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.errors import ConfigError, InputError
from instaseg_ros.evaluation.matching import Ranked, rankings
from instaseg_ros.evaluation.metrics.average_precision import class_ap
from instaseg_ros.evaluation.metrics.panoptic import PanopticCounts, panoptic_counts, quality_of
from instaseg_ros.evaluation.metrics.tracking import mean_score, score_of, sequence_counts
from instaseg_ros.fleet.folder import files_in
from instaseg_ros.fleet.parquet import read_facts, read_rows
from instaseg_ros.fleet.rows import SECOND_NS, Stored, frames_of, sequences_of

RESAMPLES, SEED = 500, 0
COVERED = (2.5, 97.5)  # percent: the interval has 95 %
BLOCKS_S = (60, 10, 1)  # seconds; the longest of which there are enough
ENOUGH_BLOCKS, ENOUGH_RECORDINGS = 10, 5
METRICS = {  # key: title, whether more is better
    "ap": ("AP", True),
    "ap50": ("AP50", True),
    "pq": ("PQ", True),
    "recall": ("recall", True),
    "precision": ("precision", True),
    "dropped": ("dropped", False),
    "p50_ms": ("ms, p50", False),
    "p99_ms": ("ms, p99", False),
}
TRACKED = {  # fields of TrackScore
    "hota": ("HOTA", True),
    "idf1": ("IDF1", True),
    "motsa": ("MOTSA", True),
    "id_switches": ("id switches", False),
}

Times = NDArray[np.int64]  # (N,) how often each of N things counts
Numbers = dict[str, float]


class Run(NamedTuple):
    """A run as its folder has it. classes: those that were evaluated. settings: with which, of
    JSON. files: of rows, by recording."""

    frames: list[Stored]
    classes: tuple[str, ...]
    settings: dict[str, Any]
    files: dict[str, Path]


def read_run(path: Path, classes: Sequence[str] | None = None) -> Run:
    """Read the rows of a run. classes: only these; None: all that were evaluated. Raises InputError
    for what is no run."""
    files = {file.stem: file for file in files_in(path)}
    facts = {name: read_facts(file) for name, file in files.items()}
    if classes is None:
        classes = sorted({c for one in facts.values() for c in one.get("evaluated_classes", ())})
    frames = [one for file in files.values() for one in frames_of(read_rows(file), classes)]
    return Run(frames, tuple(classes), next(iter(facts.values())).get("settings", {}), files)


class Paired(NamedTuple):
    """The frames that both runs have, of one recording name and stamp, in order. remarks: for
    people, on what is not compared."""

    frames: tuple[list[Stored], list[Stored]]
    classes: tuple[str, ...]
    tracking: bool
    remarks: list[str]


def paired(runs: tuple[Path, Path]) -> tuple[tuple[Run, Run], Paired]:
    """Read both runs. Raises InputError if they have no frame in common, ConfigError for no
    class."""
    a, b = read_run(runs[0]), read_run(runs[1])
    classes = [name for name in a.classes if name in b.classes]
    if not classes:
        raise ConfigError(
            f"compare: expected runs with a class in common, {runs[0]} has "
            f"{', '.join(a.classes) or 'none'}, {runs[1]} {', '.join(b.classes) or 'none'}"
        )
    remarks = []
    if apart := sorted(set(a.classes) ^ set(b.classes)):
        remarks.append(f"classes of one run only are not compared: {', '.join(apart)}")
        a, b = (read_run(run, classes) for run in runs)
    theirs = {(one.recording, one.stamp_ns): one for one in b.frames}
    both = [(one, theirs[key]) for one in a.frames if (key := one[:2]) in theirs]
    if not both:
        raise InputError(
            f"compare: expected frames of one recording name and stamp in both runs, {runs[0]} has "
            f"{_names(a)}, {runs[1]} {_names(b)}"
        )
    for run, path in ((a, runs[0]), (b, runs[1])):
        if alone := len(run.frames) - len(both):
            remarks.append(f"{alone} frames of {path} are not in the other run")
    if differ := sum(not _same_truth(*pair) for pair in both):
        remarks.append(f"the truth of {differ} frames is not the same in both runs")
    frames = [pair[0] for pair in both], [pair[1] for pair in both]
    tracking = all(run.settings.get("with_tracking") for run in (a, b))
    return (a, b), Paired(frames, tuple(classes), tracking, remarks)


def _names(run: Run) -> str:
    return ", ".join(list(run.files)[:5])


def _same_truth(one: Stored, other: Stored) -> bool:
    ours, theirs = one.tracked, other.tracked
    sides = (ours.truth_ids, theirs.truth_ids), (ours.counts.truth_px, theirs.counts.truth_px)
    classes = ours.counts.truth_class, theirs.counts.truth_class
    return all(np.array_equal(*side) for side in (*sides, classes))


class Measured:
    """The numbers of N frames, in which each frame or recording may count several times."""

    def __init__(self, frames: Sequence[Stored], classes: Sequence[str], tracking: bool) -> None:
        counts = [frame.tracked.counts for frame in frames]
        self._ranked = [_by_score(one) for one in rankings(counts, classes).values()]
        self._panoptic = np.array(
            [[panoptic_counts(one, c) for c in range(len(classes))] for one in counts]
        )  # (N, classes, 4)
        ms = [one.ms if one.latency_ms is None else one.latency_ms for one in frames]
        self._ms = np.array([np.nan if one is None else one for one in ms])
        self._dropped = np.array([one.dropped for one in frames])
        sequences = sequences_of(frames) if tracking else []
        self._tracks = [[sequence_counts(s, c) for s in sequences] for c in range(len(classes))]

    def numbers(self, times: Times) -> Numbers:
        """METRICS of frames, each `times` (N,); NaN: unknown."""
        there = [one for one in self._ranked if one.objects @ times]
        ap = np.array([class_ap(one, times) for one in there])
        sums = [PanopticCounts(*one) for one in np.tensordot(times, self._panoptic, 1).tolist()]
        pq = np.array([quality_of(one).pq for one in sums])
        right, wrong, missed = (sum(one[k] for one in sums) for k in (1, 2, 3))
        ms = np.repeat(self._ms, times)
        p50, p99 = np.percentile(ms[~np.isnan(ms)], [50, 99]) if (ms == ms).any() else [np.nan] * 2
        return {
            "ap": float(ap.mean(1).mean()) if len(ap) else np.nan,
            "ap50": float(ap[:, 0].mean()) if len(ap) else np.nan,
            "pq": float(np.nanmean(pq)) if (pq == pq).any() else np.nan,
            "recall": right / (right + missed) if right + missed else np.nan,
            "precision": right / (right + wrong) if right + wrong else np.nan,
            "dropped": float(self._dropped @ times),
            "p50_ms": float(p50),
            "p99_ms": float(p99),
        }

    def tracks(self, times: Times) -> Numbers:
        """TRACKED of recordings, each `times`."""
        drawn = np.repeat(np.arange(len(times)), times)
        scores = mean_score([score_of([own[k] for k in drawn]) for own in self._tracks])
        return {key: float(scores[key]) for key in TRACKED}


def _by_score(ranked: Ranked) -> Ranked:
    """In order of scores, which is sorted again in no time."""
    order = np.argsort(ranked.scores, kind="stable")
    return Ranked(
        ranked.iou[order],
        ranked.excused[order],
        ranked.scores[order],
        ranked.frame[order],
        ranked.objects,
    )


class Change(NamedTuple):
    """A number of both runs, and the second minus the first. interval: 95 % of the differences of
    resamples; None: unknown. verdict: `better` or `worse` (all of the interval), `same`, `noise`,
    or `unknown`."""

    key: str
    title: str
    a: float
    b: float
    interval: tuple[float, float] | None
    verdict: str

    @property
    def difference(self) -> float:
        return self.b - self.a


class Comparison(NamedTuple):
    """resampled: in words, what was drawn for the intervals."""

    changes: list[Change]
    resampled: str


def compare(both: Paired, progress: Callable[[], object] = lambda: None) -> Comparison:
    """The numbers of both runs with bootstrap intervals (Efron 1979) of their differences: blocks
    of time, since neighbouring frames are alike, are drawn with replacement, the same for both
    runs; for numbers of tracks whole recordings, through which ids last. Seeded. progress: called
    after each resample."""
    a, b = (Measured(own, both.classes, both.tracking) for own in both.frames)
    block, said = blocks_of(both.frames[0])
    changes = _changes(METRICS, a.numbers, b.numbers, block, progress)
    if both.tracking:
        names = [frame.recording for frame in both.frames[0]]
        recordings = np.arange(len(set(names)))
        enough = len(recordings) >= ENOUGH_RECORDINGS
        nothing = np.zeros(0, np.int64)  # too few to draw from
        drawn = recordings if enough else nothing
        changes += _changes(TRACKED, a.tracks, b.tracks, drawn, progress, len(recordings))
        said += (
            f"; for tracks, of {len(recordings)} recordings"
            if enough
            else f"; none for tracks, which take at least {ENOUGH_RECORDINGS} recordings"
        )
    return Comparison(changes, f"{RESAMPLES} resamples of {said}, seed {SEED}")


def blocks_of(frames: Sequence[Stored]) -> tuple[NDArray[np.int64], str]:
    """The block (N,) of each frame, numbered from 0, and in words what they are."""
    first: dict[str, int] = {}
    for one in frames:
        first.setdefault(one.recording, one.stamp_ns)
    for seconds in BLOCKS_S:
        number: dict[tuple[str, int], int] = {}
        blocks = []
        for one in frames:
            since_ns = one.stamp_ns - first[one.recording]
            key = one.recording, since_ns // (seconds * SECOND_NS)
            blocks.append(number.setdefault(key, len(number)))
        if len(number) >= ENOUGH_BLOCKS:
            caution = " (short drives: intervals may be too narrow)" if seconds < 10 else ""
            return np.array(blocks), f"{len(number)} blocks of up to {seconds} s{caution}"
    caution = "short drives: intervals are too narrow, as neighbouring frames are alike"
    return np.arange(len(frames)), f"{len(frames)} frames ({caution})"


def _changes(
    metrics: Mapping[str, tuple[str, bool]],
    a: Callable[[Times], Numbers],
    b: Callable[[Times], Numbers],
    block: NDArray[np.int64],
    progress: Callable[[], object],
    count: int | None = None,
) -> list[Change]:
    """block: (N,) of each thing; empty, with the `count` of things: no intervals."""
    once = np.ones(len(block) if count is None else count, np.int64)
    ours, theirs = a(once), b(once)
    drawn: dict[str, list[float]] = {key: [] for key in metrics}
    random, blocks = np.random.default_rng(SEED), int(block.max(initial=-1)) + 1
    for _ in range(RESAMPLES if blocks else 0):
        times = np.bincount(random.integers(blocks, size=blocks), minlength=blocks)[block]
        for key, after in b(times).items():
            drawn[key].append(after)
        for key, before in a(times).items():
            drawn[key][-1] -= before
        progress()
    changes = []
    for key, (title, more_is_better) in metrics.items():
        known = [one for one in drawn[key] if one == one]
        low, high = np.percentile(known, COVERED).tolist() if known else (np.nan, np.nan)
        interval = (low, high) if known else None
        verdict = _verdict(interval, more_is_better)
        changes.append(Change(key, title, ours[key], theirs[key], interval, verdict))
    return changes


def _verdict(interval: tuple[float, float] | None, more_is_better: bool) -> str:
    if interval is None:
        return "unknown"
    low, high = interval
    if low == high == 0:
        return "same"
    if low <= 0 <= high:
        return "noise"
    return "better" if (low > 0) == more_is_better else "worse"


def settings_apart(a: Run, b: Run) -> dict[str, tuple[str, str]]:
    """The settings in which the runs differ, by name, as text."""
    flat = [_flat(run.settings) for run in (a, b)]
    keys = sorted({*flat[0], *flat[1]})
    both = {key: (flat[0].get(key, "-"), flat[1].get(key, "-")) for key in keys}
    return {key: pair for key, pair in both.items() if pair[0] != pair[1]}


def _flat(settings: Any, name: str = "") -> dict[str, str]:
    if not isinstance(settings, dict):
        return {name: settings if isinstance(settings, str) else json.dumps(settings)}
    found: dict[str, str] = {}
    for key, value in settings.items():
        found |= _flat(value, f"{name}.{key}" if name else str(key))
    return found
