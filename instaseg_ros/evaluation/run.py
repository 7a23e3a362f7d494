"""Runs the frames of a dataset through a pipeline, and reduces the results to overlap counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Protocol, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from instaseg_ros.checkpoint import weights_hash
from instaseg_ros.datasets import Dataset, Sample, Sequences, least_pixels
from instaseg_ros.errors import ConfigError
from instaseg_ros.evaluation.matching import Ranked, rankings
from instaseg_ros.evaluation.metrics.breakdown import ap_by_size, touching_percent
from instaseg_ros.evaluation.metrics.coco import CocoFrames
from instaseg_ros.evaluation.metrics.tracking import TrackedFrame, summarize_tracks
from instaseg_ros.evaluation.overlaps import FrameCounts, frame_counts
from instaseg_ros.evaluation.summary import summarize
from instaseg_ros.frames import Frame, Instances, Result
from instaseg_ros.pipeline import Inferred, Pipeline

Array = NDArray[Any]
Look = Callable[[Sample, Inferred], None]
Each = Callable[[Sample, Result, FrameCounts], None]


class Predictor(Protocol):
    """The object evaluated: a Pipeline, or anything else that labels frames."""

    @property
    def class_names(self) -> tuple[str, ...]: ...

    def process(self, frames: Sequence[Frame]) -> list[Result]: ...

    def reset(self) -> None: ...


class ClassMatch(NamedTuple):
    """Classes that dataset and weights have in common, in the dataset's order.

    truth: (classes of the dataset,) and predicted: (classes of the weights,) int64: index into
    `names`, -1 without a counterpart. remarks: for people, which classes do not correspond.
    """

    names: tuple[str, ...]
    truth: NDArray[np.int64]
    predicted: NDArray[np.int64]
    remarks: tuple[str, ...] = ()


class Seen(NamedTuple):
    """What a report needs of a frame. png: the predicted label image, 16-bit grey; ids, class_ids,
    scores: as in Instances. touching: percentage of touching border of each true object and of each
    prediction."""

    png: bytes
    ids: NDArray[np.uint16]
    class_ids: NDArray[np.int64]
    scores: NDArray[np.float32]
    touching: tuple[NDArray[np.float64], NDArray[np.float64]]

    @classmethod
    def of(cls, found: Instances, sample: Sample) -> Seen:
        """Compress the found instances to a hundredth of the memory."""
        png = cv2.imencode(".png", found.labels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
        truth = touching_percent(sample.labels, sample.ids)
        touching = truth, touching_percent(found.labels, found.ids)
        return cls(png, found.ids, found.class_ids, found.scores, touching)

    @property
    def labels(self) -> NDArray[np.uint16]:
        """(H, W)."""
        image = cv2.imdecode(np.frombuffer(self.png, np.uint8), cv2.IMREAD_UNCHANGED)
        return np.asarray(image, np.uint16)


@dataclasses.dataclass
class Evaluation:
    """Results for the frames of a dataset, one entry per frame.

    min_pixels: smaller true objects are left out; None: as `least_pixels` of the dataset.
    indices: in the dataset. counts: classes are indices into `classes.names`. stage_ms: as in
    Result. Kept unless None: coco: masks for COCO's AP; tracks: the frames by sequence, for
    tracking metrics; seen: what was scored, for a report.
    """

    dataset: Dataset
    classes: ClassMatch
    min_pixels: float | None = None
    coco: CocoFrames | None = None
    tracks: dict[str, list[TrackedFrame]] | None = None
    seen: list[Seen] | None = None
    indices: list[int] = dataclasses.field(default_factory=list)
    counts: list[FrameCounts] = dataclasses.field(default_factory=list)
    stage_ms: list[dict[str, float]] = dataclasses.field(default_factory=list)

    def add(self, index: int, sample: Sample, result: Result) -> FrameCounts:
        """Score the result for the sample at `index`."""
        instances, least = result.instances, self.min_pixels
        if least is None:
            least = least_pixels(self.dataset, *sample.labels.shape)
        predicted = self.classes.predicted[instances.class_ids]
        objects, regions = in_common(self.classes, sample)
        sides = *objects, dataclasses.replace(instances, class_ids=predicted), *regions
        counts = frame_counts(*sides, min_pixels=least)
        self.indices.append(index)
        self.counts.append(counts)
        self.stage_ms.append(result.stage_ms)
        if self.coco is not None:
            self.coco.add(*sides)
        if self.seen is not None:
            self.seen.append(Seen.of(instances, sample))
        if self.tracks is not None:
            frames = self.tracks.setdefault(_sequence(self.dataset, index), [])
            frames.append(tracked_frame(counts, sample, instances))
        return counts

    def join(self, part: Evaluation, first: int) -> None:
        """Add the frames of an evaluation of the same classes that keeps the same, but for `seen`;
        its index 0 is `first` here."""
        self.indices += [first + index for index in part.indices]
        self.counts += part.counts
        self.stage_ms += part.stage_ms
        if self.coco is not None and part.coco is not None:
            self.coco.extend(part.coco)
        if self.tracks is not None:
            for name, frames in (part.tracks or {}).items():
                self.tracks.setdefault(name, []).extend(frames)

    @cached_property
    def ranked(self) -> dict[str, Ranked]:
        """`rankings` of all frames; call it when all are added."""
        return rankings(self.counts, self.classes.names)


def by_number(of_dataset: Sequence[str], of_weights: Sequence[str]) -> ClassMatch:
    """Match classes by index, whatever their names."""
    truth, predicted = (np.arange(len(side)) for side in (of_dataset, of_weights))
    return ClassMatch(tuple(of_weights), truth, predicted)


def match_classes(of_dataset: Sequence[str], of_weights: Sequence[str]) -> ClassMatch:
    """Match classes by name; if both have a single class, these match.

    Raises ConfigError if dataset and weights have nothing in common.
    """
    names = tuple(name for name in of_dataset if name in of_weights)
    if names:
        truth, predicted = (
            np.array([names.index(n) if n in names else -1 for n in side], np.int64)
            for side in (of_dataset, of_weights)
        )
        return ClassMatch(names, truth, predicted, tuple(_remarks(of_dataset, of_weights)))
    if len(of_dataset) == len(of_weights) == 1:
        remark = (
            f"the dataset's class '{of_dataset[0]}' is matched with the weights' "
            f"'{of_weights[0]}': each has no other"
        )
        only = np.zeros(1, np.int64)
        return ClassMatch(tuple(of_dataset), only, only, (remark,))
    raise ConfigError(
        f"no class in common: the dataset has {', '.join(of_dataset)}, the weights know "
        f"{', '.join(of_weights)}; give weights of the dataset's classes (--weights)"
    )


def _remarks(of_dataset: Sequence[str], of_weights: Sequence[str]) -> list[str]:
    unknown = [name for name in of_dataset if name not in of_weights]
    unlabelled = [name for name in of_weights if name not in of_dataset]
    remarks = []
    if unknown:
        remarks.append(f"not evaluated, since the weights do not know them: {', '.join(unknown)}")
    if unlabelled:
        remarks.append(f"not evaluated, since the dataset has none: {', '.join(unlabelled)}")
    return remarks


def evaluate(
    predictor: Predictor,
    dataset: Dataset,
    indices: Iterable[int] | None = None,
    min_pixels: float | None = None,
    coco: bool = False,
    tracking: bool = False,
    keep: bool = False,
) -> Evaluation:
    """Label the frames at `indices` (None: all) and count overlaps with the truth.

    min_pixels: see `Evaluation`. coco, tracking, keep: also keep what COCO's AP, tracking metrics
    and a report need. Raises ConfigError if there is no common class, InputError for a sample that
    cannot be read.
    """
    classes = match_classes(dataset.class_names, predictor.class_names)
    found = begin(dataset, classes, min_pixels, coco, tracking, keep)
    return extend(found, predictor, indices)


def begin(
    dataset: Dataset,
    classes: ClassMatch,
    min_pixels: float | None = None,
    coco: bool = False,
    tracking: bool = False,
    keep: bool = False,
) -> Evaluation:
    """An evaluation without frames; see `evaluate`."""
    return Evaluation(
        dataset,
        classes,
        min_pixels,
        coco=CocoFrames(classes.names) if coco else None,
        tracks={} if tracking else None,
        seen=[] if keep else None,
    )


def extend(
    found: Evaluation,
    predictor: Predictor,
    indices: Iterable[int] | None = None,
    each: Each | None = None,
) -> Evaluation:
    """Label the frames at `indices` (None: all) of the evaluation's dataset, and add them to it.

    The predictor knows the classes that the evaluation has matched. each: called with every sample,
    its result and the counts.
    """
    for index, sample, (result,) in labelled([predictor], found.dataset, indices):
        counts = found.add(index, sample, result)
        if each is not None:
            each(sample, result, counts)
    return found


def labelled(
    predictors: Sequence[Predictor],
    dataset: Dataset,
    indices: Iterable[int] | None = None,
    look: Look | None = None,
) -> Iterator[tuple[int, Sample, list[Result]]]:
    """Yield the frames at `indices` (None: all) with the results of each predictor.

    All predictors are reset first, and at the start of each sequence. look: called with each sample
    and what a Pipeline infers, including the network's outputs.
    """
    current = None
    for index in range(len(dataset)) if indices is None else indices:
        sequence = _sequence(dataset, index)
        if sequence != current:
            current = sequence
            for predictor in predictors:
                predictor.reset()
        sample = dataset[index]
        yield index, sample, [_result(predictor, sample, look) for predictor in predictors]


def _result(predictor: Predictor, sample: Sample, look: Look | None) -> Result:
    if look is None:
        return predictor.process([sample.frame])[0]
    pipeline = cast(Pipeline, predictor)
    inferred = pipeline.infer([sample.frame])
    look(sample, inferred)
    return pipeline.finish(inferred)[0]


def _sequence(dataset: Dataset, index: int) -> str:
    return dataset.sequence(index) if isinstance(dataset, Sequences) else ""


def in_common(
    classes: ClassMatch, sample: Sample
) -> tuple[tuple[Array, Array, Array], tuple[Array | None, Array | None]]:
    """The truth in the common classes (-1: none), as the arguments of metrics before and after the
    prediction: labels, ids and class_ids; ignore and crowd."""
    crowd = sample.crowd
    if crowd is not None:
        crowd = np.concatenate([[0], classes.truth + 1]).astype(np.uint8)[crowd]
    class_ids = classes.truth[sample.class_ids]
    return (sample.labels, sample.ids, class_ids), (sample.ignore, crowd)


def tracked_frame(counts: FrameCounts, sample: Sample, instances: Instances) -> TrackedFrame:
    truth_ids = np.zeros(len(counts.truth_px), np.int64)
    truth_ids[: len(sample.ids)] = sample.ids  # groups follow
    return TrackedFrame(counts, truth_ids, instances.ids.astype(np.int64))


def summary_of(found: Evaluation) -> dict[str, Any]:
    """The result of `summarize`; if kept, COCO's numbers under `coco` and the result of
    `summarize_tracks` under `tracking`."""
    summary = summarize(found.counts, found.ranked)
    if found.coco is not None:
        summary["coco"] = found.coco.average_precision()
    if found.tracks is not None:
        summary["tracking"] = summarize_tracks(list(found.tracks.values()), found.classes.names)
    return summary


def numbers(found: Evaluation, summary: dict[str, Any], pipeline: Pipeline) -> dict[str, Any]:
    """The evaluation for JSON: the result of `summarize`, and how it was measured.

    ms_per_frame: median of the sum of all stages.
    """
    stages = found.stage_ms[0] if found.stage_ms else {}
    total = [sum(one.values()) for one in found.stage_ms]
    return {
        **summary,
        "by_size": [one.facts() for one in ap_by_size(found.counts, found.classes.names)],
        "images": len(found.counts),
        "ms_per_frame": float(np.median(total)),
        **percentiles_ms(total),
        "stage_ms": {s: float(np.median([one[s] for one in found.stage_ms])) for s in stages},
        "min_pixels": sorted({frame.min_pixels for frame in found.counts}),
        "remarks": list(found.classes.remarks),
        "weights": pipeline.config.weights,
        "weights_hash": weights_hash(pipeline.checkpoint),
        "config": dataclasses.asdict(pipeline.config),
    }


def percentiles_ms(values: Sequence[float]) -> dict[str, float | None]:
    """Median and 99th percentile, for JSON; None without values."""
    both = np.percentile(values, [50, 99]).tolist() if values else (None, None)
    return dict(zip(("p50_ms", "p99_ms"), both, strict=True))
