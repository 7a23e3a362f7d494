"""Evaluates recordings one after another, keeps their rows, and sums the numbers up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from instaseg_ros.datasets.recordings import Recordings
from instaseg_ros.evaluation.matching import rankings
from instaseg_ros.evaluation.metrics.breakdown import Bin, ap_by, ap_by_size
from instaseg_ros.evaluation.metrics.tracking import summarize_tracks
from instaseg_ros.evaluation.overlaps import FrameCounts
from instaseg_ros.evaluation.recorded import RecordedPredictor
from instaseg_ros.evaluation.run import (
    ClassMatch,
    Evaluation,
    Predictor,
    begin,
    extend,
    match_classes,
)
from instaseg_ros.evaluation.summary import summarize
from instaseg_ros.fleet.rows import (
    Facts,
    Rows,
    Stored,
    Table,
    frames_of,
    judged,
    sequences_of,
)
from instaseg_ros.fleet.source import Source
from instaseg_ros.frames import Result
from instaseg_ros.recordings.recorded_results import RecordedResults
from instaseg_ros.samples import Sample, remarks

if TYPE_CHECKING:
    from instaseg_ros.fleet.folder import RunFolder

DISTANCE_EDGES = (0.0, 10.0, 20.0, 40.0, 80.0, np.inf)  # metres

Progress = Callable[[int], object]  # called with the number of frames and their total

log = logging.getLogger(__name__)


def no_progress(total: int) -> None:
    """Shows nothing."""


class Live(NamedTuple):
    """What a robot's recording says of its own pace, for JSON.

    frames: those with truth; dropped: those of them without a result. latency_ms: (median, p99) of
    the results, since `latency_from`; None: unknown. diagnosed: counts and latencies that it said
    last; empty: none.
    """

    frames: int
    dropped: int
    latency_ms: tuple[float, float] | None
    latency_from: str
    diagnosed: dict[str, Any]


class Outcome(NamedTuple):
    """Evaluated recordings: their frames in order, facts for JSON by recording, which were done
    before, and the evaluation of the others."""

    classes: ClassMatch
    frames: list[Stored]
    facts: dict[str, dict[str, Any]]
    done_before: list[str]
    found: Evaluation


class Keeping(NamedTuple):
    """What else to keep of the frames; see `evaluate`."""

    min_pixels: float | None = None
    coco: bool = False
    tracking: bool = False


NUMBERS_ONLY = Keeping()


def evaluate_recordings(
    sources: Sequence[Source],
    predictor: Predictor | None,
    folder: RunFolder | None = None,
    keeping: Keeping = NUMBERS_ONLY,
    progress: Progress = no_progress,
) -> Outcome:
    """Evaluate recordings as one dataset.

    predictor: makes the predictions; None: every source has recorded ones. folder: keeps the rows;
    what it has already is not done again, unless more than rows is to be kept. Raises InputError
    and ConfigError as `evaluate` does.
    """
    before: dict[str, dict[str, Any]] = {}
    if folder is not None and not keeping.coco:
        before = folder.done(sources)
    fleet = Fleet([one for one in sources if one.name not in before], *_classes_in(before.values()))
    # A class that appears for the first time is to be judged in every recording.
    stale = [name for name, one in before.items() if _classes_in([one]) != fleet.classes]
    if stale:
        log.info("done again, as another recording has other classes: %s", ", ".join(stale))
        before = {name: one for name, one in before.items() if name not in stale}
        fleet = Fleet([one for one in sources if one.name not in before], *fleet.classes)
    truth_names, said_names = fleet.classes
    names = said_names if predictor is None else predictor.class_names
    classes = match_classes(truth_names, names)
    found = begin(fleet.dataset, classes, *keeping)
    facts, frames = dict(before), {}
    for name in before:
        log.info("%s: done before", name)
        assert folder is not None
        frames[name] = list(frames_of(folder.rows(name), classes.names))
    for source, rows, about in fleet.evaluate(predictor, found, keeping.tracking, progress):
        if folder is not None:
            folder.keep(source, rows, about)
        facts[source.name] = about
        frames[source.name] = list(frames_of(rows, classes.names))
    in_order = [frame for source in sources for frame in frames[source.name]]
    facts = {source.name: facts[source.name] for source in sources}
    return Outcome(classes, in_order, facts, list(before), found)


def _classes_in(facts: Iterable[dict[str, Any]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """All classes of truth, and of recorded results."""
    facts = list(facts)
    truth, said = (
        tuple(sorted({name for one in facts for name in one[key]}))
        for key in ("truth_classes", "said_classes")
    )
    return truth, said


class Fleet:
    """Recordings that are evaluated as one dataset.

    sources: those to do. truth_names, said_names: of other recordings that belong to the
    evaluation, the classes of truth and of recorded results. classes: both of all of them.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        truth_names: Iterable[str] = (),
        said_names: Iterable[str] = (),
    ) -> None:
        self.sources = list(sources)
        opened = [source.open() for source in self.sources]
        for source, one in zip(self.sources, opened, strict=True):
            for remark in remarks(one):
                log.warning("%s: %s", source.name, remark)
        there = {name for one in opened for name in one.class_names} | set(truth_names)
        names = [source.name for source in self.sources]
        self.dataset = Recordings(opened, names, sorted(there))
        self._said = {
            source.name: RecordedResults(source.predictions, source.labels)
            for source in self.sources
            if source.predictions is not None
        }
        for name, said in self._said.items():
            for remark in said.remarks:
                log.warning("%s, predictions: %s", name, remark)

        said_classes = {n for said in self._said.values() for n in said.class_names}
        self.classes = self.dataset.class_names, tuple(sorted(said_classes | set(said_names)))

    def evaluate(
        self,
        pipeline: Predictor | None,
        found: Evaluation,
        tracking: bool = False,
        progress: Progress = no_progress,
    ) -> Iterator[tuple[Source, dict[str, Table], dict[str, Any]]]:
        """Each recording in turn, with its rows and facts about it.

        pipeline: for those without recorded predictions. found: gets their frames; its dataset is
        this one. progress: called after every frame.
        """
        for number, source in enumerate(self.sources):
            said = self._said.get(source.name)
            recorded = None if said is None else RecordedPredictor(said, self.classes[1])
            predictor = recorded or pipeline
            assert predictor is not None
            rows = Rows(source.name, self.dataset.class_names, predictor.class_names, tracking)

            def each(sample: Sample, result: Result, counts: FrameCounts) -> None:
                facts = _facts(recorded, sample.frame.stamp_ns)  # noqa: B023
                rows.add(sample, result, counts, facts)  # noqa: B023
                progress(len(self.dataset))

            extend(found, predictor, self.dataset.frames_of(number), each)
            facts: dict[str, Any] = {
                "recording": str(source.path.resolve()),
                "truth_classes": list(self.dataset.class_names),
                "said_classes": list(self.classes[1]),
                "evaluated_classes": list(found.classes.names),
                "stage_ms": _medians(found.stage_ms[-len(self.dataset.frames_of(number)) :]),
            }
            if recorded is not None:
                if where := recorded.where_dropped():
                    log.warning("%s: %s", source.name, where)
                facts["live"] = _live(recorded, len(self.dataset.frames_of(number)))._asdict()
            yield source, rows.tables(), facts


def _facts(recorded: RecordedPredictor | None, stamp_ns: int) -> Facts:
    if recorded is None:
        return Facts()
    if recorded.dropped and recorded.dropped[-1] == stamp_ns:
        return Facts(dropped=True)
    return Facts(latency_ms=recorded.results.latency_ms.get(stamp_ns))


def _medians(stage_ms: Sequence[dict[str, float]]) -> dict[str, float]:
    """By stage, over frames."""
    return {s: float(np.median([one[s] for one in stage_ms])) for s in stage_ms[0]}


def _live(recorded: RecordedPredictor, frames: int) -> Live:
    results = recorded.results
    latencies = list(results.latency_ms.values())
    both = None
    if latencies:
        both = float(np.percentile(latencies, 50)), float(np.percentile(latencies, 99))
    diagnosed = {} if results.diagnosed is None else results.diagnosed._asdict()
    return Live(frames, len(recorded.dropped), both, results.latency_from, diagnosed)


class Minute(NamedTuple):
    """One minute of a recording; ap, ap50: NaN without objects."""

    recording: str
    minute: int
    frames: int
    dropped: int
    objects: int
    found: int
    wrong: int
    ap: float
    ap50: float


def numbers_of(
    frames: Sequence[Stored], class_names: Sequence[str], tracking: bool
) -> dict[str, Any]:
    """The result of `summarize` over the frames, beside it by_size, by_distance (where there is any
    depth), by_minute, frames, dropped, and with `tracking` the result of `summarize_tracks`."""
    counts = [frame.tracked.counts for frame in frames]
    summary: dict[str, Any] = summarize(counts, rankings(counts, class_names))
    summary["by_size"] = [_bin(one) for one in ap_by_size(counts, class_names)]
    truth, predicted = [f.truth_m for f in frames], [f.predicted_m for f in frames]
    if any(np.isfinite(one).any() for one in (*truth, *predicted)):
        by = ap_by(counts, truth, predicted, DISTANCE_EDGES, class_names)
        while not by[-1].ap.objects and len(by) > 1:  # nothing is that far
            by.pop()
        summary["by_distance"] = [_bin(one) for one in by]
    summary["by_minute"] = [one._asdict() for one in minutes_of(frames, class_names)]
    summary["frames"] = len(frames)
    summary["dropped"] = sum(frame.dropped for frame in frames)
    if tracking:
        summary["tracking"] = summarize_tracks(sequences_of(frames), class_names)
    return summary


def minutes_of(frames: Sequence[Stored], class_names: Sequence[str]) -> list[Minute]:
    """Each minute of each recording, in the frames' order."""
    found = []
    for (recording, minute), group in groupby(frames, key=lambda f: (f.recording, f.minute)):
        own = list(group)
        counts = [frame.tracked.counts for frame in own]
        summary = summarize(counts, rankings(counts, class_names))
        sides = [judged(one) for one in counts]
        found.append(
            Minute(
                recording,
                minute,
                len(own),
                sum(frame.dropped for frame in own),
                sum(int(one.counted.sum()) for one in counts),
                sum(int((truth.verdict == 1).sum()) for truth, _ in sides),
                sum(int((predicted.verdict == 2).sum()) for _, predicted in sides),
                summary["ap"],
                summary["ap50"],
            )
        )
    return found


def _bin(one: Bin) -> dict[str, Any]:
    high = None if one.high == np.inf else one.high
    return {"low": one.low, "high": high, **one.ap._asdict()}
