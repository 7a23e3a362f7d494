"""Where the objects of a dataset are, and what its classes weigh."""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from instaseg_ros import __version__
from instaseg_ros.datasets import Dataset
from instaseg_ros.errors import ConfigError
from instaseg_ros.files import written_whole

log = logging.getLogger(__name__)

KINDS = [
    *(("image", "i8"), ("id", "i8"), ("class_id", "i8"), ("pixels", "i8")),
    *(("x", "f8"), ("y", "f8"), ("uncut", "?"), ("rows", "i8")),
]


def object_index(dataset: Dataset, cache: Path) -> NDArray[np.void]:
    """Every object of the dataset, as KINDS: its image, id, class, size and centroid in pixels,
    whether the border of the image leaves it whole, and the image's height.

    Reads everything once, so that a missing or broken file is named before training starts; what
    was found is kept in the file `cache` until a file of the dataset changes.
    """
    key = _fingerprint(dataset)
    try:
        with np.load(cache, allow_pickle=False) as kept:
            if kept["key"] == key and kept["objects"].dtype == KINDS:
                return kept["objects"]
    except Exception as error:  # there is none, or not a whole one: in many ways, all harmless
        log.debug("%s: %s", cache, error)
    objects = _read(dataset)
    with written_whole(cache) as part, part.open("wb") as file:
        np.savez(file, key=key, objects=objects)
    return objects


def class_weights(
    wanted: str | Mapping[str, Any], class_names: Sequence[str], objects: NDArray[np.void] | None
) -> torch.Tensor:
    """(classes,) float32: what `train.class_weights` asks for.

    `log_frequency` is ERFNet's rule 1 / ln(1.1 + p) with a class's share p of the objects, so
    scaled that the mean over objects is 1.
    """
    weights = torch.ones(len(class_names))
    if isinstance(wanted, Mapping):
        for name, weight in wanted.items():
            if name not in class_names:
                near = difflib.get_close_matches(str(name), class_names, n=1)
                hint = f"did you mean '{near[0]}'? " if near else ""
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
    """Changes with the dataset's classes, and with any of its files."""
    digest = hashlib.sha256(json.dumps([__version__, *dataset.class_names]).encode())
    for index in range(len(dataset)):
        for file in dataset.files(index):
            facts = file.stat() if file.exists() else None  # reading will name the missing one
            line = f"{file} {facts and (facts.st_size, facts.st_mtime_ns)}\n"
            digest.update(line.encode("utf-8", "replace"))  # a name of a file is bytes, not text
    return digest.hexdigest()


def _read(dataset: Dataset) -> NDArray[np.void]:
    def of_image(image: int) -> list[tuple[float, ...]]:
        sample = dataset[image]
        rim = (sample.labels[[0, -1]], sample.labels[:, [0, -1]])
        cut = np.unique(np.concatenate([values.ravel() for values in rim]))
        y, x = np.nonzero(sample.labels)
        owner = sample.labels[y, x]
        sizes, sum_x, sum_y = (np.bincount(owner, w, minlength=1 << 16) for w in (None, x, y))
        return [
            (
                *(image, i, c, sizes[i]),
                *(sum_x[i] / sizes[i] + 0.5, sum_y[i] / sizes[i] + 0.5),
                *(i not in cut, len(sample.labels)),
            )
            for i, c in zip(sample.ids, sample.class_ids, strict=True)
            if sizes[i]
        ]

    with ThreadPoolExecutor() as pool:
        rows = pool.map(of_image, range(len(dataset)))
        everything = tqdm(rows, "reading", len(dataset), leave=False, unit="image")
        return np.array([row for some in everything for row in some], KINDS)
