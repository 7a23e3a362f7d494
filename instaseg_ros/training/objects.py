"""Indexes the objects of a dataset, and computes the weights of its classes."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from instaseg_ros import __version__
from instaseg_ros.datasets import Dataset, Sample
from instaseg_ros.errors import ConfigError, nearest
from instaseg_ros.files import written_whole

MOST_HIDDEN = 0.1  # of the outline of an object that is whole, where nearer ones touch it
ONE_PIECE = 0.8  # share of its pixels that lie together

log = logging.getLogger(__name__)

KINDS = [
    *(("image", "i8"), ("id", "i8"), ("class_id", "i8"), ("pixels", "i8")),
    *(("x", "f8"), ("y", "f8"), ("top", "i8"), ("bottom", "i8"), ("ground", "i8")),
    *(("whole", "?"), ("image_height", "i8")),
]


def object_index(dataset: Dataset, cache: Path) -> NDArray[np.void]:
    """Every object of the dataset, as KINDS: its image, id, class, size and centroid in pixels, its
    first row and the one below its last, the dense class that it stands on (0: unknown), whether
    the image shows all of it (`_whole`), and the image's height.

    Reads everything once, so that a missing or broken file is named before training starts; the
    result is kept in the file `cache` until a file of the dataset changes.
    """
    key = _fingerprint(dataset)
    try:
        with np.load(cache, allow_pickle=False) as kept:
            if kept["key"] == key and kept["objects"].dtype == KINDS:
                return kept["objects"]
    except Exception as error:  # it is missing or damaged, in any way, which is harmless
        log.debug("%s: %s", cache, error)
    objects = _read(dataset)
    with written_whole(cache) as part, part.open("wb") as file:
        np.savez(file, key=key, objects=objects)
    return objects


def class_weights(
    wanted: str | Mapping[str, Any], class_names: Sequence[str], objects: NDArray[np.void] | None
) -> torch.Tensor:
    """(classes,) float32: the weights from `train.class_weights`.

    `log_frequency` is ERFNet's rule 1 / ln(1.1 + p) with a class's share p of the objects, scaled
    so that the mean over objects is 1.
    """
    weights = torch.ones(len(class_names))
    if isinstance(wanted, Mapping):
        for name, weight in wanted.items():
            if name not in class_names:
                near = nearest(str(name), class_names)
                hint = f"did you mean '{near}'? " if near else ""
                raise ConfigError(
                    f"train.class_weights: unknown class '{name}'; {hint}"
                    f"The dataset has {', '.join(class_names)}"
                )
            if not isinstance(weight, (int, float)) or not 0 <= weight < float("inf"):
                raise ConfigError(
                    f"train.class_weights: expected a number from 0 for '{name}', got {weight!r}"
                )
            weights[class_names.index(name)] = weight
    elif wanted == "log_frequency":
        if objects is None:
            raise ConfigError(
                "train.class_weights: log_frequency needs a recorded dataset; name the weights, "
                "such as {rider: 2}"
            )
        share = np.bincount(objects["class_id"], minlength=len(class_names)) / len(objects)
        rule = 1 / np.log(1.1 + share)
        weights = torch.from_numpy(rule / (rule @ share)).float()
    elif wanted != "equal":
        raise ConfigError(
            "train.class_weights: expected equal, log_frequency, or weights by class name, "
            f"got '{wanted}'"
        )
    return weights


def _fingerprint(dataset: Dataset) -> str:
    """A fingerprint that changes with the dataset's classes and with any of its files."""
    digest = hashlib.sha256(json.dumps([__version__, *dataset.class_names]).encode())
    for index in range(len(dataset)):
        for file in dataset.files(index):
            facts = file.stat() if file.exists() else None  # reading will name a missing file
            line = f"{file} {facts and (facts.st_size, facts.st_mtime_ns)}\n"
            digest.update(line.encode("utf-8", "replace"))  # file names are bytes, not text
    return digest.hexdigest()


def _read(dataset: Dataset) -> NDArray[np.void]:
    def of_image(image: int) -> list[tuple[float, ...]]:
        sample = dataset[image]
        boxes = boxes_of(sample.labels)
        whole = _whole(sample.labels, boxes)
        y, x = np.nonzero(sample.labels)
        owner = sample.labels[y, x]
        sizes, sum_x, sum_y = (np.bincount(owner, w, minlength=1 << 16) for w in (None, x, y))
        return [
            (
                *(image, i, c, sizes[i]),
                *(sum_x[i] / sizes[i] + 0.5, sum_y[i] / sizes[i] + 0.5),
                *(boxes[i, 1], boxes[i, 3], _ground(sample, int(i), boxes[i])),
                *(whole[i], len(sample.labels)),
            )
            for i, c in zip(sample.ids, sample.class_ids, strict=True)
            if sizes[i]
        ]

    with ThreadPoolExecutor() as pool:
        rows = pool.map(of_image, range(len(dataset)))
        everything = tqdm(rows, "reading", len(dataset), leave=False, unit="image")
        return np.array([row for some in everything for row in some], KINDS)


def _ground(sample: Sample, chosen: int, box: NDArray[np.int64]) -> int:
    """The dense class just below the lowest pixel of an object."""
    if sample.semantic is None:
        return 0
    left, _, right, bottom = box
    lowest = np.flatnonzero(sample.labels[bottom - 1, left:right] == chosen)
    below = min(bottom + 1, len(sample.labels) - 1)  # the next row may be a rim of it
    return int(sample.semantic[below, left + lowest[len(lowest) // 2]])


def _whole(labels: NDArray[np.uint16], boxes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """By label: whether the image shows all of an object, as far as can be told: it does not reach
    the border, lies in one piece, and hardly touches another that reaches further down and so is
    nearer. One that belongs together with it does not count."""
    outline, hidden = np.zeros((2, 1 << 16), np.int64)
    for one, other in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
        differ = one != other
        a, b = one[differ], other[differ]
        outline += np.bincount(a, minlength=1 << 16) + np.bincount(b, minlength=1 << 16)
        both = (a > 0) & (b > 0)
        a, b = a[both], b[both]
        a, b = np.where(boxes[a, 3] < boxes[b, 3], (a, b), (b, a))  # the nearer one is b
        apart = (boxes[a, 3] < boxes[b, 3]) & ~belong_together(boxes[a], boxes[b])
        hidden += np.bincount(a[apart], minlength=1 << 16)
    height, width = labels.shape
    whole = hidden <= MOST_HIDDEN * outline
    whole &= (boxes[:, :2] > 0).all(1) & (boxes[:, 2:] < (width, height)).all(1)
    for i in np.flatnonzero(whole & (boxes[:, 2] > 0)).tolist():
        left, top, right, bottom = boxes[i]
        mask = (labels[top:bottom, left:right] == i).astype(np.uint8)
        pieces = cv2.connectedComponentsWithStats(mask)[2][1:, cv2.CC_STAT_AREA]
        whole[i] = pieces.max() >= ONE_PIECE * pieces.sum()
    return whole


def boxes_of(labels: NDArray[np.uint16]) -> NDArray[np.int64]:
    """(65536, 4) by label: left, top, right, bottom of its pixels, the last two exclusive; zeros of
    those that are not there."""
    boxes = np.zeros((1 << 16, 4), np.int64)
    for axis, plane in enumerate((labels.T, labels)):
        places, across = np.nonzero(plane)
        owner = plane[places, across]
        boxes[owner[::-1], axis] = places[::-1]  # the last one that is written stays
        boxes[owner, 2 + axis] = places + 1
    return boxes


def belong_together(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.bool_]:
    """(N,) whether things with these boxes (N, 4) go together, as a rider and the bicycle: they
    share more than half of the smaller box, and stand as far away: between their last rows there is
    less than half of the smaller height."""
    shared = np.concatenate(
        [np.maximum(one[..., :2], other[..., :2]), np.minimum(one[..., 2:], other[..., 2:])], -1
    )
    areas = [(b[..., 2:] - b[..., :2]).clip(min=0).prod(-1) for b in (shared, one, other)]
    height = np.minimum(one[..., 3] - one[..., 1], other[..., 3] - other[..., 1])
    near = np.abs(one[..., 3] - other[..., 3]) < height / 2
    return near & (areas[0] > np.minimum(areas[1], areas[2]) / 2)
