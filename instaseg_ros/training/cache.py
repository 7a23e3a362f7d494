"""Decodes a dataset once, and keeps it in memory that all workers share."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from instaseg_ros.datasets import Dataset, Sample, Sequences
from instaseg_ros.datasets.parts import Part, SequencePart
from instaseg_ros.errors import ConfigError
from instaseg_ros.frames import Frame
from instaseg_ros.training.memory import available_bytes

BLOCK_BYTES = 64 << 20  # a block is one open file in every process
PLANES = ("labels", "ignore", "crowd", "semantic")  # of `Sample`; they rarely change along a row
SHARED = Path("/dev/shm")  # shared memory on Linux
NO_IMAGE = np.zeros((0, 0, 3), np.uint8)


class Place(NamedTuple):
    """The location of a sample: its image, then the lengths of its runs, then each plane's values.
    bare: the sample without image and planes."""

    block: int
    offset: int
    size: tuple[int, int]
    runs: int
    dtypes: dict[str, np.dtype[Any]]
    bare: Sample


class Runs(NamedTuple):
    """The planes of an image as runs of pixels in which no plane changes.

    lengths: (N,) uint32; values: (N,) for each plane.
    """

    lengths: NDArray[np.uint32]
    values: dict[str, NDArray[Any]]


def runs_of(sample: Sample) -> Runs:
    """The runs of the sample's existing planes."""
    planes = {name: plane for name in PLANES if (plane := getattr(sample, name)) is not None}
    flat = {name: plane.ravel() for name, plane in planes.items()}
    change = np.zeros(sample.labels.size, bool)
    change[0] = True
    for plane in flat.values():
        change[1:] |= plane[1:] != plane[:-1]
    starts = np.flatnonzero(change)
    lengths = np.diff(starts, append=len(change)).astype(np.uint32)
    return Runs(lengths, {name: plane[starts] for name, plane in flat.items()})


class Kept(Part):
    """All samples of a dataset, from memory.

    Takes 3 bytes per pixel, and a tenth more for the truth. Depth images are not kept, as views
    have none. Raises ConfigError, as early as possible, if memory is too small.
    """

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset, range(len(dataset)))
        self._blocks: list[torch.Tensor] = []
        self._places: list[Place] = []
        self._used = BLOCK_BYTES
        rows = tqdm(self._decoded(dataset), "keeping", len(dataset), leave=False, unit="image")
        for sample, runs in rows:
            if not self._places:
                _check_room(len(dataset) * _bytes_of(sample, runs))
            self._put(sample, runs)

    @staticmethod
    def _decoded(dataset: Dataset, at_once: int = 64) -> Iterator[tuple[Sample, Runs]]:
        def one(index: int) -> tuple[Sample, Runs]:
            sample = dataset[index]
            return sample, runs_of(sample)

        with ThreadPoolExecutor() as pool:
            for first in range(0, len(dataset), at_once):
                yield from pool.map(one, range(first, min(first + at_once, len(dataset))))

    def _put(self, sample: Sample, runs: Runs) -> None:
        needed = _bytes_of(sample, runs)
        if self._used + needed > BLOCK_BYTES:
            size = max(BLOCK_BYTES, needed)
            _check_room(size)
            self._blocks.append(torch.empty(size, dtype=torch.uint8).share_memory_())
            self._used = 0
        block, offset = self._blocks[-1].numpy(), self._used
        for part in (sample.frame.image, runs.lengths, *runs.values.values()):
            content = np.ascontiguousarray(part).view(np.uint8).ravel()
            block[offset : offset + len(content)] = content
            offset += _padded(len(content))
        frame = dataclasses.replace(sample.frame, image=NO_IMAGE, depth=None)
        nothing = dict.fromkeys(PLANES)
        self._places.append(
            Place(
                len(self._blocks) - 1,
                self._used,
                (sample.labels.shape[0], sample.labels.shape[1]),
                len(runs.lengths),
                {name: values.dtype for name, values in runs.values.items()},
                dataclasses.replace(sample, **{**nothing, "frame": frame}),  # type: ignore[arg-type]
            )
        )
        self._used += needed

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of an image."""
        return self._places[index].size

    def kept(self, index: int) -> tuple[NDArray[np.uint8], Runs]:
        """Image (H, W, 3) and planes of a sample, as views of the memory."""
        place = self._places[index]
        block, offset = self._blocks[place.block].numpy(), place.offset

        def taken(dtype: Any, count: int) -> NDArray[Any]:
            nonlocal offset
            begin, n_bytes = offset, count * np.dtype(dtype).itemsize
            offset += _padded(n_bytes)
            return block[begin : begin + n_bytes].view(dtype)

        height, width = place.size
        image = taken(np.uint8, height * width * 3).reshape(height, width, 3)
        lengths = taken(np.uint32, place.runs)
        values = {name: taken(dtype, place.runs) for name, dtype in place.dtypes.items()}
        return image, Runs(lengths, values)

    def __getitem__(self, index: int) -> Sample:
        place = self._places[index]
        image, runs = self.kept(index)
        planes = {
            name: np.repeat(values, runs.lengths).reshape(place.size)
            for name, values in runs.values.items()
        }
        frame: Frame = dataclasses.replace(place.bare.frame, image=image)
        return dataclasses.replace(place.bare, frame=frame, **planes)


class KeptSequences(Kept, SequencePart):
    """`Kept` for a dataset of sequences."""


def kept(dataset: Dataset) -> Kept:
    """The dataset in memory."""
    return (KeptSequences if isinstance(dataset, Sequences) else Kept)(dataset)


def _padded(n_bytes: int) -> int:
    return -(-n_bytes // 8) * 8


def _bytes_of(sample: Sample, runs: Runs) -> int:
    parts: list[NDArray[Any]] = [sample.frame.image, runs.lengths, *runs.values.values()]
    return sum(_padded(part.nbytes) for part in parts)


def _check_room(n_bytes: int) -> None:
    """Raises ConfigError if that much shared memory is not available."""
    shared = shutil.disk_usage(SHARED).free if SHARED.is_dir() else 1 << 62
    for where, free in (("memory", available_bytes()), (f"{SHARED} (docker: --shm-size)", shared)):
        if n_bytes > free:
            raise ConfigError(
                f"train.cache: the dataset's images take about {n_bytes / 1e9:.1f} GB when "
                f"decoded, {where} has {free / 1e9:.1f} GB left; set it to none, or train on fewer "
                "or smaller images"
            )
