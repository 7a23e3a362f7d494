"""What every dataset gives: a frame and the truth about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.types import Frame


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


def present_ids(labels: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """The label values of an image but 0, ascending."""
    return (np.flatnonzero(np.bincount(labels.ravel())[1:]) + 1).astype(np.uint16)
