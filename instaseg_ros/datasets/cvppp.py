"""Reads the leaves of the CVPPP leaf segmentation challenge (Minervini et al. 2016)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from instaseg_ros.datasets.border import reads_files
from instaseg_ros.datasets.reading import read_colored_labels, read_image, unknown_split
from instaseg_ros.errors import InputError
from instaseg_ros.frames import Frame
from instaseg_ros.samples import Sample, present_ids

PATTERNS = tuple(f"{above}plant*_rgb.png" for above in ("", "*/", "*/*/"))  # also in A1 to A4


def plants(root: Path) -> list[list[Path]]:
    """The images of each folder, by name."""
    folders: dict[Path, list[Path]] = {}
    for pattern in PATTERNS:
        for file in sorted(root.glob(pattern)):
            folders.setdefault(file.parent, []).append(file)
    return [*folders.values()]


def splits(root: Path) -> tuple[str, ...]:
    """Both splits, if some folder has a fifth plant."""
    return ("train", "val") if max(map(len, plants(root)), default=0) >= 5 else ()


class Cvppp:
    """`plantNNN_rgb.png` beside `plantNNN_label.png`, up to two folders deep.

    The challenge has no validation images. split: by name, every fifth plant of a folder is in
    `val`, the others in `train`; "" gives all.
    """

    class_names = ("leaf",)
    least_px = 1

    def __init__(self, root: str | Path, split: str = "train") -> None:
        if split not in ("train", "val", ""):
            raise unknown_split(root, split, ("train", "val"))
        folders = plants(Path(root))
        self._images = [
            file
            for files in folders
            for number, file in enumerate(files, 1)
            if not split or (number % 5 == 0) == (split == "val")
        ]
        if not self._images:
            raise InputError(
                f"dataset {root}: expected plant*_rgb.png, at least five for a split `val`; "
                f"found {sum(map(len, folders))}"
            )

    def __len__(self) -> int:
        return len(self._images)

    def files(self, index: int) -> tuple[Path, Path]:
        image = self._images[index]
        return image, image.with_name(image.name.replace("_rgb", "_label"))

    @reads_files
    def __getitem__(self, index: int) -> Sample:
        image_file, label_file = self.files(index)
        image = read_image(image_file)
        labels = read_colored_labels(label_file, image.shape[:2])
        ids = present_ids(labels)
        return Sample(Frame(image), labels, ids, np.zeros(len(ids), np.int64))
