"""Reads Cityscapes (Cordts et al. 2016) as its archives unpack, and its encoding of instances."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.datasets.border import reads_files
from instaseg_ros.datasets.reading import read_image, read_labels, subfolders, unknown_split
from instaseg_ros.errors import InputError
from instaseg_ros.frames import Frame
from instaseg_ros.samples import Sample

CITYSCAPES = {
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
SEMANTIC = {
    7: "road",
    8: "sidewalk",
    11: "building",
    12: "wall",
    13: "fence",
    17: "pole",
    19: "traffic light",
    20: "traffic sign",
    21: "vegetation",
    22: "terrain",
    23: "sky",
    **CITYSCAPES,
}
NOT_EVALUATED = (29, 30)  # caravan, trailer: things, but not classes of the benchmark
# The labels that the benchmark does not evaluate: unlabelled, own car, rectification border, out
# of the region, static, dynamic, ground, parking, rail track, guard rail, bridge, tunnel, pole
# group, and those above.
VOID = (*range(7), 9, 10, 14, 15, 16, 18, *NOT_EVALUATED)
_INDEX = np.full(1 << 16, -1, np.int64)
_INDEX[list(CITYSCAPES)] = range(len(CITYSCAPES))
_DENSE = np.zeros(1 << 16, np.uint8)  # by label id, and by class * 1000 + instance
for _number, _id in enumerate(SEMANTIC, 1):
    _DENSE[[_id, *range(_id * 1000, (_id + 1) * 1000)]] = _number


def from_cityscapes_ids(
    image: NDArray[np.uint8],
    encoded: NDArray[np.uint16],
    void: Collection[int] = NOT_EVALUATED,
) -> Sample:
    """A sample from an image of class * 1000 + instance, renumbered 1..N.

    A bare class number in CITYSCAPES marks objects that are not told apart (`crowd`), one in `void`
    ignored pixels. An instance of another class (a caravan, 29000) is background, and predictions
    there are wrong: in the benchmark, too, only bare numbers are void.
    """
    values = np.flatnonzero(np.bincount(encoded.ravel(), minlength=1 << 16))
    index = _INDEX[np.where(values >= 1000, values // 1000, values)]
    objects = (values >= 1000) & (index >= 0)
    number, crowd, ignore = np.zeros((3, 1 << 16), np.uint16)
    number[values[objects]] = np.arange(1, objects.sum() + 1)
    crowd[values[values < 1000]] = index[values < 1000] + 1
    ignore[list(void)] = 1
    return Sample(
        Frame(image),
        number[encoded],
        np.arange(1, objects.sum() + 1, dtype=np.uint16),
        index[objects],
        ignore=ignore[encoded].astype(bool),
        crowd=crowd[encoded].astype(np.uint8),
    )


def dense_classes(encoded: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """(H, W) uint8, index into SEMANTIC + 1; 0: not evaluated.

    encoded: (H, W), Cityscapes' label ids, or class * 1000 + instance.
    """
    return _DENSE[encoded]


def splits(root: Path) -> tuple[str, ...]:
    """The folders in `leftImg8bit`."""
    return tuple(subfolders(root / "leftImg8bit"))


class Cityscapes:
    """`leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png` with the truth in
    `gtFine/SPLIT/CITY/NAME_gtFine_instanceIds.png`.

    split: `train` or `val`. Pixels with labels that the benchmark does not evaluate are ignored.
    """

    class_names = tuple(CITYSCAPES.values())
    semantic_names = tuple(SEMANTIC.values())

    def __init__(self, root: str | Path, split: str = "train") -> None:
        self._images, self._truth = Path(root, "leftImg8bit"), Path(root, "gtFine")
        if not (self._images / split).is_dir():
            raise unknown_split(root, split, splits(Path(root)))
        self._names = [
            file.relative_to(self._images).as_posix().removesuffix("_leftImg8bit.png")
            for file in sorted((self._images / split).glob("*/[!.]*_leftImg8bit.png"))
        ]
        if not self._names:
            raise InputError(
                f"{self._images / split}: expected CITY/*_leftImg8bit.png in it, found none"
            )

    def __len__(self) -> int:
        return len(self._names)

    def files(self, index: int) -> tuple[Path, Path]:
        name = self._names[index]
        return (
            self._images / f"{name}_leftImg8bit.png",
            self._truth / f"{name}_gtFine_instanceIds.png",
        )

    @reads_files
    def __getitem__(self, index: int) -> Sample:
        image_file, truth_file = self.files(index)
        image = read_image(image_file)
        encoded = read_labels(truth_file, image.shape[:2])
        sample = from_cityscapes_ids(image, encoded, VOID)
        return dataclasses.replace(sample, semantic=dense_classes(encoded))
