"""What every dataset gives: a frame and the truth about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.frames import Frame

SYNTHETIC = "synthetic"  # in place of a path: the street that is drawn
STREET_LEAST_PX = 100  # of an object in Cityscapes' images of 1024 x 2048


@dataclass(frozen=True, slots=True)
class Sample:
    """A frame with its instances.

    labels: (H, W) uint16, 0 background, otherwise an instance id that lasts through
        a sequence.
    ids: (N,) uint16, the label values present in `labels`, ascending.
    class_ids: (N,) int64, index into the dataset's `class_names`, same order as `ids`.
    ignore: (H, W) bool, pixels that count neither as background nor as an object; None:
        there are none.
    crowd: (H, W) uint8, class index + 1 where objects of that class stand uncounted (Cityscapes'
        groups, COCO's crowds), 0 elsewhere; None: there are none. `labels` is 0 there.
    semantic: (H, W) uint8, index into the dataset's `semantic_names` + 1 of every pixel, also where
        no object is, 0 where unknown; None: unknown everywhere.
    pose: (4, 4) float64 camera to world, x right, y down, z forward; None when unknown.
    """

    frame: Frame
    labels: np.ndarray
    ids: np.ndarray
    class_ids: np.ndarray
    ignore: np.ndarray | None = None
    pose: np.ndarray | None = None
    crowd: np.ndarray | None = None
    semantic: np.ndarray | None = None


class Dataset(Protocol):
    """Samples by index.

    Reading one raises InputError that names the file which is missing or broken. `files` are those
    that a sample is read from: its image first, its truth last; none where it is made, not read.
    """

    @property
    def class_names(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def files(self, index: int) -> tuple[Path, ...]: ...


@runtime_checkable
class Sequences(Dataset, Protocol):
    """A dataset of sequences in which ids last. The frames of one follow each other by index, in
    order of time."""

    def sequence(self, index: int) -> str:
        """The name of the sequence that the frame is of."""
        ...


def semantic_names(dataset: Dataset) -> tuple[str, ...]:
    """The dense classes that `Sample.semantic` of a dataset speaks of; none of most datasets."""
    names: tuple[str, ...] = getattr(dataset, "semantic_names", ())
    return names


def least_pixels(dataset: Dataset, height: int, width: int) -> float:
    """Pixels from which on a true object of an image is to be found: the dataset's `least_px`, 1
    where its benchmark leaves no small objects out; a street without one is Cityscapes', whose
    100 pixels are scaled to the size of the image."""
    own: float | None = getattr(dataset, "least_px", None)
    return STREET_LEAST_PX * height * width / (1024 * 2048) if own is None else own


def spread(count: int, wanted: int, run: int = 1) -> list[int]:
    """About `wanted` of `count` indices, ascending and evenly spread, in runs of `run` that follow
    each other; all if there are no more."""
    if wanted >= count:
        return list(range(count))
    starts = np.linspace(0, max(1, count - run + 1), max(1, wanted // run), endpoint=False)
    return np.unique(starts.astype(int)[:, None] + np.arange(min(run, count))).tolist()


class Remarks:
    """What of a dataset was left out or read in another way, counted by reason."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], tuple[int, str]] = {}

    def add(self, kind: str, reason: str, example: str) -> None:
        """One `kind` more (in the singular) of which that is so."""
        count, first = self._found.get((kind, reason), (0, example))
        self._found[kind, reason] = count + 1, first

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[str]:
        """Such as `3 annotations without a mask (first: annotation 7)`."""
        for (kind, reason), (count, first) in self._found.items():
            yield f"{count} {kind}{'s' * (count > 1)} {reason} (first: {first})"


def remarks(dataset: Dataset) -> tuple[str, ...]:
    """What a dataset left out of its files or read in another way, for people."""
    said: tuple[str, ...] = getattr(dataset, "remarks", ())
    return said


def class_name(name: Any) -> str:
    """The name of a class as it may be printed anywhere. Raises TypeError for what is no name."""
    if isinstance(name, bool) or not isinstance(name, (str, int, float)):
        raise TypeError(f"expected the name of a class, got {name!r:.60}")
    printable = "".join(c if c.isprintable() else "?" for c in str(name))
    return printable.strip() or "?"


def whole(value: Any) -> int | None:
    """A whole number, however a tool wrote it: 256, 256.0, "256"; None for anything else."""
    try:
        return int(value) if int(value) == float(value) else None
    except (TypeError, ValueError, OverflowError):
        return None


def present_ids(labels: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """The label values of an image but 0, ascending."""
    return (np.flatnonzero(np.bincount(labels.ravel())[1:]) + 1).astype(np.uint16)
