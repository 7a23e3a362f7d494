"""Keeps corrections of a COCO file in that file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.datasets import ALL
from instaseg_ros.datasets.coco import Coco, annotations_file
from instaseg_ros.datasets.coco_entries import file_name
from instaseg_ros.datasets.reading import read_json
from instaseg_ros.frames import Frame
from instaseg_ros.labelling.coco_document import IGNORE, CocoDocument, Entry
from instaseg_ros.labelling.desk import DESK, Desk
from instaseg_ros.labelling.editing import GIVEN, Drawing, Object
from instaseg_ros.labelling.frames import Origin, split_of


class CocoStore:
    """A COCO file, corrected in place: what is not changed stays as it is, ids and unknown fields
    included. Changed masks are written as runs, and have `made_by`."""

    def __init__(self, path: Path) -> None:
        split = split_of(str(path))
        self._file = annotations_file(path, "train" if split == ALL else split)
        self._desk = Desk(self._file.parent / f"{DESK}-{self._file.stem}", self._file)
        try:
            self._coco = Coco(self._file)
            self._document = CocoDocument(read_json(self._file), self._coco.category_ids)
        except BaseException:
            self.close()
            raise
        self.class_names = [*self._coco.class_names]
        why = self._coco.why_no_crowds
        self.no_ignore = f"this file holds no ignored pixels, as its crowds are objects: {why}"
        self.no_ignore *= bool(why)
        self._rows: list[Any] = [*self._document.document["annotations"]]
        images = self._document.document["images"]
        self._image_ids = {file_name(one): one["id"] for one in reversed(images)}
        self._loaded: dict[int, _Loaded] = {}

    def load(self, number: int, frame: Frame, origin: Origin) -> Drawing | None:
        sample = self._coco[number]
        size = sample.labels.shape[0], sample.labels.shape[1]
        entries = self._coco.with_masks(number)
        objects = [a for a in entries if not a.is_crowd]
        owners = {i: self._rows[objects[i - 1].row] for i in sample.ids.tolist()}
        crowds = [
            (self._rows[a.row], self._coco.mask(a, size))
            for a in entries
            if a.is_crowd and self._rows[a.row].get(IGNORE) != 1
        ]
        ignore = np.zeros(size, bool) if sample.ignore is None else sample.ignore
        if sample.crowd is not None:
            ignore = ignore | (sample.crowd > 0)
        made = {
            i: Object(c, str(owners[i].get("made_by", GIVEN)))
            for i, c in zip(sample.ids.tolist(), sample.class_ids.tolist(), strict=True)
        }
        # Of hidden objects the values stay unused, so that theirs are not taken for others'.
        drawing = Drawing(sample.labels, made, ignore, len(objects) + 1)
        self._loaded[number] = _Loaded(owners, drawing.packed_copy(), crowds)
        return drawing

    def save(self, number: int, frame: Frame, origin: Origin, drawing: Drawing) -> None:
        name = self._coco.image_name(number)
        image_id, old = self._image_ids[name], self._loaded[number]
        before, crowds = old.drawing, old.crowds
        before.unpack()
        owners = self._document.set_objects(image_id, drawing, old.owners, before.labels)
        if not np.array_equal(drawing.ignore, before.ignore):
            self._document.set_ignore(image_id, drawing.ignore, crowds)
            crowds = [(entry, mask & drawing.ignore) for entry, mask in crowds]
            crowds = [(entry, mask) for entry, mask in crowds if mask.any()]
        self._loaded[number] = _Loaded(owners, drawing.packed_copy(), crowds)
        self._write()

    def labelled(self, keys: str) -> set[int]:
        return set(range(len(self._coco)))

    def add_class(self, name: str) -> None:
        self.class_names.append(name)
        self._document.add_category(name)

    def save_classes(self) -> None:
        self._write()

    def close(self) -> None:
        self._desk.release()

    def _write(self) -> None:
        self._desk.write(self._file, json.dumps(self._document.document).encode() + b"\n")


class _Loaded(NamedTuple):
    """An image as it is in the file. owners: the annotation of each label value. drawing: packed.
    crowds: with their masks."""

    owners: dict[int, Entry]
    drawing: Drawing
    crowds: list[tuple[Entry, NDArray[np.bool_]]]
