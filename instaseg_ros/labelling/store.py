"""Keeps the labelled frames on disk: each change whole or not at all, whatever ends the process."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from instaseg_ros.datasets import ALL, kind_of
from instaseg_ros.datasets.border import named
from instaseg_ros.datasets.coco import Coco, annotations_file
from instaseg_ros.datasets.coco_entries import file_name
from instaseg_ros.datasets.label_images import splits
from instaseg_ros.datasets.reading import read_any, read_json, read_labels
from instaseg_ros.errors import ConfigError, InputError, InstasegError
from instaseg_ros.files import publish
from instaseg_ros.frames import Frame
from instaseg_ros.labelling.coco_document import IGNORE, CocoDocument, Entry
from instaseg_ros.labelling.editing import GIVEN, Drawing, Object
from instaseg_ros.labelling.frames import Origin, split_of
from instaseg_ros.recordings.annotation_files import unused_name
from instaseg_ros.recordings.image_files import IMAGE_SUFFIXES
from instaseg_ros.samples import class_name, present_ids

DESK = ".labelling"  # folder for the lock and the journal
META, COCO_JSON = "meta.json", "coco.json"
ONLY_CLASS = "object"  # of label images without meta.json
LONGEST_NAME = 200  # bytes; file systems have 255, and names of unfinished files are longer


class Store(Protocol):
    """A dataset on disk. class_names: its classes. no_ignore: why ignored pixels cannot be written;
    empty if they can.

    Frames have the number and the origin that `Frames` gives them. `save` and `save_classes` raise
    OSError if the disk refuses; nothing is lost then, and they may be called again. They belong in
    one thread, the rest in any. Only one process has a dataset open.
    """

    class_names: list[str]
    no_ignore: str

    def load(self, number: int, frame: Frame, origin: Origin) -> Drawing | None:
        """The frame as it was saved; None if it was not. Raises InputError if it is damaged."""
        ...

    def save(self, number: int, frame: Frame, origin: Origin, drawing: Drawing) -> None: ...

    def labelled(self) -> set[int]:
        """The numbers of the frames that are saved, as far as they are known."""
        ...

    def add_class(self, name: str) -> None:
        """Add a class after all others; only `save_classes`, or `save`, writes it."""
        ...

    def save_classes(self) -> None: ...

    def close(self) -> None: ...


def open_store(path: str | Path, class_names: Sequence[str], in_place: bool) -> Store:
    """Open the dataset at `path` to label it; a new one has these classes.

    in_place: it exists, and its own frames are labelled. Raises ConfigError for anything else than
    label images and COCO, and if another process has it open.
    """
    root = Path(path)
    if not in_place:
        return LabelImageStore(root, class_names)
    kind = kind_of(root)
    if kind.name == "COCO":
        return CocoStore(root)
    if (root / "labels").is_dir():
        return LabelImageStore(root, class_names)
    raise ConfigError(
        f"dataset {root}: expected COCO or label images in labels/, which are corrected in place, "
        f"found {kind.name}; give -o with a new folder to correct a copy"
    )


class Desk:
    """A hidden folder beside a dataset, which one process at a time holds, until it has ended,
    however it ends. Files are written there, and get their place when they are whole, so that a
    killed process leaves nothing in the dataset that looks like a part of it.

    Raises ConfigError if another process holds it.
    """

    def __init__(self, folder: Path, what: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._part = folder / "unfinished"
        self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise ConfigError(
                f"dataset {what} is open in another `instaseg label`: go on there, or end it first"
            ) from error

    def write(self, path: Path, content: bytes) -> None:
        """Write a file, whole or not at all."""
        try:
            self._part.write_bytes(content)
            publish(self._part, path)
        finally:
            self._part.unlink(missing_ok=True)

    def release(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


class _Change(NamedTuple):
    """All that a saved frame changes; what is written first, and done again after a crash.

    entry: of meta.json. image: bytes and suffix of a new image, else empty. labels, ignore: PNG.
    coco: the image's annotations.
    """

    entry: Entry
    image: bytes
    labels: bytes
    ignore: bytes
    coco_image: Entry
    annotations: list[Entry]


class LabelImageStore:
    """`images/`, 16-bit `labels/`, `ignore/`, and `meta.json` with the classes and, of each frame,
    its label values, their classes and who made them, its stamp, frame_id, topic and source. The
    same as COCO: `coco.json`.

    A change is first written whole to a journal, then to these files, in an order in which the
    dataset is readable at any time; opening it does a journal again that is still there.
    """

    def __init__(self, root: Path, class_names: Sequence[str] = ()) -> None:
        self._root = root
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
        try:
            self._journal = root / DESK / "journal"
            if self._journal.is_file():
                self._read()
                self._finish(_unpacked(self._journal))
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
        if self._journal.is_file():  # the disk refused the rest of the last change
            self._finish(_unpacked(self._journal))
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
        coco_image = self._coco_image(image_name, drawing.size, entry)
        change = _Change(
            entry,
            image,
            _png(drawing.labels),
            _png(drawing.ignore * np.uint8(255)) if self._needs_ignore(drawing) else b"",
            coco_image,
            self._annotations(coco_image["id"], drawing),
        )
        self._desk.write(self._journal, _packed(change))
        self._finish(change)

    def labelled(self) -> set[int]:
        entries = [*self._entries.values()]
        return {n for e in entries if isinstance(n := e.get("number"), int)}

    def add_class(self, name: str) -> None:
        self.class_names.append(name)
        self._coco.add_category(name)

    def save_classes(self) -> None:
        if self._meta_file.is_file():  # else with the first frame
            self._write_meta()
            self._write_coco()

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
        self._coco = self._read_coco()

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

    def _finish(self, change: _Change) -> None:
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
        self._set_coco(change.coco_image, change.annotations)
        self._write_coco()
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
        publish(part, folder)

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

    def _read_coco(self) -> CocoDocument:
        file = self._root / COCO_JSON
        document: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
        if file.is_file():
            with suppress(InputError):  # it is made again from the rest, frame by frame
                document = read_json(file)
        document["categories"] = [
            {"id": k, "name": name} for k, name in enumerate(self.class_names, 1)
        ]
        with named(str(file)):
            return CocoDocument(document, range(1, len(self.class_names) + 1))

    def _coco_image(self, name: str, size: tuple[int, int], entry: Entry) -> Entry:
        images = self._coco.document["images"]
        known = next((one for one in images if one.get("file_name") == name), None)
        number = 1 + max((one["id"] for one in images), default=0)
        described = {"id": number, "file_name": name, "height": size[0], "width": size[1]}
        kept = {key: entry[key] for key in ("stamp_ns", "frame_id", "topic") if key in entry}
        return known or {**described, **kept}

    def _annotations(self, image_id: int, drawing: Drawing) -> list[Entry]:
        """The annotations of a frame as they will be."""
        own = [dict(a) for a in self._coco.of_image(image_id)]
        scratch = CocoDocument({"annotations": own}, self._coco.categories)
        scratch.start_after(self._coco.document["annotations"])
        owners = {int(a["track_id"]): a for a in own if "track_id" in a}
        for number, entry in scratch.set_objects(image_id, drawing, owners, None).items():
            entry["track_id"] = number
        scratch.set_ignore(image_id, drawing.ignore, [])
        made: list[Entry] = scratch.document["annotations"]
        return made

    def _set_coco(self, image: Entry, annotations: list[Entry]) -> None:
        document = self._coco.document
        if all(one.get("id") != image["id"] for one in document["images"]):
            document["images"].append(image)
        rest = [a for a in document["annotations"] if a.get("image_id") != image["id"]]
        document["annotations"] = [*rest, *annotations]
        self._coco.start_after(document["annotations"])

    def _write_coco(self) -> None:
        self._desk.write(self._root / COCO_JSON, json.dumps(self._coco.document).encode() + b"\n")


def _made_by(both: dict[int, int], old: Entry, new: Entry) -> list[str]:
    made = dict(zip(old.get("ids", ()), old.get("made_by", ()), strict=False))
    made |= dict(zip(new["ids"], new["made_by"], strict=True))
    return [made.get(number, GIVEN) for number in both]


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

    def labelled(self) -> set[int]:
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


def _short(name: str) -> str:
    """The end of a name that would be too long for a file, and no name of a hidden file."""
    long = len(os.fsencode(name)) > LONGEST_NAME
    return (name[-LONGEST_NAME // 4 :] if long else name).lstrip(".")


def _png(image: NDArray[Any]) -> bytes:
    done, data = cv2.imencode(".png", image)
    if not done:
        raise InstasegError(f"OpenCV cannot encode {image.dtype} {image.shape} as .png")
    return data.tobytes()


def _packed(change: _Change) -> bytes:
    facts = {
        "entry": change.entry,
        "coco_image": change.coco_image,
        "annotations": change.annotations,
        "sizes": [len(change.image), len(change.labels), len(change.ignore)],
    }
    return json.dumps(facts).encode() + b"\n" + change.image + change.labels + change.ignore


def _unpacked(file: Path) -> _Change:
    with named(str(file), "cannot be read; remove it to go on without the last change"):
        line, _, rest = file.read_bytes().partition(b"\n")
        facts = json.loads(line)
        ends = np.cumsum(facts["sizes"]).tolist()
        if ends[-1] != len(rest):
            raise ValueError(f"expected {ends[-1]} bytes, found {len(rest)}")
        parts = rest[: ends[0]], rest[ends[0] : ends[1]], rest[ends[1] :]
        return _Change(facts["entry"], *parts, facts["coco_image"], facts["annotations"])
