"""Defines what datasets provide: frames and their ground truth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.frames import Frame

SYNTHETIC = "synthetic"  # instead of a path: the rendered street
STREET_LEAST_PX = 100  # of an object, in Cityscapes images of 1024 x 2048


@dataclass(frozen=True, slots=True)
class Sample:
    """A frame with its instances.

    labels: (H, W) uint16, 0 background, otherwise an instance id that lasts through
        a sequence.
    ids: (N,) uint16, the label values present in `labels`, ascending.
    class_ids: (N,) int64, index into the dataset's `class_names`, same order as `ids`.
    ignore: (H, W) bool, pixels that count neither as background nor as an object; None: no
        pixel.
    crowd: (H, W) uint8, class index + 1 where objects of that class are not told apart (Cityscapes'
        groups, COCO's crowds), 0 elsewhere; None: nowhere. `labels` is 0 there.
    semantic: (H, W) uint8, index into the dataset's `semantic_names` + 1 for every pixel, object or
        not; 0 where unknown; None: unknown everywhere.
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

    Reading a sample raises InputError, which names the missing or broken file. `files` are those
    that a sample is read from: its image first, its truth last; none if it is generated.
    """

    @property
    def class_names(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def files(self, index: int) -> tuple[Path, ...]: ...


@runtime_checkable
class Sequences(Dataset, Protocol):
    """A dataset of sequences in which ids last. The frames of a sequence have consecutive indices,
    in order of time."""

    def sequence(self, index: int) -> str:
        """The name of the frame's sequence."""
        ...


def semantic_names(dataset: Dataset) -> tuple[str, ...]:
    """The names of the dense classes in the dataset's `Sample.semantic`; usually none."""
    names: tuple[str, ...] = getattr(dataset, "semantic_names", ())
    return names


def least_pixels(dataset: Dataset, height: int, width: int) -> float:
    """The smallest true object of an image, in pixels, that must be found.

    The dataset's `least_px` (1 if its benchmark leaves out no small objects); for streets without
    one, the 100 pixels of Cityscapes, scaled to the image's size."""
    own: float | None = getattr(dataset, "least_px", None)
    return STREET_LEAST_PX * height * width / (1024 * 2048) if own is None else own


def spread(count: int, wanted: int, run: int = 1) -> list[int]:
    """About `wanted` of `count` indices, ascending and evenly spread, in runs of `run` consecutive
    ones; all if there are no more."""
    if wanted >= count:
        return list(range(count))
    starts = np.linspace(0, max(1, count - run + 1), max(1, wanted // run), endpoint=False)
    return np.unique(starts.astype(int)[:, None] + np.arange(min(run, count))).tolist()


class Remarks:
    """Counts, by reason, what was left out of a dataset or read differently."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], tuple[int, str]] = {}

    def add(self, kind: str, reason: str, example: str) -> None:
        """Count one more `kind` (in the singular) for this reason."""
        count, first = self._found.get((kind, reason), (0, example))
        self._found[kind, reason] = count + 1, first

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[str]:
        """Lines such as `3 annotations without a mask (first: annotation 7)`."""
        for (kind, reason), (count, first) in self._found.items():
            yield f"{count} {kind}{'s' * (count > 1)} {reason} (first: {first})"


def remarks(dataset: Dataset) -> tuple[str, ...]:
    """For people: what a dataset left out of its files or read differently."""
    said: tuple[str, ...] = getattr(dataset, "remarks", ())
    return said


def class_name(name: Any) -> str:
    """A class name that is safe to print. Raises TypeError for anything that is not a name."""
    if isinstance(name, bool) or not isinstance(name, (str, int, float)):
        raise TypeError(f"expected the name of a class, got {name!r:.60}")
    printable = "".join(c if c.isprintable() else "?" for c in str(name))
    return printable.strip() or "?"


def whole(value: Any) -> int | None:
    """A whole number in any notation (256, 256.0, "256"); None for anything else."""
    try:
        return int(value) if int(value) == float(value) else None
    except (TypeError, ValueError, OverflowError):
        return None


def present_ids(labels: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """The label values in an image, except 0, ascending."""
    return (np.flatnonzero(np.bincount(labels.ravel())[1:]) + 1).astype(np.uint16)
