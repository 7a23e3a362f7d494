"""What a robot said, as a predictor: read from a labelled recording instead of made now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from instaseg_ros.errors import ImageError
from instaseg_ros.frames import Frame, Instances, Result
from instaseg_ros.recordings.recorded_results import RecordedResults


class RecordedPredictor:
    """Answers with the results that a recording has for the frames' stamps.

    A frame without a result has no instances, so that what a robot dropped counts as missed.
    class_names: those of the results, after which others may follow. dropped: stamps of frames
    without a usable result, in the order of asking.
    """

    def __init__(self, results: RecordedResults, class_names: Sequence[str] | None = None) -> None:
        self.results = results
        self.class_names = results.class_names if class_names is None else tuple(class_names)
        self._class_ids = np.array(
            [self.class_names.index(name) for name in results.class_names], np.int64
        )
        self.dropped: list[int] = []

    def process(self, frames: Sequence[Frame]) -> list[Result]:
        return [Result(self._instances(frame)) for frame in frames]

    def reset(self) -> None:
        """Nothing is remembered."""

    def _instances(self, frame: Frame) -> Instances:
        size = frame.image.shape[:2]
        try:
            found = self.results.at(frame.stamp_ns)
        except ImageError:
            found = None
        if found is None or found.labels.shape != size:
            self.dropped.append(frame.stamp_ns)
            return Instances.empty(*size)
        return replace(found, class_ids=self._class_ids[found.class_ids])

    def outside(self) -> tuple[int, int]:
        """How many dropped frames lie before the first result, and after the last one."""
        first, last = self.results.stamps[0], self.results.stamps[-1]
        return sum(s < first for s in self.dropped), sum(s > last for s in self.dropped)
