"""Evaluates recordings, keeps their rows, and sums the numbers up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate, groupby
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from instaseg_ros.datasets.recordings import Recordings
from instaseg_ros.errors import InputError
from instaseg_ros.evaluation.matching import rankings
from instaseg_ros.evaluation.metrics.breakdown import ap_by, ap_by_size
from instaseg_ros.evaluation.metrics.tracking import summarize_tracks
from instaseg_ros.evaluation.run import (
    ClassMatch,
    Evaluation,
    Predictor,
    begin,
    match_classes,
)
from instaseg_ros.evaluation.summary import summarize
from instaseg_ros.fleet.rows import Stored, Table, frames_of, judged, sequences_of
from instaseg_ros.fleet.schedule import pieces
from instaseg_ros.fleet.source import Source
from instaseg_ros.fleet.work import (
    BROKEN,
    Broken,
    Keeping,
    Opened,
    Part,
    Survey,
    Task,
    evaluate,
    survey,
    where_dropped,
    whole,
)

if TYPE_CHECKING:
    from instaseg_ros.fleet.folder import RunFolder

DISTANCE_EDGES = (0.0, 10.0, 20.0, 40.0, 80.0, np.inf)  # metres

Progress = Callable[[int, int], object]  # called with the number of frames done, and of all

log = logging.getLogger(__name__)


def no_progress(done: int, total: int) -> None:
    """Shows nothing."""


class Outcome(NamedTuple):
    """Evaluated recordings: their frames in order, facts for JSON by recording, which were done
    before, and why others could not be evaluated.

    new: number of frames that were evaluated now. found: their evaluation, without frames unless
    more than rows is kept."""

    classes: ClassMatch
    frames: list[Stored]
    facts: dict[str, dict[str, Any]]
    done_before: list[str]
    broken: dict[str, Exception]
    new: int
    found: Evaluation


NUMBERS_ONLY = Keeping()


class Crew(Protocol):
    """Whoever opens and evaluates recordings. workers: how many at once. may_cut: whether a
    recording may be evaluated in parts."""

    workers: int
    may_cut: bool

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Of the results that it makes; None: they were recorded."""
        ...

    def survey(self, sources: Sequence[Source]) -> Iterator[tuple[Survey, Any] | Broken]:
        """What is known of each, and whatever `evaluate` and `opened` need of it again."""
        ...

    def evaluate(
        self, tasks: Sequence[Task], opened: Sequence[Any], progress: Callable[[int], object]
    ) -> Iterator[tuple[int, Part | Broken]]:
        """The number and the result of every task, in any order; those of a recording that is
        broken may be left out. progress: called with the number of frames done."""
        ...

    def opened(self, one: Any) -> Opened:
        """What `survey` has opened, in this process."""
        ...


class Alone:
    """This process, with one pipeline; None: the results were recorded."""

    workers, may_cut = 1, False

    def __init__(self, predictor: Predictor | None) -> None:
        self._predictor = predictor

    @property
    def class_names(self) -> tuple[str, ...] | None:
        return None if self._predictor is None else self._predictor.class_names

    def survey(self, sources: Sequence[Source]) -> Iterator[tuple[Survey, Opened] | Broken]:
        for source in sources:
            try:
                yield survey(source)
            except (*BROKEN, OSError) as error:
                yield Broken(error)

    def evaluate(
        self, tasks: Sequence[Task], opened: Sequence[Opened], progress: Callable[[int], object]
    ) -> Iterator[tuple[int, Part | Broken]]:
        starts = accumulate((len(task.frames) for task in tasks), initial=0)
        for number, (task, one) in enumerate(zip(tasks, opened, strict=True)):
            show = partial(_from, next(starts), progress)
            try:
                yield number, evaluate(task, one, self._predictor, show)
            except BROKEN as error:
                yield number, Broken(error)

    def opened(self, one: Opened) -> Opened:
        return one


def _from(first: int, progress: Callable[[int], object], done: int) -> None:
    progress(first + done)


def evaluate_recordings(
    sources: Sequence[Source],
    crew: Crew,
    folder: RunFolder | None = None,
    keeping: Keeping = NUMBERS_ONLY,
    progress: Progress = no_progress,
) -> Outcome:
    """Evaluate recordings as one dataset.

    folder: keeps the rows; what it has already is not done again, unless more than rows is to be
    kept. A recording that is broken is left out. Raises InputError if all are, and ConfigError as
    `evaluate` does.
    """
    before: dict[str, dict[str, Any]] = {}
    if folder is not None and not keeping.coco:
        before = folder.done(sources)
    fleet = Fleet(crew, keeping)
    fleet.survey([one for one in sources if one.name not in before])
    names = fleet.names(before.values())
    # A class that appears for the first time is to be judged in every recording.
    stale = [
        name
        for name, one in before.items()
        if (*one["truth_classes"],) != names[0] or (*one["said_classes"],) != names[1]
    ]
    if stale:
        log.info("done again, as another recording has other classes: %s", ", ".join(stale))
        before = {name: one for name, one in before.items() if name not in stale}
        fleet.survey([one for one in sources if one.name in stale])
    _require_any([*before, *fleet.sources], fleet.broken)
    classes = match_classes(names[0], crew.class_names or names[1])
    facts, frames = dict(before), {}
    for name in before:
        log.info("%s: done before", name)
        assert folder is not None
        frames[name] = list(frames_of(folder.rows(name), classes.names))
    new = 0
    for source, rows, about in fleet.evaluate(names, classes, progress):
        if folder is not None:
            folder.keep(source, rows, about)
        facts[source.name] = about
        frames[source.name] = list(frames_of(rows, classes.names))
        new += len(frames[source.name])
    _require_any(frames, fleet.broken)
    in_order = [frame for source in sources for frame in frames.get(source.name, ())]
    facts = {source.name: facts[source.name] for source in sources if source.name in facts}
    broken = {s.name: fleet.broken[s.name] for s in sources if s.name in fleet.broken}
    found = fleet.found([one for one in sources if one.name in facts], names, classes)
    return Outcome(classes, in_order, facts, list(before), broken, new, found)


def _require_any(names: Collection[str], broken: Mapping[str, Exception]) -> None:
    """Raise what broke the recordings if none is left."""
    if names:
        return
    errors = list(broken.values())
    if len(errors) == 1:
        raise errors[0]
    raise InputError("no recording can be evaluated:" + "".join(f"\n{one}" for one in errors))


class Fleet:
    """The recordings that are evaluated now. sources: those that are; broken: what the others have
    raised. Both by name."""

    def __init__(self, crew: Crew, keeping: Keeping) -> None:
        self._crew, self._keeping = crew, keeping
        self.sources: dict[str, Source] = {}
        self.broken: dict[str, Exception] = {}
        self._surveys: dict[str, tuple[Survey, Any]] = {}
        self._found: dict[str, list[Evaluation]] = {}

    def survey(self, sources: Sequence[Source]) -> None:
        """Open these as well."""
        for source, found in zip(sources, self._crew.survey(sources), strict=True):
            if isinstance(found, Broken):
                self._break(source.name, found.error)
                continue
            self.sources[source.name], self._surveys[source.name] = source, found
            for remark in found[0].remarks:
                log.warning("%s: %s", source.name, remark)

    def names(self, facts: Iterable[dict[str, Any]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """All classes of truth, and of recorded results. facts: of recordings done before."""
        facts, surveys = list(facts), [one for one, _ in self._surveys.values()]
        truth = {name for one in facts for name in one["truth_classes"]}
        said = {name for one in facts for name in one["said_classes"]}
        truth |= {name for one in surveys for name in one.truth_classes}
        said |= {name for one in surveys for name in one.said_classes}
        return tuple(sorted(truth)), tuple(sorted(said))

    def evaluate(
        self,
        names: tuple[tuple[str, ...], tuple[str, ...]],
        classes: ClassMatch,
        progress: Progress,
    ) -> Iterator[tuple[Source, dict[str, Table], dict[str, Any]]]:
        """Each recording, as soon as all of it is done, with its rows and facts about it. names: of
        all classes; classes: those that are evaluated."""
        sources = list(self.sources.values())
        surveys = [self._surveys[one.name][0] for one in sources]
        lengths = [one.frames for one in surveys]
        plan = pieces(lengths, self._crew.workers, self._crew.may_cut)
        if self._crew.workers == 1:
            plan.sort(key=lambda one: one.recording)  # as they were given
        tasks = [
            Task(sources[k], frames, surveys[k].first_ns, *names, self._keeping)
            for k, frames in plan
        ]
        opened = [self._surveys[task.source.name][1] for task in tasks]
        waiting: dict[str, dict[int, Part | None]] = {one.name: {} for one in sources}
        for number, task in enumerate(tasks):
            waiting[task.source.name][number] = None

        def show(done: int) -> None:
            progress(done, sum(lengths))

        for number, part in self._crew.evaluate(tasks, opened, show):
            task = tasks[number]
            name = task.source.name
            if isinstance(part, Broken):
                self._break(name, part.error)
                waiting[name].clear()  # the memory of its other parts
            if isinstance(part, Broken) or name in self.broken:
                continue
            waiting[name][number] = part
            parts = [one for one in waiting[name].values() if one is not None]
            if len(parts) < len(waiting[name]):
                continue
            waiting[name].clear()
            self._found[name] = [part.found for part in parts if part.found is not None]
            if where := where_dropped(parts):
                log.warning("%s: %s", name, where)
            yield task.source, *whole(task, classes.names, parts)

    def found(
        self,
        sources: Sequence[Source],
        names: tuple[tuple[str, ...], tuple[str, ...]],
        classes: ClassMatch,
    ) -> Evaluation:
        """What is kept besides rows of these, as one evaluation."""
        keeping = self._keeping
        kept = sources if keeping.coco else []
        opened = [self._crew.opened(self._surveys[one.name][1]).frames for one in kept]
        dataset = Recordings(opened, [one.name for one in kept], names[0])
        found = begin(dataset, classes, *keeping)
        for number, source in enumerate(kept):
            for part in self._found[source.name]:
                found.join(part, dataset.frames_of(number).start)
        return found

    def _break(self, name: str, error: Exception) -> None:
        if name not in self.broken:
            log.warning("%s: not evaluated: %s", name, error)
            self.broken[name] = error
            self.sources.pop(name, None)


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
    summary["by_size"] = [one.facts() for one in ap_by_size(counts, class_names)]
    truth, predicted = [f.truth_m for f in frames], [f.predicted_m for f in frames]
    if any(np.isfinite(one).any() for one in (*truth, *predicted)):
        by = ap_by(counts, truth, predicted, DISTANCE_EDGES, class_names)
        while not by[-1].ap.objects and len(by) > 1:  # nothing is that far
            by.pop()
        summary["by_distance"] = [one.facts() for one in by]
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
