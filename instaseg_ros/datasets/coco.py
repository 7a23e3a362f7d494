"""Reads COCO's instance annotations (Lin et al. 2014): one JSON file, with images beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.datasets.border import named, reads_files
from instaseg_ros.datasets.coco_entries import (
    Annotation,
    box_of,
    boxes,
    file_name,
    find_file,
    id_of,
    last_part,
    segmentation_of,
    why_objects,
)
from instaseg_ros.datasets.reading import read_image, read_json
from instaseg_ros.datasets.rle import Runs, area, pixels_inside, runs_of_counts, runs_of_polygons
from instaseg_ros.errors import InputError
from instaseg_ros.frames import Frame
from instaseg_ros.samples import Remarks, Sample, class_name, present_ids, whole

SPLITS = ("train", "val", "test")
MOST_OBJECTS = (1 << 16) - 1  # of an image: labels have 16 bits

Size = tuple[int, int]  # (H, W)


def annotation_files(folder: Path) -> dict[str, Path]:
    """The files `annotations/instances_NAME.json` by NAME."""
    files = sorted((folder / "annotations").glob("instances*.json"))
    return {file.stem.removeprefix("instances").lstrip("_"): file for file in files}


def splits(path: Path) -> tuple[str, ...]:
    """The splits of a folder or file: the NAMEs of its files, and the SPLITS that these begin with
    (CVAT writes `Train`); none if the only file names no split."""
    names = [path.stem.removeprefix("instances_")] if path.is_file() else [*annotation_files(path)]
    words = [word for word in SPLITS if any(name.lower().startswith(word) for name in names)]
    if not words and len(names) < 2:
        return ()
    return tuple(dict.fromkeys([*words, *names]))


def annotations_file(path: Path, split: str) -> Path:
    """`path` itself if it is a JSON file, else `annotations/instances_SPLIT*.json` in it. If a
    folder's only `annotations/instances*.json` names no split, it is used for any split."""
    if path.is_file():
        return path
    every = annotation_files(path)
    found = [file for name, file in every.items() if name.lower().startswith(split.lower())]
    found = [every[split]] if split in every else found
    if len(every) == 1 and not splits(path):
        found = [*every.values()]
    if len(found) != 1:
        raise InputError(
            f"dataset {path}: expected one annotations/instances_{split}*.json, found "
            f"{', '.join(file.name for file in every.values()) or 'none'}; the path may also be "
            "that of the file"
        )
    return found[0]


class Coco:
    """The images of one annotation file; see `annotations_file`.

    Classes are the categories in order of their ids; categories of one name are merged. Images are
    in the first of NAME, images/NAME, images, data and the folder itself that holds one, beside the
    file or its folder; NAME is that of `instances_NAME.json`. For a path from another machine, its
    end suffices.

    A pixel that several objects claim belongs to the smallest of them, since things in front of or
    on others are mostly smaller; crowds are below all objects. The box of an object without a mask
    or a known class is ignored; `remarks` counts these, and whatever else was left out.
    """

    least_px = 1

    def __init__(self, path: str | Path, split: str = "train") -> None:
        self._file = annotations_file(Path(path), split)
        document = read_json(self._file)
        remarks = Remarks()
        expected = "expected `images`, `annotations` and `categories` as in COCO"
        with named(str(self._file), expected):
            index = self._categories(_listed(document, "categories"))
            rows = self._list_images(_listed(document, "images"), remarks)
            self._annotate(_listed(document, "annotations"), index, rows, remarks)
        if not self._images:
            found = f"; {'; '.join(remarks)}" if remarks else ""
            raise InputError(f"{self._file}: expected images, found none{found}")
        self.remarks = tuple(remarks)
        self._folders = self._image_folders()

    def _categories(self, entries: Sequence[Any]) -> dict[Any, int]:
        """The class of each category id; sets `class_names`, and for each of them the first id."""
        names = {id_of(entry["id"]): class_name(entry["name"]) for entry in entries}
        keys = sorted(names, key=lambda key: (isinstance(key, str), key))
        self.class_names = tuple(dict.fromkeys(names[key] for key in keys))
        first = {names[key]: key for key in reversed(keys)}
        self.category_ids = tuple(first[name] for name in self.class_names)
        return {key: self.class_names.index(names[key]) for key in keys}

    def _list_images(self, entries: Sequence[Any], remarks: Remarks) -> dict[Any, int]:
        """The row in `_images` of each id. A repeated name is one image; different images with the
        same id are left out, as it is unknown whose the objects are."""
        names: dict[Any, set[str]] = {}
        for entry in entries:
            names.setdefault(id_of(entry["id"]), set()).add(file_name(entry) or "")
        row_of: dict[str, int] = {}
        rows: dict[Any, int] = {}
        self._images: list[tuple[str, Size | None]] = []
        for entry in entries:
            key, name = id_of(entry["id"]), file_name(entry)
            if name is None:
                remarks.add("image", "without the name of a file", f"id {key}")
            elif len(names[key]) > 1:
                remarks.add("image", "whose id another image has too", f"{name}: {key}")
            else:
                if name not in row_of:
                    row_of[name] = len(self._images)
                    height, width = whole(entry.get("height")), whole(entry.get("width"))
                    size = None if height is None or width is None else (height, width)
                    self._images.append((name, size))
                rows[key] = row_of[name]
        return rows

    def _annotate(
        self, entries: Sequence[Any], index: dict[Any, int], rows: dict[Any, int], remarks: Remarks
    ) -> None:
        self._annotations: list[list[Annotation]] = [[] for _ in self._images]
        self.why_no_crowds = objects = why_objects(entries)
        for row, entry in enumerate(entries):
            if not isinstance(entry, dict):
                remarks.add("annotation", "that is not a JSON object", repr(entry)[:60])
                continue
            what = f"annotation {entry.get('id', '?')}"
            image, category = (id_of(entry.get(key)) for key in ("image_id", "category_id"))
            if image not in rows:
                remarks.add("annotation", "of an image that was not read", f"{what}: {image}")
                continue
            is_crowd = bool(whole(entry.get("iscrowd", 0)))
            segmentation = segmentation_of(entry.get("segmentation"))
            class_id = index.get(category, -1)
            if class_id < 0:
                remarks.add("annotation", "of a category that is not there", f"{what}: {category}")
            elif segmentation is None:
                remarks.add("annotation", "without a mask", what)
            elif is_crowd and objects:
                remarks.add("annotation", f"with iscrowd 1 taken for an object: {objects}", what)
                is_crowd = False
            box = box_of(entry.get("bbox"))
            self._annotations[rows[image]].append(
                Annotation(entry.get("id", "?"), class_id, is_crowd, segmentation, box, row)
            )

    def _image_folders(self) -> list[Path]:
        """Folders that may contain images; the one that has the first image comes first."""
        name = self._file.stem.removeprefix("instances_")
        beside = (self._file.parent, self._file.parent.parent)
        inner = (name, f"images/{name}", "images", "data", "")
        folders = [b / i for b in beside for i in inner]
        ends = Counter(last_part(image) for image, _ in self._images)
        self._shared_ends = {end for end, times in ends.items() if times > 1}
        for image, _ in self._images:
            for folder in folders:
                if self._find(image, [folder]):
                    return [folder, *folders]
        raise InputError(
            f"{self._file}: expected its images, such as {self._images[0][0]}, in one of "
            f"{', '.join(map(str, folders))}; found none of them"
        )

    def __len__(self) -> int:
        return len(self._images)

    def files(self, index: int) -> tuple[Path, Path]:
        name = self._images[index][0]
        return self._find(name, self._folders) or self._folders[0] / name, self._file

    def _find(self, name: str, folders: Sequence[Path]) -> Path | None:
        return find_file(folders, name, 2 if last_part(name) in self._shared_ends else 1)

    @reads_files
    def __getitem__(self, index: int) -> Sample:
        image_file, _ = self.files(index)
        image, claimed = read_image(image_file), self._images[index][1]
        size = image.shape[0], image.shape[1]
        if claimed not in (None, size):
            raise InputError(
                f"{image_file}: expected {claimed} pixels as {self._file} says, found {size}"
            )
        known = self.with_masks(index)
        if len(known) > MOST_OBJECTS:
            raise InputError(f"{image_file}: expected at most {MOST_OBJECTS} objects")
        # (W, H), as runs follow columns; one object at a time, as images may have thousands.
        labels, crowd = np.zeros(size[::-1], np.uint16), np.zeros(size[::-1], np.uint8)
        objects: list[tuple[int, Runs]] = []
        for annotation in known:
            runs = self._runs(annotation, size)
            if annotation.is_crowd:
                crowd.reshape(-1)[pixels_inside(runs)] = annotation.class_id + 1
            else:
                objects.append((annotation.class_id, runs))
        areas = [area(runs) for _, runs in objects]
        for i in sorted(range(len(objects)), key=lambda i: -areas[i]):
            labels.reshape(-1)[pixels_inside(objects[i][1])] = i + 1
        labels, crowd = labels.T.copy(), crowd.T.copy()
        crowd[labels > 0] = 0
        ids = present_ids(labels)  # without hidden ones
        class_ids = np.array([objects[i - 1][0] for i in ids.tolist()], np.int64)
        rest = [a for a in self._annotations[index] if a.class_id < 0 or not a.segmentation]
        ignore = boxes(rest, size) & (labels == 0) & (crowd == 0) if rest else None
        return Sample(Frame(image), labels, ids, class_ids, ignore, crowd=crowd)

    def image_name(self, index: int) -> str:
        """The image's name in the file."""
        return self._images[index][0]

    def with_masks(self, index: int) -> list[Annotation]:
        """The objects and crowds of an image that have a mask and a known class. The objects' label
        values in its sample are 1, 2, ..., in this order."""
        return [a for a in self._annotations[index] if a.class_id >= 0 and a.segmentation]

    def mask(self, annotation: Annotation, size: Size) -> NDArray[np.bool_]:
        """(H, W) bool of one that has a mask."""
        filled = np.zeros(size[0] * size[1], bool)
        filled[pixels_inside(self._runs(annotation, size))] = True
        return filled.reshape(size[::-1]).T

    def _runs(self, annotation: Annotation, size: Size) -> Runs:
        what = f"{self._file}: annotation {annotation.id}"
        if annotation.is_crowd and annotation.class_id >= 255:
            raise InputError(f"{what}: expected crowds of the first 255 classes only")
        segmentation = annotation.segmentation
        try:
            if isinstance(segmentation, list):
                return runs_of_polygons(segmentation, *size)
            claimed = tuple(map(whole, segmentation["size"]))
            if claimed != size:
                raise ValueError(
                    f"expected a mask of {size} like its image, got {segmentation['size']}"
                )
            return runs_of_counts(segmentation["counts"], *size)
        except (TypeError, ValueError) as error:
            raise InputError(f"{what}: {error}") from error


def _listed(document: dict[str, Any], key: str) -> list[Any]:
    value = document[key]
    if not isinstance(value, list):
        raise TypeError(f"`{key}` is {type(value).__name__}, not a list")
    return value
