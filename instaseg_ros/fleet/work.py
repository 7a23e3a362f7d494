"""The work on one recording: opening it, and labelling and counting a range of its frames.

It is the same in this process and on a worker, and what parts give is put together here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from instaseg_ros.checkpoint import Checkpoint
from instaseg_ros.config import Config
from instaseg_ros.datasets.recordings import Recordings
from instaseg_ros.errors import ImageError, InputError
from instaseg_ros.evaluation.overlaps import FrameCounts
from instaseg_ros.evaluation.recorded import RecordedPredictor
from instaseg_ros.evaluation.run import Evaluation, Predictor, begin, extend, match_classes
from instaseg_ros.fleet.rows import Facts, Rows, Table, joined
from instaseg_ros.fleet.source import Source
from instaseg_ros.frames import Result
from instaseg_ros.pipeline import Pipeline
from instaseg_ros.recordings.recorded_results import RecordedResults
from instaseg_ros.samples import Sample, Sequences, remarks

BROKEN = (InputError, ImageError)  # the recording's fault: others may go on


@dataclass(frozen=True)
class Recipe:
    """What a pipeline is made of, for a process that may never make one. config: as `suited` gives
    it for the weights."""

    config: Config
    checkpoint: Checkpoint

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.checkpoint.class_names

    @property
    def remembers(self) -> bool:
        """Whether a frame's result depends on those before it."""
        return self.config.tracking.enabled or self.checkpoint.method().temporal

    def pipeline(self, threads: int = 0) -> Pipeline:
        """threads: of a CPU, unless the configuration says how many."""
        runtime = self.config.runtime
        if threads and not runtime.threads:
            runtime = replace(runtime, threads=threads)
        return Pipeline(replace(self.config, runtime=runtime), self.checkpoint)


class Keeping(NamedTuple):
    """What else to keep of the frames; see `evaluate`."""

    min_pixels: float | None = None
    coco: bool = False
    tracking: bool = False


class Opened(NamedTuple):
    """A recording's frames with truth, and what a robot said of them if that is evaluated. It can
    be sent to another process that finds the files under the same names."""

    frames: Sequences
    said: RecordedResults | None


class Survey(NamedTuple):
    """What must be known of a recording before any is evaluated. first_ns: stamp of its first
    frame. remarks: for people."""

    frames: int
    first_ns: int
    truth_classes: tuple[str, ...]
    said_classes: tuple[str, ...]
    remarks: tuple[str, ...]


class Broken(NamedTuple):
    """A recording that cannot be evaluated. error: what it raised."""

    error: Exception


class Task(NamedTuple):
    """Frames of a recording to evaluate. first_ns: see Survey. truth_classes, said_classes: of all
    recordings of the evaluation, sorted."""

    source: Source
    frames: range
    first_ns: int
    truth_classes: tuple[str, ...]
    said_classes: tuple[str, ...]
    keeping: Keeping


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


class Part(NamedTuple):
    """The result of a task. rows: by kind. stage_ms: of each frame. runtime: with its precision;
    empty for recorded results. outside: how many of the dropped frames lie before the first result
    and after the last one. live: None where results were made now. found: None unless more than
    rows is to be kept."""

    rows: dict[str, Table]
    stage_ms: list[dict[str, float]]
    runtime: str
    live: Live | None
    outside: tuple[int, int]
    found: Evaluation | None


def survey(source: Source) -> tuple[Survey, Opened]:
    """Open a recording. Raises one of BROKEN or OSError if it cannot be evaluated."""
    with source.here() as local:
        frames, said = local.open(), None
        said_of = list(remarks(frames))
        if local.predictions is not None:
            said = RecordedResults(cast(Path, local.predictions), local.labels)
            said_of += [f"predictions: {remark}" for remark in said.remarks]
        first_ns = frames[0].frame.stamp_ns
    names = () if said is None else said.class_names
    about = Survey(len(frames), first_ns, frames.class_names, names, tuple(said_of))
    return about, Opened(frames, said)


def evaluate(
    task: Task,
    opened: Opened,
    pipeline: Predictor | None,
    progress: Callable[[int], object],
) -> Part:
    """Label the task's frames and count.

    pipeline: where nothing was recorded to evaluate. progress: called with the number of frames
    done. Raises one of BROKEN if the recording is to blame, and ConfigError without a common class.
    """
    recorded = None
    if opened.said is not None:
        recorded = RecordedPredictor(opened.said, task.said_classes)
    predictor = recorded or pipeline
    assert predictor is not None
    keeping = task.keeping
    dataset = Recordings([opened.frames], [task.source.name], task.truth_classes)
    classes = match_classes(dataset.class_names, predictor.class_names)
    found = begin(dataset, classes, *keeping)
    rows = Rows(
        task.source.name,
        dataset.class_names,
        predictor.class_names,
        keeping.tracking,
        task.frames.start,
        task.first_ns,
    )

    def each(sample: Sample, result: Result, counts: FrameCounts) -> None:
        rows.add(sample, result, counts, _facts(recorded, sample.frame.stamp_ns))
        progress(len(found.counts))

    with task.source.here():
        extend(found, predictor, task.frames, each)
    kept = replace(found, dataset=opened.frames) if keeping.coco else None
    live, outside = None, (0, 0)
    if recorded is not None:
        live, outside = _live(recorded, len(task.frames)), recorded.outside()
    return Part(rows.tables(), found.stage_ms, _runtime(predictor), live, outside, kept)


def whole(
    task: Task, evaluated: Sequence[str], parts: Sequence[Part]
) -> tuple[dict[str, Table], dict[str, Any]]:
    """A recording's rows, and facts about it for JSON. parts: of all its frames, in order; task:
    any of theirs; evaluated: the classes that were."""
    facts: dict[str, Any] = {
        "recording": task.source.where,
        "truth_classes": list(task.truth_classes),
        "said_classes": list(task.said_classes),
        "evaluated_classes": list(evaluated),
        "stage_ms": _medians([one for part in parts for one in part.stage_ms]),
    }
    if runtimes := {part.runtime for part in parts if part.runtime}:
        facts["runtime"] = ", ".join(sorted(runtimes))
    lives = [part.live for part in parts if part.live is not None]
    if lives:
        frames, dropped = sum(one.frames for one in lives), sum(one.dropped for one in lives)
        facts["live"] = lives[0]._replace(frames=frames, dropped=dropped)._asdict()
    return joined([part.rows for part in parts]), facts


def where_dropped(parts: Sequence[Part]) -> str:
    """In words, how many frames have no result, and how many of them lie outside the time in which
    there are results; empty if none."""
    dropped = sum(part.live.dropped for part in parts if part.live)
    before, after = (sum(part.outside[k] for part in parts) for k in (0, 1))
    if not dropped:
        return ""
    outside = f", {before} of them before the first result and {after} after the last"
    return f"{dropped} frames without a result{outside if before or after else ''}"


def _facts(recorded: RecordedPredictor | None, stamp_ns: int) -> Facts:
    if recorded is None:
        return Facts()
    if recorded.dropped and recorded.dropped[-1] == stamp_ns:
        return Facts(dropped=True)
    return Facts(latency_ms=recorded.results.latency_ms.get(stamp_ns))


def _runtime(predictor: Predictor) -> str:
    """Of a pipeline, with its precision."""
    if not isinstance(predictor, Pipeline):
        return ""
    return f"{predictor.runtime.name} {predictor.runtime.precision}"


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
