"""Several recordings with truth as one dataset."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import numpy as np

from instaseg_ros.samples import Sample, Sequences


class Recordings:
    """The frames of recordings one after another, each a sequence of its own name. While one is
    looked at, the next is read by another thread.

    class_names: of all recordings; None: those that they have, sorted.
    """

    def __init__(
        self,
        recordings: Sequence[Sequences],
        names: Sequence[str],
        class_names: Sequence[str] | None = None,
    ) -> None:
        self._recordings, self._names = recordings, names
        there = {name for one in recordings for name in one.class_names}
        self.class_names = tuple(sorted(there) if class_names is None else class_names)
        self._class_ids = [
            np.array([self.class_names.index(name) for name in one.class_names], np.int64)
            for one in recordings
        ]
        self._ends = list(accumulate(map(len, recordings)))
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="recordings")
        self._ahead: tuple[int, Future[Sample]] | None = None

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def frames_of(self, number: int) -> range:
        """The indices of one recording's frames."""
        return range(self._ends[number] - len(self._recordings[number]), self._ends[number])

    def __getitem__(self, index: int) -> Sample:
        ahead = self._ahead
        is_read = ahead is not None and ahead[0] == index
        sample = ahead[1].result() if ahead and is_read else self._read(index)
        self._ahead = None
        if index + 1 < len(self):
            self._ahead = index + 1, self._reader.submit(self._read, index + 1)
        return sample

    def _read(self, index: int) -> Sample:
        number, frame = self._place(index)
        sample = self._recordings[number][frame]
        return replace(sample, class_ids=self._class_ids[number][sample.class_ids])

    def files(self, index: int) -> tuple[Path, ...]:
        number, frame = self._place(index)
        return self._recordings[number].files(frame)

    def sequence(self, index: int) -> str:
        return self._names[self._place(index)[0]]

    def _place(self, index: int) -> tuple[int, int]:
        """The number of the recording, and of the frame in it."""
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        number = bisect_right(self._ends, index)
        return number, index - self.frames_of(number).start
