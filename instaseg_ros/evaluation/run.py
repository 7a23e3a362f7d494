"""The evaluation loop: frames of a dataset through a pipeline, reduced to overlap counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from instaseg_ros.checkpoint import weights_hash
from instaseg_ros.datasets import Dataset, Sample, Sequences, least_pixels
from instaseg_ros.errors import ConfigError
from instaseg_ros.evaluation.metrics.breakdown import touching_percent
from instaseg_ros.evaluation.metrics.coco import CocoFrames
from instaseg_ros.evaluation.metrics.tracking import TrackedFrame, summarize_tracks
from instaseg_ros.evaluation.overlaps import FrameCounts, frame_counts
from instaseg_ros.evaluation.summary import summarize
from instaseg_ros.frames import Frame, Instances, Result
from instaseg_ros.pipeline import Pipeline

Array = NDArray[Any]
Sides = tuple[Array, Array, Array, Instances, Array | None, Array | None]


class Predictor(Protocol):
    """What is evaluated: a Pipeline, or anything else that labels frames."""

    @property
    def class_names(self) -> tuple[str, ...]: ...

    def process(self, frames: Sequence[Frame]) -> list[Result]: ...

    def reset(self) -> None: ...


class ClassMatch(NamedTuple):
    """Classes that dataset and weights have in common, in the dataset's order.

    truth: (classes of the dataset,) and predicted: (classes of the weights,) int64: index into
    `names`, -1 without a counterpart. remarks: for people, what does not correspond.
    """

    names: tuple[str, ...]
    truth: NDArray[np.int64]
    predicted: NDArray[np.int64]
    remarks: tuple[str, ...] = ()


class Seen(NamedTuple):
    """The instances of a frame, kept to be drawn. png: the label image, 16-bit grey; the others as
    in Instances."""

    png: bytes
    ids: NDArray[np.uint16]
    class_ids: NDArray[np.int64]
    scores: NDArray[np.float32]

    @classmethod
    def of(cls, found: Instances) -> Seen:
        """At a hundredth of the memory."""
        png = cv2.imencode(".png", found.labels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
        return cls(png, found.ids, found.class_ids, found.scores)

    @property
    def labels(self) -> NDArray[np.uint16]:
        """(H, W)."""
        image = cv2.imdecode(np.frombuffer(self.png, np.uint8), cv2.IMREAD_UNCHANGED)
        return np.asarray(image, np.uint16)


class Evaluation(NamedTuple):
    """What `evaluate` collects, one entry per frame.

    counts: classes are indices into `classes.names`. touching: percent of touching border of each
    row (groups: 0) and of each column of the counts. stage_ms: as in Result. tracks: the frames by
    sequence, and seen: what was scored; None where nobody asked.
    """

    classes: ClassMatch
    indices: list[int]
    counts: list[FrameCounts]
    touching: list[tuple[NDArray[np.float64], NDArray[np.float64]]]
    stage_ms: list[dict[str, float]]
    coco: CocoFrames | None
    tracks: dict[str, list[TrackedFrame]] | None = None
    seen: list[Seen] | None = None


def match_classes(of_dataset: Sequence[str], of_weights: Sequence[str]) -> ClassMatch:
    """Classes of the same name correspond; so do the only two that there are.

    Raises ConfigError when dataset and weights have nothing in common.
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
            f"the dataset's class '{of_dataset[0]}' is taken for the weights' '{of_weights[0]}': "
            "each has no other"
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
    indices: Sequence[int] | None = None,
    min_pixels: float | None = None,
    coco: bool = False,
    tracking: bool = False,
    keep: bool = False,
) -> Evaluation:
    """Label the frames at `indices` (None: all) and count overlaps with the truth.

    min_pixels: smaller true objects are left out; None: as `least_pixels` of the dataset says.
    coco: keep masks for COCO's AP too. tracking: keep who is who, in a dataset with sequences.
    keep: what was found, for a report. The predictor is reset where a sequence begins.
    Raises ConfigError when no class is common, InputError for a sample that cannot be read.
    """
    classes = match_classes(dataset.class_names, predictor.class_names)
    indices = list(range(len(dataset)) if indices is None else indices)
    found = Evaluation(classes, indices, [], [], [], CocoFrames(classes.names) if coco else None)
    if tracking:
        found = found._replace(tracks={})
    if keep:
        found = found._replace(seen=[])
    sequence = ""
    for index in tqdm(indices, unit="frame", disable=None):
        if isinstance(dataset, Sequences) and dataset.sequence(index) != sequence:
            sequence = dataset.sequence(index)
            predictor.reset()
        sample = dataset[index]
        result = predictor.process([sample.frame])[0]
        instances, size = result.instances, sample.labels.shape
        truth = in_common(classes, sample, instances)
        least = least_pixels(dataset, *size) if min_pixels is None else min_pixels
        counts = frame_counts(*truth, min_pixels=least)
        touching = np.zeros(len(counts.truth_px))
        touching[: len(sample.ids)] = touching_percent(sample.labels, sample.ids)
        found.counts.append(counts)
        found.touching.append((touching, touching_percent(instances.labels, instances.ids)))
        found.stage_ms.append(result.stage_ms)
        if found.coco is not None:
            found.coco.add(*truth)
        if found.seen is not None:
            found.seen.append(Seen.of(instances))
        if found.tracks is not None:
            found.tracks.setdefault(sequence, []).append(_tracked(counts, sample, instances))
    return found


def in_common(classes: ClassMatch, sample: Sample, instances: Instances) -> Sides:
    """Truth and prediction as `frame_counts` takes them, in the common classes; -1: in none."""
    crowd = sample.crowd
    if crowd is not None:
        crowd = np.concatenate([[0], classes.truth + 1]).astype(np.uint8)[crowd]
    return (
        sample.labels,
        sample.ids,
        classes.truth[sample.class_ids],
        dataclasses.replace(instances, class_ids=classes.predicted[instances.class_ids]),
        sample.ignore,
        crowd,
    )


def _tracked(counts: FrameCounts, sample: Sample, instances: Instances) -> TrackedFrame:
    truth_ids = np.zeros(len(counts.truth_px), np.int64)
    truth_ids[: len(sample.ids)] = sample.ids  # groups follow
    return TrackedFrame(counts, truth_ids, instances.ids.astype(np.int64))


def summary_of(found: Evaluation) -> dict[str, Any]:
    """What `summarize` says; if asked for, COCO's numbers under `coco` and what `summarize_tracks`
    says under `tracking`."""
    summary = summarize(found.counts, found.classes.names)
    if found.coco is not None:
        summary["coco"] = found.coco.average_precision()
    if found.tracks is not None:
        summary["tracking"] = summarize_tracks(list(found.tracks.values()), found.classes.names)
    return summary


def numbers(found: Evaluation, summary: dict[str, Any], pipeline: Pipeline) -> dict[str, Any]:
    """The evaluation as JSON has it: what `summarize` says, and what it was measured with.

    ms_per_frame: median of the sum of all stages.
    """
    stages = found.stage_ms[0] if found.stage_ms else {}
    return {
        **summary,
        "images": len(found.counts),
        "ms_per_frame": float(np.median([sum(one.values()) for one in found.stage_ms])),
        "stage_ms": {s: float(np.median([one[s] for one in found.stage_ms])) for s in stages},
        "min_pixels": sorted({frame.min_pixels for frame in found.counts}),
        "remarks": list(found.classes.remarks),
        "weights": pipeline.config.weights,
        "weights_hash": weights_hash(pipeline.checkpoint),
        "config": dataclasses.asdict(pipeline.config),
    }


def spread(frames: int, wanted: int) -> list[int]:
    """At most `wanted` indices, evenly over `frames`."""
    return np.linspace(0, frames, min(frames, wanted), endpoint=False).astype(int).tolist()
