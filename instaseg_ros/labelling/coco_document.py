"""Changes the annotations of single images in a COCO document and keeps everything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from instaseg_ros.datasets.coco_entries import id_of
from instaseg_ros.labelling.editing import Drawing
from instaseg_ros.recordings.annotation_files import runs
from instaseg_ros.samples import whole

Entry = dict[str, Any]
IGNORE = "ignore"  # 1 in crowds that stand for ignored pixels, one of each category


class CocoDocument:
    """A COCO document. categories: of each class, its category's id."""

    def __init__(self, document: dict[str, Any], categories: Sequence[Any]) -> None:
        self.document = document
        self.categories = [*categories]
        self.start_after(self._annotations)

    def start_after(self, annotations: Sequence[Entry]) -> None:
        """Give new annotations larger ids than these have."""
        ids = (whole(a.get("id")) or 0 for a in annotations if isinstance(a, dict))
        self._next = 1 + max(ids, default=0)

    @property
    def _annotations(self) -> list[Entry]:
        entries: list[Entry] = self.document["annotations"]
        return entries

    def of_image(self, image_id: Any) -> list[Entry]:
        """The annotations of an image."""
        return [
            a
            for a in self._annotations
            if isinstance(a, dict) and id_of(a.get("image_id")) == id_of(image_id)
        ]

    def add_category(self, name: str) -> None:
        """Add a class after all others."""
        number = 1 + max((whole(one) or 0 for one in self.categories), default=0)
        self.document["categories"].append({"id": number, "name": name})
        self.categories.append(number)

    def set_objects(
        self,
        image_id: Any,
        drawing: Drawing,
        owners: Mapping[int, Entry],
        before: NDArray[np.uint16] | None,
    ) -> dict[int, Entry]:
        """Write the instances of an image, and return their annotations by label value.

        owners: the annotations that they have already, whose ids and other fields stay. before:
        (H, W), the labels as they were read; a mask that is still the same stays as it was written.
        """
        new: dict[int, Entry] = {}
        for number, one in drawing.objects.items():
            mask = drawing.labels == number
            entry = owners.get(number)
            if entry is None:
                entry = {"id": self._new_id(), "image_id": image_id, "iscrowd": 0}
                self._annotations.append(entry)
            if before is None or number not in owners or not np.array_equal(mask, before == number):
                _set_mask(entry, mask)
            if owners.get(number) is None or entry.get("made_by") != one.made_by != "given":
                entry["made_by"] = one.made_by
            if 0 <= one.class_id < len(self.categories):
                category = self.categories[one.class_id]
                if id_of(entry.get("category_id")) != id_of(category):
                    entry["category_id"] = category
            new[number] = entry
        self._remove([entry for number, entry in owners.items() if number not in new])
        return new

    def set_ignore(
        self, image_id: Any, ignore: NDArray[np.bool_], crowds: Sequence[tuple[Entry, Any]]
    ) -> None:
        """Write the ignored pixels of an image as crowds of every category.

        crowds: the crowds that are there already, with their masks (H, W) bool; pixels that are no
        longer ignored are taken from them.
        """
        left = ignore.copy()
        for entry, mask in crowds:
            left &= ~mask
            if (mask & ~ignore).any():
                _set_mask(entry, mask & ignore)
        self._remove([a for a in self.of_image(image_id) if a.get(IGNORE) == 1])
        self._remove([entry for entry, mask in crowds if not (mask & ignore).any()])
        if left.any():
            for category in self.categories:
                entry = {"id": self._new_id(), "image_id": image_id, "category_id": category}
                entry |= {"iscrowd": 1, IGNORE: 1}
                _set_mask(entry, left)
                self._annotations.append(entry)

    def _remove(self, entries: Sequence[Entry]) -> None:
        gone = {id(entry) for entry in entries}
        if gone:
            kept = [a for a in self._annotations if id(a) not in gone]
            self.document["annotations"] = kept

    def _new_id(self) -> int:
        self._next += 1
        return self._next - 1


def _set_mask(entry: Entry, mask: NDArray[np.bool_]) -> None:
    height, width = mask.shape
    entry["segmentation"] = {"size": [height, width], "counts": runs(mask)}
    entry["area"] = int(np.count_nonzero(mask))
    entry["bbox"] = list(cv2.boundingRect(mask.view(np.uint8)))
