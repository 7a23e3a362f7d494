"""Reads KITTI MOTS (Voigtlaender et al. 2019): driving sequences with masks whose ids last.

A pixel of its PNGs is class * 1000 + track number, or 10000 if ignored; a line of its text files is
`frame id class height width rle`, with the same ids.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.datasets.border import reads_files
from instaseg_ros.datasets.reading import read_image, read_labels, subfolders, unknown_split
from instaseg_ros.datasets.rle import decode_rle
from instaseg_ros.errors import InputError
from instaseg_ros.frames import Frame
from instaseg_ros.recordings.image_files import images_in
from instaseg_ros.samples import Remarks, Sample, present_ids

OFFICIAL = {
    "train": (0, 1, 3, 4, 5, 9, 11, 12, 15, 17, 19, 20),
    "val": (2, 6, 7, 8, 10, 13, 14, 16, 18),
}
IGNORED = 10_000
PERIOD_NS = 100_000_000


class _Mask(NamedTuple):
    """One line of a text file. where: file and line."""

    where: str
    id: int
    height: int
    width: int
    rle: str


def sequences(root: Path, split: str) -> list[str]:
    """The existing sequences of the official split."""
    images = _below(root, "image_02")
    wanted = {f"{number:04d}" for number in OFFICIAL[split]}
    return sorted(wanted.intersection(subfolders(images))) if images else []


def splits(root: Path) -> tuple[str, ...]:
    """The splits with an existing sequence."""
    return tuple(split for split in OFFICIAL if sequences(root, split))


class KittiMots:
    """`image_02/SEQUENCE/FRAME.png` with `instances/SEQUENCE/FRAME.png` or, without that folder,
    `instances_txt/SEQUENCE.txt`; each may be inside `training`.

    split: `train` or `val`, the existing ones of the official sequences. Stamps start at 0 in each
    sequence, at 10 Hz. Label values are track ids.
    """

    class_names = ("car", "person")  # pedestrians, with their name in other datasets
    least_px = 1

    def __init__(self, root: str | Path, split: str = "train") -> None:
        root = Path(root)
        if split not in OFFICIAL:
            raise unknown_split(root, split, tuple(OFFICIAL))
        images = _below(root, "image_02")
        labels = _below(root, "instances") or _below(root, "instances_txt")
        if images is None or labels is None:
            raise InputError(
                f"dataset {root}: expected `image_02` beside `instances` or `instances_txt`"
            )
        names = sequences(root, split)
        if not names:
            example = f"{min(OFFICIAL[split]):04d}"
            raise InputError(f"{images}: expected sequences of {split} such as {example}")
        self._labels, self._is_text = labels, labels.name == "instances_txt"
        self._images = [file for name in names for file in images_in(images / name)]
        self._masks: dict[tuple[str, int], list[_Mask]] = {}  # of the text form
        remarks = Remarks()
        if self._is_text:
            for name in names:
                self._read_text(name)
            there = {(file.parent.name, _number(file)) for file in self._images}
            for key in sorted(self._masks.keys() - there):
                for mask in self._masks[key]:
                    remarks.add("mask", "of a frame without an image", mask.where)
        self.remarks = tuple(remarks)

    def __len__(self) -> int:
        return len(self._images)

    def files(self, index: int) -> tuple[Path, Path]:
        image = self._images[index]
        sequence = self._labels / image.parent.name
        return image, sequence.with_suffix(".txt") if self._is_text else sequence / image.name

    def sequence(self, index: int) -> str:
        return self._images[index].parent.name

    @reads_files
    def __getitem__(self, index: int) -> Sample:
        image_file, truth_file = self.files(index)
        image = read_image(image_file)
        size = image.shape[0], image.shape[1]
        if self._is_text:
            key = image_file.parent.name, _number(image_file)
            encoded = _painted(self._masks.get(key, []), size)
        else:
            encoded = read_labels(truth_file, size)
        ignore = encoded == IGNORED
        labels = np.where(ignore, np.uint16(0), encoded)
        ids = present_ids(labels)
        class_ids = ids.astype(np.int64) // 1000 - 1
        if not np.isin(class_ids, range(len(self.class_names))).all():
            raise InputError(
                f"{truth_file}: expected ids of 1000 to 2999 or {IGNORED}, found "
                f"{sorted(set(ids.tolist()) - set(range(1000, 3000)))[:5]}"
            )
        return Sample(Frame(image, _number(image_file) * PERIOD_NS), labels, ids, class_ids, ignore)

    def _read_text(self, sequence: str) -> None:
        path = self._labels / f"{sequence}.txt"
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:  # of the decoding, too
            raise InputError(f"{path}: expected the masks, found: {error}") from error
        for number, line in enumerate(lines, 1):
            where = f"{path}, line {number}"
            try:
                *numbers, rle = line.split()
                frame, label, _, height, width = map(int, numbers)
            except ValueError as error:
                raise InputError(
                    f"{where}: expected `frame id class height width rle`, found {line[:60]!r}"
                ) from error
            mask = _Mask(where, label, height, width, rle)
            self._masks.setdefault((sequence, frame), []).append(mask)


def _painted(masks: list[_Mask], size: tuple[int, int]) -> NDArray[np.uint16]:
    """The pixels of the PNG form for these masks."""
    encoded = np.zeros(size, np.uint16)
    for mask in masks:
        if (mask.height, mask.width) != size:
            raise InputError(
                f"{mask.where}: expected a mask of {size} pixels like its image, "
                f"found {(mask.height, mask.width)}"
            )
        if not 0 < mask.id <= IGNORED:
            raise InputError(f"{mask.where}: expected an id of 1 to {IGNORED}, found {mask.id}")
        try:
            inside = decode_rle(mask.rle, *size)
        except ValueError as error:
            raise InputError(f"{mask.where}: {error}") from error
        if encoded[inside].any():
            raise InputError(
                f"{mask.where}: expected masks that do not overlap, found that of {mask.id} over "
                f"that of {encoded[inside].max()}"
            )
        encoded[inside] = mask.id
    return encoded


def _below(root: Path, name: str) -> Path | None:
    """The folder of this name in the root, or in its `training`."""
    return next((f for f in (root / name, root / "training" / name) if f.is_dir()), None)


def _number(image: Path) -> int:
    try:
        return int(image.stem)
    except ValueError as error:
        raise InputError(f"{image}: expected a frame number such as 000000.png") from error
