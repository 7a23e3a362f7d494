"""Truth of datasets, as text and as label images: refused by name, or such as a loss can use."""

from __future__ import annotations

import copy
import json
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import dataset_layouts
import numpy as np
from driver import mutated

from instaseg_ros.datasets import ALL, Sample, open_dataset, splits_of
from instaseg_ros.datasets.survey import content
from instaseg_ros.errors import InputError

MEMORY_MB = 300
FRAMES = 2
MADE: dict[bytes, tuple[Path, str]] = {}  # the dataset of each kind, and which file is mutated
VALUES = (None, True, -1, 0, 1, 1.5, 1e30, -4e7, 2**62, 10**40, "", "1", "\ud800", [], [[1]], {})


def seeds() -> list[bytes]:
    """A letter of the dataset, then its truth. The datasets themselves lie in a folder that lasts
    as long as the process."""
    root, frames = Path(_FOLDER.name), dataset_layouts.street_samples(FRAMES)
    squares = [{"segmentation": dataset_layouts.square_polygon(2, 2, 9), "bbox": [1, 2, 3, 4]}]
    runs = [
        {"segmentation": {"size": [*dataset_layouts.SIZE], "counts": [10, 20, 8162]}, "iscrowd": 1}
    ]
    MADE.update(
        {
            b"C": (
                dataset_layouts.write_coco(root / "coco", frames).parents[1],
                "annotations/*.json",
            ),
            b"c": (dataset_layouts.write_coco_of_one(root / "one", squares + runs), ""),
            b"K": (
                dataset_layouts.write_kitti_mots(root / "kitti", frames, "0002", "instances_txt"),
                "instances_txt/*.txt",
            ),
            b"I": (dataset_layouts.write_label_images(root / "coded", frames), "instances/0.png"),
            b"M": (_with_meta(root / "meta", frames), "meta.json"),
            b"P": (dataset_layouts.write_cvppp(root / "leaves", frames), "A1/plant001_label.png"),
            b"Y": (
                dataset_layouts.write_cityscapes(root / "city", frames),
                "gtFine/train/ulm/*_000000_*",
            ),
        }
    )
    return [kind + _truth(*made).read_bytes() for kind, made in MADE.items()]


def mutate(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Values of other kinds and sizes anywhere in what is JSON, other pixels in what is an image;
    or byte by byte."""
    whole = rng.choice(seeds)
    kind, data = whole[:1], whole[1:]
    if rng.random() < 0.4:
        return kind + mutated(rng, [data])
    if data.startswith(b"{"):
        document = json.loads(data)
        for _ in range(rng.choice((1, 1, 2, 5))):
            _change(rng, document)
        return kind + json.dumps(document).encode()
    if data.startswith(b"\x89PNG"):
        labels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        shape = [rng.choice((n, n, n, n + 1, 1)) for n in labels.shape]
        changed = np.resize(labels, shape).astype(rng.choice((np.uint16, np.uint16, np.uint8)))
        for _ in range(rng.choice((1, 3, 300))):
            place = tuple(rng.randrange(n) for n in changed.shape)
            changed[place] = rng.choice((0, 1, 7, 26, 29, 255, rng.randrange(256)))
            if changed.dtype == np.uint16:
                changed[place] = rng.choice((999, 10_000, 24_999, 26_001, rng.randrange(1 << 16)))
        return kind + cv2.imencode(".png", changed)[1].tobytes()
    words = data.split()
    words[rng.randrange(len(words))] = rng.choice((b"-1", b"0", b"64", b"9" * 30, b"1000", b"\xff"))
    lines = (b" ".join(words[k : k + 6]) for k in range(0, len(words), 6))
    return kind + b"\n".join(lines)


def feed(data: bytes, folder: Path) -> None:
    root, pattern = MADE[data[:1]]
    truth = _truth(root, pattern)
    truth.write_bytes(data[1:])
    try:
        for split in splits_of(root) or (ALL,):
            dataset = open_dataset(root, split)
            for index in range(len(dataset)):
                _check(dataset[index], len(dataset.class_names))
    except InputError as error:
        assert root.name in str(error)
        raise


def _check(sample: Sample, classes: int) -> None:
    labels, ids = sample.labels, sample.ids
    assert labels.shape == sample.frame.image.shape[:2] and labels.dtype == np.uint16
    assert ids.tolist() == np.setdiff1d(labels, [0]).tolist()
    assert sample.class_ids.shape == ids.shape
    assert np.isin(sample.class_ids, range(classes)).all()
    assert sample.crowd is None or sample.crowd.max() <= classes
    content(sample)


def _truth(root: Path, pattern: str) -> Path:
    return next(root.glob(pattern)) if pattern else root


def _with_meta(root: Path, frames: Sequence[Any]) -> Path:
    """The synthetic street's export."""
    listed = []
    for n, sample in enumerate(frames):
        dataset_layouts.write_image(root / "images" / f"{n}.png", sample.frame.image)
        dataset_layouts.write_image(root / "labels" / f"{n}.png", sample.labels)
        ids = {"ids": sample.ids.tolist(), "class_ids": sample.class_ids.tolist()}
        listed.append({"file": f"{n}.png", **ids})
    meta = {"class_names": dataset_layouts.CLASS_NAMES, "frames": listed}
    (root / "meta.json").write_text(json.dumps(meta))
    return root


def _change(rng: random.Random, document: Any) -> None:
    """Put another value into a place of a JSON document."""
    place = document
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = rng.choice(keys)
        if not (isinstance(place[key], (dict, list)) and place[key]) or rng.random() < 0.1:
            break
        place = place[key]
    place[key] = copy.deepcopy(rng.choice(VALUES))


_FOLDER = tempfile.TemporaryDirectory()
