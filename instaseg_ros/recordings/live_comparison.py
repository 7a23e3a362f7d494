"""Compares what the node said live with what a replay says of the same frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from instaseg_ros.frames import Frame, Instances, Result
from instaseg_ros.recordings.recorded_results import RecordedResults

NEAR = 1e-4  # scores and pixels of boxes, which go through float64 and back


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs in one frame.

    pixels: of the label image. ids: label values, in either, of which pixels, class, score or box
    differ. size: (height, width) of the live labels, if they differ in that; then every pixel and
    id does.
    """

    stamp_ns: int
    pixels: int
    ids: tuple[int, ...]
    size: tuple[int, int] | None = None


class LiveComparison:
    """A sink for the results of a replay that compares them with the recorded ones.

    compared: frames so far that have both. differences: of those that are not equal.
    """

    def __init__(self, live: RecordedResults, class_names: tuple[str, ...]) -> None:
        self.compared = 0
        self.differences: list[Difference] = []
        self._live, self._class_names = live, class_names

    def write(self, frame: Frame, result: Result) -> None:
        live = self._live.at(frame.stamp_ns)
        if live is None:
            return
        self.compared += 1
        names = self._live.class_names, self._class_names
        found = difference(frame.stamp_ns, live, result.instances, *names)
        if found is not None:
            self.differences.append(found)

    def close(self) -> None:
        """Nothing is held."""

    def discard(self) -> None:
        """Nothing is held."""


def difference(
    stamp_ns: int,
    live: Instances,
    offline: Instances,
    live_names: tuple[str, ...],
    names: tuple[str, ...],
) -> Difference | None:
    """What differs between two results for a frame, each with its class names; None if nothing
    does."""
    if live.labels.shape != offline.labels.shape:
        every = sorted({*live.ids.tolist(), *offline.ids.tolist()})
        height, width = live.labels.shape
        return Difference(stamp_ns, offline.labels.size, tuple(every), (height, width))
    other = live.labels != offline.labels
    concerned = {
        *np.unique(live.labels[other]).tolist(),
        *np.unique(offline.labels[other]).tolist(),
    }
    ours, theirs = _by_id(live, live_names), _by_id(offline, names)
    for label in ours.keys() | theirs.keys():
        if not _same(ours.get(label), theirs.get(label)):
            concerned.add(label)
    concerned.discard(0)
    pixels = int(np.count_nonzero(other))
    return Difference(stamp_ns, pixels, tuple(sorted(concerned))) if pixels or concerned else None


Described = tuple[str, list[float]]  # class; score and box


def _by_id(instances: Instances, names: tuple[str, ...]) -> dict[int, Described]:
    return {
        int(label): (
            names[instances.class_ids[i]],
            [float(instances.scores[i]), *instances.boxes_xyxy[i].tolist()],
        )
        for i, label in enumerate(instances.ids)
    }


def _same(one: Described | None, other: Described | None) -> bool:
    if one is None or other is None:
        return False
    return one[0] == other[0] and bool(np.allclose(one[1], other[1], rtol=0, atol=NEAR))
