"""Finds hard frames without truth: where a network disagrees with its mirror image, with its
neighbours in time, or with other weights."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from instaseg_ros.errors import ConfigError
from instaseg_ros.evaluation.matching import iou, judge
from instaseg_ros.evaluation.overlaps import frame_counts, of_class
from instaseg_ros.evaluation.run import ClassMatch, match_classes
from instaseg_ros.frames import Frame, Instances, Result
from instaseg_ros.pipeline import Pipeline
from instaseg_ros.recordings.sinks import Sink

MIRROR, TIME, WEIGHTS = "mirror", "time", "weights"
FLOW_WIDTH = 512  # pixels at which motion is measured
MOST_GAP_NS = 500_000_000  # between neighbours in time


class Doubt(NamedTuple):
    """How much the network disagrees about a frame, each in [0, 1] as of `disagreement`; None where
    there was nothing to compare.

    number: of the frame in its recording, from 0. time: the mean of both neighbours.
    """

    number: int
    stamp_ns: int
    frame_id: str
    mirror: float | None = None
    time: float | None = None
    weights: float | None = None

    @property
    def disagreement(self) -> float:
        """The mean of those that are known, 0 if none is."""
        known = [one for one in (self.mirror, self.time, self.weights) if one is not None]
        return float(np.mean(known)) if known else 0.0


def disagreement(
    one: Instances, other: Instances, ignore: NDArray[np.bool_] | None = None
) -> float:
    """1 minus the panoptic quality of one result measured by another, all classes together: matches
    are of one class and an IoU above 0.5. 0 if neither has an object. Symmetric without `ignore`.

    ignore: (H, W) bool, pixels where nothing is compared. A class_id of -1 is left out.
    """
    counts = frame_counts(one.labels, one.ids, one.class_ids, other, ignore, min_pixels=1)
    agreed, objects = 0.0, 0
    for class_id in np.union1d(one.class_ids, other.class_ids).tolist():
        if class_id < 0:
            continue
        own = of_class(counts, class_id)
        judged = judge(own, iou(own._replace(predicted_px=own.predicted_px - own.ignored_px)))
        agreed += float(judged.iou[judged.match].sum())
        objects += len(own.truth_px) + int(judged.counted.sum())
    return 1 - 2 * agreed / objects if objects else 0.0


@dataclass
class Doubts:
    """Labels frames in order, as a `Pipeline` does, and keeps how sure each is.

    by: of MIRROR, TIME and WEIGHTS. against: the other weights, for WEIGHTS. `rows` has those that
    could be labelled, in order. Raises ConfigError for a comparison that says nothing.
    """

    pipeline: Pipeline
    by: Collection[str]
    against: Pipeline | None = None
    rows: list[Doubt] = field(default_factory=list)

    def __post_init__(self) -> None:
        if MIRROR in self.by and self.pipeline.config.input.mirror:
            raise ConfigError(
                "input.mirror averages with the mirror image, so that the two cannot disagree; set "
                "it to false, or compare by others"
            )
        self._number = -1
        self._before: tuple[Frame, Instances] | None = None
        self._pair: float | None = None  # of the last two frames
        self._classes: ClassMatch | None = None
        if self.against is not None:
            self._classes = match_classes(self.pipeline.class_names, self.against.class_names)

    def process(self, frames: Sequence[Frame]) -> list[Result]:
        """The result of one frame. Raises ImageError as `Pipeline.process` does."""
        (frame,) = frames
        self._number += 1
        results = self.pipeline.process([frame, _mirrored(frame)] if MIRROR in self.by else [frame])
        found = results[0].instances
        doubt = Doubt(self._number, frame.stamp_ns, frame.frame_id)
        if MIRROR in self.by:
            seen = results[1].instances
            seen = replace(seen, labels=np.ascontiguousarray(seen.labels[:, ::-1]))
            doubt = doubt._replace(mirror=disagreement(found, seen))
        if self.against is not None and self._classes is not None:
            (other,) = self.against.process([frame])
            ours = replace(found, class_ids=self._classes.truth[found.class_ids])
            theirs = other.instances
            theirs = replace(theirs, class_ids=self._classes.predicted[theirs.class_ids])
            doubt = doubt._replace(weights=disagreement(ours, theirs))
        self.rows.append(doubt)
        if TIME in self.by:
            self._compare_in_time(frame, found)
        return results[:1]

    def _compare_in_time(self, frame: Frame, found: Instances) -> None:
        before, pair = self._before, None
        self._before = frame, found
        if before is not None and _are_neighbours(before[0], frame):
            pair = disagreement(found, *_moved(*before, frame))
            last = self.rows[-2]
            self.rows[-2] = last._replace(time=_mean(self._pair, pair))
        self._pair = pair
        self.rows[-1] = self.rows[-1]._replace(time=pair)


@dataclass
class Picked:
    """Labels some frames of a recording, by number, and writes only these; a processor and a sink
    for one `replay`.

    A method with a memory labels the others too.
    """

    pipeline: Pipeline
    numbers: Collection[int]
    sink: Sink

    def __post_init__(self) -> None:
        self._asked = self._written = -1

    def process(self, frames: Sequence[Frame]) -> list[Result]:
        self._asked += 1
        if self._asked in self.numbers or self.pipeline.method.temporal:
            return self.pipeline.process(frames)
        return [Result(Instances.empty(1, 1)) for _ in frames]

    def write(self, frame: Frame, result: Result) -> None:
        self._written += 1
        if self._written in self.numbers:
            named = replace(frame, name=frame.name or f"{self._written:06d}")
            self.sink.write(named, result)

    def close(self) -> None:
        self.sink.close()

    def discard(self) -> None:
        self.sink.discard()


def pick(rows: Sequence[Doubt], wanted: int, apart: int | None = None) -> list[Doubt]:
    """Of the frames in which something disagrees, the worst, at most `wanted`, in order of time.

    apart: how many frames they are apart at least; None: half of what they would be if they were
    spread evenly, so that there are always enough. Of equal ones the earlier is taken.
    """
    if apart is None:
        apart = max(1, len(rows) // (2 * wanted))
    taken: list[Doubt] = []
    for row in sorted(rows, key=lambda row: (-row.disagreement, row.number)):
        far = all(abs(row.number - other.number) >= apart for other in taken)
        if row.disagreement > 0 and far and len(taken) < wanted:
            taken.append(row)
    return sorted(taken, key=lambda row: row.number)


def _mirrored(frame: Frame) -> Frame:
    """The mirror image, as of another camera, of which a network with a memory knows."""
    image = np.ascontiguousarray(frame.image[:, ::-1])
    return replace(frame, image=image, camera=f"mirror image of {frame.camera or frame.frame_id}")


def _are_neighbours(before: Frame, after: Frame) -> bool:
    gap_ns = after.stamp_ns - before.stamp_ns
    return before.image.shape == after.image.shape and 0 < gap_ns <= MOST_GAP_NS


def _moved(before: Frame, found: Instances, after: Frame) -> tuple[Instances, NDArray[np.bool_]]:
    """What was found before, moved to where it is in the frame after by dense optical flow (Kroeger
    et al. 2016), and the pixels (H, W) that the frame before does not show."""
    height, width = after.image.shape[:2]
    size = min(width, FLOW_WIDTH), max(16, round(height * min(1, FLOW_WIDTH / width)))
    grey = [
        cv2.resize(cv2.cvtColor(f.image, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)
        for f in (after, before)
    ]
    make: Any = cv2.DISOpticalFlow_create  # type: ignore[attr-defined] # it is there
    flow: Any = make(cv2.DISOPTICAL_FLOW_PRESET_FAST).calc(*grey, None)
    flow = cv2.resize(flow * (width / size[0], height / size[1]), (width, height))
    x = flow[..., 0].astype(np.float32) + np.arange(width, dtype=np.float32)
    y = flow[..., 1].astype(np.float32) + np.arange(height, dtype=np.float32)[:, None]
    labels = cv2.remap(found.labels, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)
    outside = (x < 0) | (y < 0) | (x > width - 1) | (y > height - 1)
    return replace(found, labels=np.asarray(labels, np.uint16)), outside


def _mean(one: float | None, other: float) -> float:
    return other if one is None else (one + other) / 2
