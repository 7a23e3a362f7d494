"""Reads a dataset packed into few files (`instaseg pack`), for transport to another machine.

`shard-000.zip`, `shard-001.zip`, ... hold, uncompressed, `index.json` and for each sample the files
of its image (unchanged, or WebP) and of its truth (PNG, one for each of its FIELDS). The index
describes them:

    {"format": FORMAT, "shard": 0, "last": false, "class_names": [...], "semantic_names": [...],
     "least_px": null, "samples": [{"name": "000001", "split": "train", "image": ".webp",
     "fields": ["labels", "semantic"], "ids": [1, 2], "class_ids": [0, 0], "stamp_ns": 0}, ...]}

with `sequence`, `pose` and `intrinsics` where a sample has them.
"""

from __future__ import annotations

import functools
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from instaseg_ros.datasets.border import named, reads_files
from instaseg_ros.datasets.reading import unknown_split
from instaseg_ros.errors import ImageError, InputError
from instaseg_ros.frames import Frame
from instaseg_ros.recordings.image_files import IMAGE_SUFFIXES, decode
from instaseg_ros.samples import Sample, class_name, present_ids, whole

FORMAT = "instaseg_ros packed dataset 1"
SHARD = "shard-{:03d}.zip"
FIELDS = ("labels", "ignore", "crowd", "semantic")  # the fields of `Sample` that are images
MAX_INDEX = 64 << 20  # bytes
MAX_CLASSES = 1000

_open = functools.lru_cache(maxsize=64)(zipfile.ZipFile)  # reading is safe in threads


class Packed:
    """The samples of a split in a folder of shards; all for any split if there were no splits."""

    def __init__(self, root: str | Path, split: str = "") -> None:
        found = list(_indexes(Path(root)))
        first = found[0][1]
        self.class_names = _names(found[0][0], first, "class_names")
        self.semantic_names = _names(found[0][0], first, "semantic_names")
        self.least_px = _least_px(found[0][0], first)
        if not self.class_names:
            raise InputError(f"{found[0][0]}: expected at least one class")
        known = _splits(found)
        if known and split not in known:
            raise unknown_split(root, split, known)
        self._samples = [
            (path, entry)
            for path, index in found
            for entry in index["samples"]
            if not known or entry["split"] == split
        ]

    def __len__(self) -> int:
        return len(self._samples)

    def files(self, index: int) -> tuple[Path, ...]:
        return (self._samples[index][0],)

    @reads_files
    def __getitem__(self, index: int) -> Sample:
        path, entry = self._samples[index]
        with named(f"{path}: {entry.get('name')!s:.60}"):
            return self._read(path, entry)

    def _read(self, path: Path, entry: Mapping[str, Any]) -> Sample:
        name, suffix = entry["name"], entry["image"]
        if suffix not in IMAGE_SUFFIXES:
            raise InputError(f"{path}: {name}: expected an image's suffix, found {suffix!r:.40}")
        bgr = _image(path, f"{name}{suffix}", cv2.IMREAD_COLOR)
        image = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
        size = image.shape[:2]
        planes = {field: self._plane(path, name, field, size) for field in entry["fields"]}
        ids = _whole_numbers(entry["ids"], 1, (1 << 16) - 1)
        labels = planes["labels"].astype(np.uint16)
        if not np.array_equal(ids, present_ids(labels)):
            raise InputError(f"{path}: {name}: expected the ids of its labels")
        classes = _whole_numbers(entry["class_ids"], 0, len(self.class_names) - 1)
        if len(classes) != len(ids):
            raise InputError(f"{path}: {name}: expected a class for each of {len(ids)} ids")
        ignore = planes.get("ignore")
        stamp_ns = whole(entry.get("stamp_ns", 0)) or 0
        intrinsics = _matrix(entry.get("intrinsics"), 3)
        return Sample(
            Frame(image, stamp_ns=stamp_ns, intrinsics=intrinsics),
            labels,
            ids.astype(np.uint16),
            classes,
            None if ignore is None else ignore > 0,
            _matrix(entry.get("pose"), 4),
            planes.get("crowd"),
            planes.get("semantic"),
        )

    def _plane(self, path: Path, name: str, field: str, size: tuple[int, ...]) -> NDArray[Any]:
        plane = _image(path, f"{name}.{field}.png", cv2.IMREAD_UNCHANGED)
        wanted = (np.uint8, np.uint16) if field == "labels" else (np.uint8,)
        if plane.dtype not in wanted or plane.shape != size:
            raise InputError(
                f"{path}: {name}.{field}.png: expected one channel of {size} pixels like its "
                f"image, found {plane.dtype} of {plane.shape}"
            )
        most = {"crowd": len(self.class_names), "semantic": len(self.semantic_names)}.get(field)
        if most is not None and plane.max() > most:
            raise InputError(
                f"{path}: {name}.{field}.png: expected classes up to {most}, found {plane.max()}"
            )
        return plane


class PackedSequences(Packed):
    """`Packed` for a dataset of sequences."""

    def sequence(self, index: int) -> str:
        return str(self._samples[index][1]["sequence"])


def open_packed(root: Path, split: str) -> Packed:
    """Open packed samples, with sequences if every sample has one."""
    found = list(_indexes(root))
    every = all(isinstance(e.get("sequence"), str) for _, i in found for e in i["samples"])
    return (PackedSequences if every else Packed)(root, split)


def splits(root: Path) -> tuple[str, ...]:
    """The splits of the packed samples."""
    return _splits(list(_indexes(root)))


def _splits(found: Sequence[tuple[Path, Mapping[str, Any]]]) -> tuple[str, ...]:
    names = {entry["split"] for _, index in found for entry in index["samples"]}
    return tuple(sorted(names - {""}))


def _indexes(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The shards of a folder, all of one dataset and without gaps, with their indexes."""
    paths = sorted(root.glob("shard-*.zip"))
    last = None
    for number, path in enumerate(paths):
        index = _index(path, path.stat().st_mtime_ns)
        if path.name != SHARD.format(number) or index["shard"] != number:
            raise InputError(
                f"{path}: expected {SHARD.format(number)}, the shard with number {number} in its "
                "index; all shards of one dataset must be there, and no others"
            )
        if last is not None and (last["last"] or last["class_names"] != index["class_names"]):
            raise InputError(f"{path}: belongs to another dataset than the shards before it")
        last = index
        yield path, index
    if last is None or not last["last"]:
        missing = SHARD.format(len(paths))
        raise InputError(f"{root}: expected also {missing}: not all shards are there")


@functools.lru_cache(maxsize=64)
def _index(path: Path, _: int) -> dict[str, Any]:
    """The index of a shard; the second argument, its modification time, is for the cache."""
    _open.cache_clear()  # another file may be there now
    with named(str(path), "expected a shard written by `instaseg pack`"):
        index = json.loads(_content(path, "index.json", MAX_INDEX))
        if not isinstance(index, dict) or index.get("format") != FORMAT:
            raise ValueError(f"its format is not '{FORMAT}'")
        if not isinstance(index["shard"], int) or not isinstance(index["last"], bool):
            raise TypeError("'shard' is no number, or 'last' neither true nor false")
        for entry in index["samples"]:
            texts = [entry[key] for key in ("name", "split", "image")] + list(entry["fields"])
            if not all(isinstance(text, str) and len(text) <= 200 for text in texts):
                raise TypeError(f"a sample with invalid names: {texts!r:.200}")
            if not {"labels"} <= set(entry["fields"]) <= set(FIELDS):
                raise ValueError(f"a sample with the fields {entry['fields']!r:.100}")
        return index


def _content(path: Path, name: str, most: int = 1 << 62) -> bytes:
    """A file of a shard, stored uncompressed: it takes no more memory than on disk."""
    shard = _open(path)
    try:
        info = shard.getinfo(name)
    except KeyError:
        raise InputError(f"{path}: expected {name:.200} in it, found no such file") from None
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > min(most, path.stat().st_size):
        raise InputError(f"{path}: expected {name:.200} uncompressed and of bounded size")
    return shard.read(info)


def _image(path: Path, name: str, flags: int) -> NDArray[Any]:
    try:
        return decode(_content(path, name), flags)
    except ImageError as error:
        raise InputError(f"{path}: {name:.200}: {error}") from error


def _least_px(path: Path, index: dict[str, Any]) -> float | None:
    least = index.get("least_px")
    if least is None:
        return None
    if isinstance(least, bool) or not isinstance(least, (int, float)) or not 0 < least < 1e9:
        raise InputError(
            f"{path}: least_px: expected a number of pixels or null, got {least!r:.60}"
        )
    return float(least)


def _names(path: Path, index: Mapping[str, Any], key: str) -> tuple[str, ...]:
    with named(str(path), f"expected names in `{key}`"):
        names = tuple(map(class_name, index[key]))
        if len(set(names)) < len(names) or len(names) > MAX_CLASSES:
            raise ValueError(f"{len(names)} of them, or two are equal")
        return names


def _whole_numbers(values: Any, low: int, high: int) -> NDArray[np.int64]:
    if not isinstance(values, list) or not all(type(v) is int and low <= v <= high for v in values):
        raise ValueError(f"expected whole numbers of {low} to {high}, found {values!r:.80}")
    return np.array(values, np.int64)


def _matrix(values: Any, side: int) -> NDArray[np.float64] | None:
    if values is None:
        return None
    matrix = np.array(values, np.float64)
    if matrix.shape != (side, side) or not np.isfinite(matrix).all():
        raise ValueError(f"expected {side} rows of {side} numbers, found {values!r:.80}")
    return matrix
