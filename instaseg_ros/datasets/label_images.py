"""Reads images beside 16-bit label images.

`images/[SPLIT/]NAME.jpg` with one of

- `instances/[SPLIT/]NAME.png` in Cityscapes' encoding: a pixel is class * 1000 + instance, or the
  bare class number on objects that are not told apart;
- `labels/[SPLIT/]NAME.png`: a pixel is the instance number, and all objects have one class unless
  `meta.json` of the synthetic street's export gives their classes.

The optional `ignore/[SPLIT/]NAME.png` is not 0 on ignored pixels. Beside `instances`,
`semantic/[SPLIT/]NAME.png` may hold Cityscapes' label id of every pixel.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.datasets.border import named, reads_files
from instaseg_ros.datasets.cityscapes import (
    CITYSCAPES,
    SEMANTIC,
    dense_classes,
    from_cityscapes_ids,
)
from instaseg_ros.datasets.reading import (
    read_image,
    read_json,
    read_labels,
    subfolders,
    unknown_split,
)
from instaseg_ros.errors import InputError
from instaseg_ros.frames import Frame
from instaseg_ros.recordings.image_files import images_in
from instaseg_ros.samples import Remarks, Sample, class_name, present_ids, whole

UNKNOWN = -1  # class of an object whose class in meta.json does not exist


def splits(root: Path) -> tuple[str, ...]:
    """The folders in `images`."""
    return tuple(subfolders(root / "images"))


class LabelImages:
    """The layouts above. split: a folder in `images` and in the labels' folder; a dataset without
    such folders gives everything for any split.

    only_class: class of the objects if none is given. An object of a class that does not exist is
    ignored, and counted in `remarks`.
    """

    def __init__(self, root: str | Path, split: str = "", only_class: str = "object") -> None:
        root = Path(root)
        self._coded = (root / "instances").is_dir()
        known = splits(root)
        if known and split not in known:
            raise unknown_split(root, split, known)
        split = split if known else ""
        self._images = images_in(root / "images" / split)
        self._labels = root / ("instances" if self._coded else "labels") / split
        self._ignore = root / "ignore" / split
        self._semantic = root / "semantic" / split
        dense = self._coded and self._semantic.is_dir()
        self.semantic_names = tuple(SEMANTIC.values()) if dense else ()
        self.class_names = tuple(CITYSCAPES.values()) if self._coded else (only_class,)
        # The street's export has meta.json, and like Cityscapes objects of a single pixel.
        street = self._coded or (root / "meta.json").is_file()
        self.least_px: float | None = None if street else 1
        self._classes: dict[str, dict[int, int]] | None = None  # by file name and instance
        if not self._coded and (root / "meta.json").is_file():
            self._read_meta(root / "meta.json")

    def _read_meta(self, path: Path) -> None:
        meta, remarks = read_json(path), Remarks()
        with named(
            str(path),
            "expected `class_names` and per frame `file`, `ids` and `class_ids`, as the synthetic "
            "street's export writes them",
        ):
            if not isinstance(meta["class_names"], list):
                raise TypeError("`class_names` is not a list")
            self.class_names = tuple(map(class_name, meta["class_names"]))
            self.least_px = meta.get("least_px", self.least_px)
            if len(set(self.class_names)) < len(self.class_names):
                raise ValueError(f"two of {', '.join(self.class_names)} are equal")
            self._classes = {
                Path(frame["file"]).stem: self._known_classes(frame, remarks)
                for frame in meta["frames"]
            }
        self.remarks = tuple(remarks)

    def _known_classes(self, frame: dict[str, Any], remarks: Remarks) -> dict[int, int]:
        classes: dict[int, int] = {}
        for instance, class_id in zip(frame["ids"], frame["class_ids"], strict=True):
            number = whole(class_id)
            if number is None or not 0 <= number < len(self.class_names):
                what = f"{frame['file']}, id {instance}: {class_id!r:.40}"
                remarks.add("object", f"of a class not in 0 to {len(self.class_names) - 1}", what)
                number = UNKNOWN
            classes[int(instance)] = number
        return classes

    def __len__(self) -> int:
        return len(self._images)

    def files(self, index: int) -> tuple[Path, ...]:
        image = self._images[index]
        folders = [self._ignore] if self._ignore.is_dir() else []
        folders += [self._semantic] if self.semantic_names else []
        return image, *(folder / f"{image.stem}.png" for folder in (*folders, self._labels))

    @reads_files
    def __getitem__(self, index: int) -> Sample:
        image_file, *more, label_file = self.files(index)
        image = read_image(image_file)
        labels = read_labels(label_file, image.shape[:2])
        if self._coded:
            sample = from_cityscapes_ids(image, labels)
        else:
            ids = present_ids(labels)
            sample = _told(image, labels, ids, self._class_ids(label_file, ids))
        for file in more:
            values = read_labels(file, image.shape[:2])
            if file.is_relative_to(self._semantic):
                sample = dataclasses.replace(sample, semantic=dense_classes(values))
            else:
                ignore = values > 0 if sample.ignore is None else (values > 0) | sample.ignore
                sample = dataclasses.replace(sample, ignore=ignore)
        return sample

    def _class_ids(self, label_file: Path, ids: np.ndarray) -> np.ndarray:
        if self._classes is None:
            return np.zeros(len(ids), np.int64)
        known = self._classes.get(label_file.stem, {})
        unknown = set(ids.tolist()) - known.keys()
        if unknown:
            raise InputError(
                f"{label_file}: expected instances that meta.json lists, found {sorted(unknown)}"
            )
        return np.array([known[i] for i in ids.tolist()], np.int64)


def _told(
    image: NDArray[np.uint8],
    labels: NDArray[np.uint16],
    ids: NDArray[np.uint16],
    class_ids: NDArray[np.int64],
) -> Sample:
    """A sample in which objects of class UNKNOWN are ignored."""
    told = class_ids != UNKNOWN
    if told.all():
        return Sample(Frame(image), labels, ids, class_ids)
    ignore = np.isin(labels, ids[~told])
    labels = np.where(ignore, np.uint16(0), labels)
    return Sample(Frame(image), labels, ids[told], class_ids[told], ignore)
