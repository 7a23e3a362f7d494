"""Instance annotations as COCO writes them (Lin et al. 2014): one JSON file, images beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.errors import InputError
from instaseg_ros.types import Frame

from .reading import read_image, read_json
from .rle import decode_polygons, decode_rle
from .sample import Sample, present_ids

SPLITS = ("train", "val", "test")


def annotations_file(path: Path, split: str) -> Path:
    """`path` where it is the JSON file, else `annotations/instances_SPLIT*.json` below it. A folder
    whose only `annotations/instances*.json` names no split gives that for any."""
    if path.is_file():
        return path
    every = sorted((path / "annotations").glob("instances*.json"))
    found = [file for file in every if file.stem.startswith(f"instances_{split}")]
    if len(every) == 1 and not any(word in every[0].stem for word in SPLITS):
        found = every
    if len(found) != 1:
        raise InputError(
            f"dataset {path}: expected one annotations/instances_{split}*.json, found "
            f"{', '.join(file.name for file in every) or 'none'}; the file itself may be given"
        )
    return found[0]


class Annotation(NamedTuple):
    """One object or crowd. segmentation: polygons, or a dictionary of `size` and `counts`."""

    id: Any
    class_id: int
    is_crowd: bool
    segmentation: Any


class Coco:
    """The images of one annotation file; see `annotations_file`.

    Classes are the categories in order of their ids. Images lie in the first of NAME, images/NAME,
    images and the folder itself that holds one, beside the file or its folder; NAME is that of
    `instances_NAME.json`.

    A pixel that several objects claim belongs to the smallest of them, since things in front of and
    upon others are mostly smaller; crowds lie below all objects.
    """

    def __init__(self, path: str | Path, split: str = "train") -> None:
        self._file = annotations_file(Path(path), split)
        document = read_json(self._file)
        try:
            self._parse(document)
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{self._file}: expected `images`, `annotations` and `categories` as COCO has "
                f"them; {type(error).__name__}: {error}"
            ) from error
        if not self._images:
            raise InputError(f"{self._file}: expected images, found none")
        self._folder = self._image_folder()

    def _parse(self, document: dict[str, Any]) -> None:
        names = {category["id"]: category["name"] for category in document["categories"]}
        self.class_names = tuple(names[key] for key in sorted(names))
        index = {key: i for i, key in enumerate(sorted(names))}
        self._images = [
            (image["file_name"], (image["height"], image["width"])) for image in document["images"]
        ]
        row = {image["id"]: i for i, image in enumerate(document["images"])}
        self._annotations: list[list[Annotation]] = [[] for _ in self._images]
        for entry in document["annotations"]:
            for key, known in (("category_id", index), ("image_id", row)):
                if entry[key] not in known:
                    raise InputError(
                        f"{self._file}: annotation {entry['id']} has {key} {entry[key]}, which "
                        "is not in the file"
                    )
            self._annotations[row[entry["image_id"]]].append(
                Annotation(
                    entry["id"],
                    index[entry["category_id"]],
                    bool(entry.get("iscrowd", 0)),
                    entry.get("segmentation"),
                )
            )

    def _image_folder(self) -> Path:
        name = self._file.stem.removeprefix("instances_")
        beside = (self._file.parent, self._file.parent.parent)
        folders = [f for b in beside for f in (b / name, b / "images" / name, b / "images", b)]
        for file_name, _ in self._images:
            for folder in folders:
                if (folder / file_name).is_file():
                    return folder
        raise InputError(
            f"{self._file}: expected its images, such as {self._images[0][0]}, in one of "
            f"{', '.join(map(str, folders))}; found none of them"
        )

    def __len__(self) -> int:
        return len(self._images)

    def files(self, index: int) -> tuple[Path, Path]:
        return self._folder / self._images[index][0], self._file

    def __getitem__(self, index: int) -> Sample:
        image_file, _ = self.files(index)
        image, size = read_image(image_file), self._images[index][1]
        if image.shape[:2] != size:
            raise InputError(
                f"{image_file}: expected {size} pixels as {self._file} says, found "
                f"{image.shape[:2]}"
            )
        labels, crowd = np.zeros(size, np.uint16), np.zeros(size, np.uint8)
        masks = [(a, self._mask(a, size)) for a in self._annotations[index]]
        for annotation, mask in masks:
            if annotation.is_crowd:
                crowd[mask] = annotation.class_id + 1
        objects = [(a.class_id, mask) for a, mask in masks if not a.is_crowd]
        areas = [int(mask.sum()) for _, mask in objects]
        for i in sorted(range(len(objects)), key=lambda i: -areas[i]):
            labels[objects[i][1]] = i + 1
        crowd[labels > 0] = 0
        ids = present_ids(labels)  # without those that others hide
        class_ids = np.array([objects[i - 1][0] for i in ids.tolist()], np.int64)
        return Sample(Frame(image), labels, ids, class_ids, crowd=crowd)

    def _mask(self, annotation: Annotation, size: tuple[int, int]) -> NDArray[np.bool_]:
        what = f"{self._file}: annotation {annotation.id}"
        if annotation.is_crowd and annotation.class_id >= 255:
            raise InputError(f"{what}: expected crowds of the first 255 classes only")
        segmentation = annotation.segmentation
        try:
            if isinstance(segmentation, dict) and {"size", "counts"} <= segmentation.keys():
                if tuple(segmentation["size"]) != size:
                    raise ValueError(
                        f"expected a mask of {size} as its image, got {segmentation['size']}"
                    )
                return decode_rle(segmentation["counts"], *size)
            if isinstance(segmentation, list) and segmentation:
                return decode_polygons(segmentation, *size)
        except (TypeError, ValueError) as error:
            raise InputError(f"{what}: {error}") from error
        raise InputError(
            f"{what}: expected a segmentation of polygons or runs, found {segmentation!r}"[:200]
        )
