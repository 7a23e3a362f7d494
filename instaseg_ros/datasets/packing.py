"""Writes a dataset as shards for `packed`."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from instaseg_ros.datasets.packed import FIELDS, FORMAT, SHARD
from instaseg_ros.errors import ConfigError
from instaseg_ros.files import written_whole
from instaseg_ros.recordings.image_files import IMAGE_SUFFIXES, decode
from instaseg_ros.samples import Dataset, Sample, Sequences, semantic_names

ENTRY_BYTES = 512  # that zip and the index add to a file, at most
AT_ONCE = 64  # samples in memory


class Packing(NamedTuple):
    """How to pack. shard_bytes: largest size of a shard. quality: of WebP, for images that are
    re-encoded; 0: copy their files."""

    shard_bytes: int = 40 << 20
    quality: int = 0


def pack(
    parts: Iterable[tuple[str, Dataset, Iterable[int]]], folder: Path, how: Packing
) -> list[Path]:
    """Write samples into shards in an empty or new `folder`; returns the shards.

    parts: split, dataset and indices of its samples to pack; the datasets have the same classes.
    Raises ConfigError if the folder is not empty, or one sample is larger than a shard.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ConfigError(f"output {folder}: expected an empty folder, or none")
    shards: list[Path] = []
    held: dict[str, bytes] = {}
    entries: list[dict[str, Any]] = []
    size = 0
    head: dict[str, Any] = {}

    def write(last: bool) -> None:
        path = folder / SHARD.format(len(shards))
        index = {**head, "shard": len(shards), "last": last, "samples": entries}
        with written_whole(path) as part, zipfile.ZipFile(part, "w") as shard:
            shard.writestr("index.json", json.dumps(index))
            for name, content in held.items():
                shard.writestr(name, content)
        shards.append(path)

    for split, dataset, indices in parts:
        head = {
            "format": FORMAT,
            "class_names": list(dataset.class_names),
            "semantic_names": list(semantic_names(dataset)),
            "least_px": getattr(dataset, "least_px", None),
        }
        for name, files, entry in _each_packed(split, dataset, list(indices), how.quality):
            more = sum(len(content) + ENTRY_BYTES for content in files.values())
            more += len(json.dumps(entry)) + 2
            if more + ENTRY_BYTES > how.shard_bytes:
                raise ConfigError(f"{name}: it has {more} bytes, a shard {how.shard_bytes}")
            if size + more + 2 * len(json.dumps(head)) + ENTRY_BYTES > how.shard_bytes:
                write(last=False)
                held.clear()
                entries.clear()
                size = 0
            held.update(files)
            entries.append(entry)
            size += more
    if not entries:
        raise ConfigError("expected samples to pack, got none")
    write(last=True)
    return shards


def _each_packed(
    split: str, dataset: Dataset, indices: Sequence[int], quality: int
) -> Iterator[tuple[str, dict[str, bytes], dict[str, Any]]]:
    """The name, files and entry of each sample, made on all cores, some at a time."""

    def one(index: int) -> tuple[str, dict[str, bytes], dict[str, Any]]:
        name = f"{split}-{index:06d}"
        files, entry = _packed(dataset, index, name, quality)
        return name, files, {**entry, "split": split}

    with ThreadPoolExecutor() as pool, tqdm(total=len(indices), unit="image", leave=False) as bar:
        for first in range(0, len(indices), AT_ONCE):
            for made in pool.map(one, indices[first : first + AT_ONCE]):
                bar.update()
                yield made


def _packed(
    dataset: Dataset, index: int, name: str, quality: int
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The files of a sample, and its entry in the index without the split."""
    sample = dataset[index]
    suffix, image = _image(dataset, index, sample, quality)
    planes = {field: getattr(sample, field) for field in FIELDS}
    files = {f"{name}{suffix}": image}
    for field, plane in planes.items():
        if plane is not None:
            small = field != "labels" or int(plane.max()) < 256
            files[f"{name}.{field}.png"] = _png(plane.astype(np.uint8 if small else np.uint16))
    entry = {
        "name": name,
        "image": suffix,
        "fields": [field for field, plane in planes.items() if plane is not None],
        "ids": sample.ids.tolist(),
        "class_ids": sample.class_ids.tolist(),
        "stamp_ns": sample.frame.stamp_ns,
        "sequence": dataset.sequence(index) if isinstance(dataset, Sequences) else None,
        "pose": None if sample.pose is None else sample.pose.tolist(),
        "intrinsics": None if sample.frame.intrinsics is None else sample.frame.intrinsics.tolist(),
    }
    return files, {key: value for key, value in entry.items() if value is not None}


def _image(dataset: Dataset, index: int, sample: Sample, quality: int) -> tuple[str, bytes]:
    """Suffix and content of a file with the sample's image: its own, unless that shows more."""
    bgr = cv2.cvtColor(sample.frame.image, cv2.COLOR_RGB2BGR)
    if quality:
        return ".webp", bytes(cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, quality])[1])
    for file in dataset.files(index)[:1]:
        suffix = file.suffix.lower()
        if suffix in IMAGE_SUFFIXES:
            content = file.read_bytes()
            if np.array_equal(decode(content, cv2.IMREAD_COLOR), bgr):
                return suffix, content
    return ".png", _png(bgr)


def _png(image: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 6])[1])
