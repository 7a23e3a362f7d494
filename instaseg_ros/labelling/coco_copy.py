"""Keeps `coco.json` beside label images: the same masks in COCO's format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from instaseg_ros.datasets.border import named
from instaseg_ros.datasets.reading import read_json
from instaseg_ros.errors import InputError
from instaseg_ros.labelling.coco_document import CocoDocument, Entry
from instaseg_ros.labelling.desk import Desk
from instaseg_ros.labelling.editing import Drawing


class CocoCopy:
    """The file, as it is or will be. Raises InputError if it is no COCO document."""

    def __init__(self, file: Path, class_names: Sequence[str]) -> None:
        self._file = file
        document: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
        if file.is_file():
            with suppress(InputError):  # it is made again from the rest, frame by frame
                document = read_json(file)
        document["categories"] = [{"id": k, "name": name} for k, name in enumerate(class_names, 1)]
        with named(str(file)):
            self._coco = CocoDocument(document, range(1, len(class_names) + 1))

    def add_category(self, name: str) -> None:
        """Add a class after all others."""
        self._coco.add_category(name)

    def image(self, name: str, size: tuple[int, int], entry: Entry) -> Entry:
        """The entry of an image: the one that it has, or a new one. entry: of meta.json."""
        images = self._coco.document["images"]
        known = next((one for one in images if one.get("file_name") == name), None)
        number = 1 + max((one["id"] for one in images), default=0)
        described = {"id": number, "file_name": name, "height": size[0], "width": size[1]}
        kept = {key: entry[key] for key in ("stamp_ns", "frame_id", "topic") if key in entry}
        return known or {**described, **kept}

    def annotations(self, image_id: int, drawing: Drawing) -> list[Entry]:
        """The annotations of an image as they will be."""
        own = [dict(a) for a in self._coco.of_image(image_id)]
        scratch = CocoDocument({"annotations": own}, self._coco.categories)
        scratch.start_after(self._coco.document["annotations"])
        owners = {int(a["track_id"]): a for a in own if "track_id" in a}
        for number, entry in scratch.set_objects(image_id, drawing, owners, None).items():
            entry["track_id"] = number
        scratch.set_ignore(image_id, drawing.ignore, [])
        made: list[Entry] = scratch.document["annotations"]
        return made

    def set(self, image: Entry, annotations: list[Entry]) -> None:
        """Put these annotations in the place of an image's."""
        document = self._coco.document
        if all(one.get("id") != image["id"] for one in document["images"]):
            document["images"].append(image)
        rest = [a for a in document["annotations"] if a.get("image_id") != image["id"]]
        document["annotations"] = [*rest, *annotations]
        self._coco.start_after(document["annotations"])

    def write(self, desk: Desk) -> None:
        """Write the file, whole or not at all."""
        desk.write(self._file, json.dumps(self._coco.document).encode() + b"\n")
