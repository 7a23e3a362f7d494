"""Keeps labelled frames as label images, and the same as COCO."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from instaseg_ros.datasets.border import named
from instaseg_ros.datasets.label_images import splits
from instaseg_ros.datasets.reading import read_any, read_json, read_labels
from instaseg_ros.errors import ConfigError, InstasegError
from instaseg_ros.frames import Frame
from instaseg_ros.labelling.coco_copy import CocoCopy
from instaseg_ros.labelling.coco_document import Entry
from instaseg_ros.labelling.desk import DESK, Desk
from instaseg_ros.labelling.editing import GIVEN, Drawing, Object
from instaseg_ros.labelling.frames import Origin
from instaseg_ros.labelling.journal import Change
from instaseg_ros.recordings.annotation_files import unused_name
from instaseg_ros.recordings.image_files import IMAGE_SUFFIXES
from instaseg_ros.samples import class_name, present_ids

META, COCO_JSON = "meta.json", "coco.json"
ONLY_CLASS = "object"  # of label images without meta.json
LONGEST_NAME = 200  # bytes; file systems have 255, and names of unfinished files are longer


class LabelImageStore:
    """`images/`, 16-bit `labels/`, `ignore/`, and `meta.json` with the classes and, of each frame,
    its label values, their classes and who made them, its stamp, frame_id, topic and source. The
    same as COCO: `coco.json`.

    in_place: its own frames are labelled, none of another source.

    A change is first written whole to a journal, then to these files, in an order in which the
    dataset is readable at any time; opening it does a journal again that is still there.
    """

    def __init__(self, root: Path, class_names: Sequence[str] = (), in_place: bool = False) -> None:
        self._root, self._in_place = root, in_place
        self._lock = threading.Lock()  # the files are being changed, or copied
        self.no_ignore = ""
        ours = not root.exists() or not any(p for p in root.iterdir() if p.name != DESK)
        if not ours and not ((root / "images").is_dir() and (root / "labels").is_dir()):
            raise ConfigError(
                f"output {root}: expected a new folder, or label images in images/ and labels/"
            )
        if not ours and splits(root):
            raise ConfigError(
                f"dataset {root}: expected images/ without folders of splits, found "
                f"{', '.join(splits(root))}; give -o with a new folder to correct a copy"
            )
        self._desk = Desk(root / DESK, root)
        self.hidden_folder = self._desk.folder
        try:
            self._journal = root / DESK / "journal"
            if self._journal.is_file():
                self._read()
                self._finish(Change.read(self._journal))
            self._read(class_names)
        except BaseException:
            self.close()
            raise

    def load(self, number: int, frame: Frame, origin: Origin) -> Drawing | None:
        stem = self._stem_of(origin)
        if stem is None:
            return None
        size = frame.image.shape[:2]
        labels = read_labels(self._root / "labels" / f"{stem}.png", size)
        ignore_file = self._root / "ignore" / f"{stem}.png"
        ignore = read_labels(ignore_file, size) > 0 if ignore_file.is_file() else None
        entry = self._entries.get(stem, {})
        with named(str(self._root / META)):
            ids = [int(i) for i in entry.get("ids", ())]
            made = entry.get("made_by", [GIVEN] * len(ids))
            objects = {
                i: Object(int(c), str(m))
                for i, c, m in zip(ids, entry.get("class_ids", ()), made, strict=True)
            }
        for i in present_ids(labels).tolist():
            objects.setdefault(i, Object(0, GIVEN))
        return Drawing(labels, objects, ignore)

    def save(self, number: int, frame: Frame, origin: Origin, drawing: Drawing) -> None:
        with self._lock:
            self._save(number, frame, origin, drawing)

    def _save(self, number: int, frame: Frame, origin: Origin, drawing: Drawing) -> None:
        if self._journal.is_file():  # the disk refused the rest of the last change
            self._finish(Change.read(self._journal))
        stem, image = self._stem_of(origin), b""
        if stem is None:
            taken = {f"{one}.png".lower() for one in self._stems}
            name = unused_name(replace(frame, name=_short(frame.name)), taken, ".png")
            stem = name.removesuffix(".png")
            image = origin.file.read_bytes() if origin.file else _png(frame.image[..., ::-1])
        suffix = origin.file.suffix if origin.file else ".png"
        entry = dict(self._entries.get(stem, {"file": f"{stem}.png"}))
        if image:
            entry |= {"image": f"{stem}{suffix}", "source": origin.key, "number": number}
            entry |= {"stamp_ns": frame.stamp_ns, "frame_id": frame.frame_id}
            if origin.topic:
                entry["topic"] = origin.topic
        objects = dict(sorted(drawing.objects.items()))
        entry |= {
            "ids": [*objects],
            "class_ids": [one.class_id for one in objects.values()],
            "made_by": [one.made_by for one in objects.values()],
        }
        image_name = entry.get("image") or self._images[stem].name
        coco_image = self._coco.image(image_name, drawing.size, entry)
        change = Change(
            entry,
            image,
            _png(drawing.labels),
            _png(drawing.ignore * np.uint8(255)) if self._needs_ignore(drawing) else b"",
            coco_image,
            self._coco.annotations(coco_image["id"], drawing),
        )
        self._desk.write(self._journal, change.packed())
        self._finish(change)

    def labelled(self, keys: str) -> set[int]:
        if self._in_place:
            return set(range(len(self._images)))
        entries = [e for e in [*self._entries.values()] if str(e.get("source")).startswith(keys)]
        return {n for e in entries if isinstance(n := e.get("number"), int)}

    def add_class(self, name: str) -> None:
        self.class_names.append(name)
        self._coco.add_category(name)

    def save_classes(self) -> None:
        with self._lock:
            if self._meta_file.is_file():  # else with the first frame
                self._write_meta()
                self._coco.write(self._desk)

    def objects(self) -> dict[str, int]:
        """The number of objects of each frame that is saved, by name, the oldest first. Any thread
        may call it."""
        with self._lock:
            found = [(s, len(e.get("ids", ()))) for s, e in self._entries.items()]
            return {stem: count for stem, count in found if stem in self._images}

    def name_of(self, origin: Origin) -> str | None:
        """The name of a frame in `objects`; None if it is not saved yet. Any thread may call it."""
        with self._lock:
            return self._stem_of(origin)

    def copy(self, folder: Path, parts: Mapping[str, Sequence[str]]) -> None:
        """Make a dataset of some frames as they are now, whatever is saved later; without copying
        where the file system has links. parts: names of frames, by split. Any thread may call it.
        """
        folder.mkdir()
        with self._lock:
            entries = [self._entries[name] for names in parts.values() for name in names]
            meta = {**self._meta, "class_names": [*self.class_names], "frames": entries}
            (folder / META).write_text(json.dumps(meta), encoding="utf-8")
            images = {name: self._images[name] for names in parts.values() for name in names}
            for kind in ("labels", "ignore"):
                if (self._root / kind).is_dir():
                    for part, names in parts.items():
                        files = [self._root / kind / f"{name}.png" for name in names]
                        _link(files, folder / kind / part)
        for part, names in parts.items():
            _link([images[name] for name in names], folder / "images" / part)

    def close(self) -> None:
        self._desk.release()

    @property
    def _meta_file(self) -> Path:
        return self._root / META

    def _read(self, class_names: Sequence[str] = ()) -> None:
        """Learn what is there."""
        images = self._root / "images"
        there = [
            file
            for file in (images.iterdir() if images.is_dir() else ())
            if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
        ]
        self._images = {file.stem: file for file in there}
        given = class_names or (ONLY_CLASS,)
        self._meta: dict[str, Any] = {"class_names": [*given], "least_px": 1, "frames": []}
        if self._meta_file.is_file():
            self._meta = read_json(self._meta_file)
        elif there:
            self._meta["class_names"] = [ONLY_CLASS]
            self._meta["frames"] = [self._described(file) for file in there]
        with named(str(self._meta_file), "expected `class_names` and `frames`"):
            self.class_names = [class_name(name) for name in self._meta["class_names"]]
            frames: list[Entry] = self._meta["frames"]
            self._entries = {Path(entry["file"]).stem: entry for entry in frames}
        self._by_key: dict[str, list[str]] = {}
        for stem, entry in self._entries.items():
            if stem in self._images:
                self._by_key.setdefault(str(entry.get("source", "")), []).append(stem)
        self._coco = CocoCopy(self._root / COCO_JSON, self.class_names)

    def _described(self, image: Path) -> Entry:
        """The entry of a frame that has none."""
        ids = present_ids(read_any(self._root / "labels" / f"{image.stem}.png").astype(np.uint16))
        return {"file": f"{image.stem}.png", "ids": ids.tolist(), "class_ids": [0] * len(ids)}

    @property
    def _stems(self) -> set[str]:
        return self._entries.keys() | self._images.keys()

    def _stem_of(self, origin: Origin) -> str | None:
        """The frame's name here; None if it is not here yet."""
        file = origin.file
        if file is not None and file.parent.resolve() == (self._root / "images").resolve():
            return file.stem
        for stem in self._by_key.get(origin.key, ()):
            # Folders of one name may have different images of one name.
            if file is None or file.read_bytes() == self._images[stem].read_bytes():
                return stem
        return None

    def _finish(self, change: Change) -> None:
        """Write a change to the dataset's files; all of it may be there already."""
        entry = change.entry
        stem = Path(entry["file"]).stem
        old = self._entries.get(stem, {})
        both = dict(zip(old.get("ids", ()), old.get("class_ids", ()), strict=False))
        both |= dict(zip(entry["ids"], entry["class_ids"], strict=True))
        # The label image is one with meta.json before, between and after these writes.
        self._set_entry(
            stem,
            {
                **entry,
                "ids": [*both],
                "class_ids": [*both.values()],
                "made_by": _made_by(both, old, entry),
            },
        )
        if both.keys() != set(entry["ids"]) or not self._meta_file.is_file() or change.image:
            self._write_meta()
        if change.ignore:
            self._make_ignore()
            self._write_if_new(self._root / "ignore" / f"{stem}.png", change.ignore)
        for folder in ("labels", "images"):
            (self._root / folder).mkdir(exist_ok=True)
        self._write_if_new(self._root / "labels" / f"{stem}.png", change.labels)
        if change.image:
            image = self._root / "images" / entry["image"]
            self._desk.write(image, change.image)
            self._images[stem] = image
            self._by_key.setdefault(entry["source"], []).append(stem)
        self._set_entry(stem, entry)
        self._write_meta()
        self._coco.set(change.coco_image, change.annotations)
        self._coco.write(self._desk)
        self._journal.unlink(missing_ok=True)

    def _needs_ignore(self, drawing: Drawing) -> bool:
        """Whether an ignore image is written: if the dataset has them, or needs them from now."""
        has = (self._root / "ignore").is_dir() or not self._images
        return has or bool(drawing.ignore.any())

    def _make_ignore(self) -> None:
        """Make the folder of ignore images, one for each image, unless it is there."""
        folder = self._root / "ignore"
        if folder.is_dir():
            return
        part = self._desk.folder / "ignore"
        part.mkdir(exist_ok=True)
        for stem, image in self._images.items():
            size = read_any(image, cv2.IMREAD_COLOR).shape[:2]
            (part / f"{stem}.png").write_bytes(_png(np.zeros(size, np.uint8)))
        self._desk.place(part, folder)

    def _write_if_new(self, file: Path, content: bytes) -> None:
        if not file.is_file() or file.read_bytes() != content:
            self._desk.write(file, content)

    def _set_entry(self, stem: str, entry: Entry) -> None:
        if stem not in self._entries:
            self._entries[stem] = {}
            self._meta["frames"].append(self._entries[stem])
        self._entries[stem].clear()
        self._entries[stem].update(entry)

    def _write_meta(self) -> None:
        self._meta["class_names"] = self.class_names
        self._desk.write(self._meta_file, json.dumps(self._meta).encode() + b"\n")


def _made_by(both: dict[int, int], old: Entry, new: Entry) -> list[str]:
    made = dict(zip(old.get("ids", ()), old.get("made_by", ()), strict=False))
    made |= dict(zip(new["ids"], new["made_by"], strict=True))
    return [made.get(number, GIVEN) for number in both]


def _link(files: Sequence[Path], folder: Path) -> None:
    """Give files, which are never changed but only replaced, a second place."""
    folder.mkdir(parents=True)
    for file in files:
        try:
            os.link(file.resolve(), folder / file.name)
        except OSError:  # a file system without links
            shutil.copyfile(file, folder / file.name)


def _short(name: str) -> str:
    """The end of a name that would be too long for a file, and no name of a hidden file."""
    long = len(os.fsencode(name)) > LONGEST_NAME
    return (name[-LONGEST_NAME // 4 :] if long else name).lstrip(".")


def _png(image: NDArray[Any]) -> bytes:
    done, data = cv2.imencode(".png", image)
    if not done:
        raise InstasegError(f"OpenCV cannot encode {image.dtype} {image.shape} as .png")
    return data.tobytes()
