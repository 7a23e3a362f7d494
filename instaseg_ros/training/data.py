"""From samples to training batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from tqdm import tqdm

from instaseg_ros.config import TrainConfig
from instaseg_ros.datasets import Dataset, Sample, open_dataset
from instaseg_ros.datasets.synthetic_street import SyntheticStreet
from instaseg_ros.errors import InputError
from instaseg_ros.methods import Targets
from instaseg_ros.training.augment import random_view


class Batch(NamedTuple):
    """images: (B, 3, H, W) uint8 RGB, channels last in memory; targets: their truth."""

    images: torch.Tensor
    targets: Targets


def to_batch(samples: Sequence[Sample], min_object_px: int = 0) -> Batch:
    """Stack samples of one size; instances are renumbered 1..K within each image.

    Instances with fewer than `min_object_px` pixels are ignored ground.
    """
    images = torch.from_numpy(np.stack([s.frame.image for s in samples])).permute(0, 3, 1, 2)
    labels, class_ids, ignore = [], [], []
    for sample in samples:
        sizes = np.bincount(sample.labels.ravel(), minlength=1 << 16)
        large = sizes[sample.ids] >= min_object_px
        number = np.zeros(1 << 16, np.int64)
        number[sample.ids[large]] = np.arange(1, large.sum() + 1)
        labels.append(number[sample.labels])
        class_ids.append(torch.from_numpy(sample.class_ids[large]))
        ignored = np.isin(sample.labels, sample.ids[~large])
        for other in (sample.ignore, sample.crowd):
            ignored = ignored if other is None else ignored | (other > 0)
        ignore.append(ignored)
    targets = Targets(
        torch.from_numpy(np.stack(labels)), class_ids, torch.from_numpy(np.stack(ignore))
    )
    return Batch(images, targets)


class EndlessStreet(TorchDataset[Sample]):
    """Sample `index` of a run is a function of (seed, index) alone, so a resumed run goes on
    with exactly the frames an uninterrupted one would see."""

    def __init__(self, config: TrainConfig) -> None:
        self.street = SyntheticStreet(
            size=(config.crop_height, config.crop_width), seed=config.seed, depth=False
        )
        self.seed = config.seed
        self.rows = config.horizon_rows or config.crop_height

    def __getitem__(self, index: int) -> Sample:
        return self.street.training_sample(np.random.default_rng([self.seed, index]), self.rows)


class ObjectViews(TorchDataset[Sample]):
    """Random views of a dataset, each around an object; likewise a function of (seed, index)."""

    def __init__(self, dataset: Dataset, config: TrainConfig) -> None:
        self.dataset, self.config = dataset, config
        self.objects = object_index(dataset, config.min_object_px)
        if not len(self.objects):
            raise InputError(
                f"train.dataset {config.dataset}: no object of at least {config.min_object_px} "
                "pixels (train.min_object_px) in it"
            )
        frequency = np.bincount(self.objects["class_id"])
        weight = frequency[self.objects["class_id"]] ** -config.class_balance
        self.cumulative = np.cumsum(weight / weight.sum())

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng([self.config.seed, index])
        row = int(np.searchsorted(self.cumulative, rng.random()))
        chosen = self.objects[min(row, len(self.objects) - 1)]
        size = self.config.crop_height, self.config.crop_width
        sample = self.dataset[int(chosen["image"])]
        center = float(chosen["x"]), float(chosen["y"])
        return random_view(sample, center, size, self.config.augment, rng)


def object_index(dataset: Dataset, min_object_px: int) -> NDArray[np.void]:
    """Every object of the dataset: its image, class and centroid (x, y).

    Reads everything once, so that a missing or broken file is named before training starts.
    """

    def of_image(image: int) -> list[tuple[int, int, float, float]]:
        sample = dataset[image]
        y, x = np.nonzero(sample.labels)
        owner = sample.labels[y, x]
        sizes, sum_x, sum_y = (np.bincount(owner, w, minlength=1 << 16) for w in (None, x, y))
        return [
            (image, c, sum_x[i] / sizes[i] + 0.5, sum_y[i] / sizes[i] + 0.5)
            for i, c in zip(sample.ids, sample.class_ids, strict=True)
            if sizes[i] >= min_object_px
        ]

    with ThreadPoolExecutor() as pool:
        rows = pool.map(of_image, range(len(dataset)))
        everything = tqdm(rows, "reading", len(dataset), leave=False, unit="image")
        kinds = [("image", "i8"), ("class_id", "i8"), ("x", "f8"), ("y", "f8")]
        return np.array([row for some in everything for row in some], kinds)


def _single_threaded(_: int) -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def training_batches(config: TrainConfig, first_step: int) -> Iterable[Batch]:
    """Batches `first_step`, ... up to `config.steps`, prepared by worker processes."""
    wanted = range(first_step * config.batch_size, config.steps * config.batch_size)
    data = EndlessStreet(config) if config.dataset == "synthetic" else _object_views(config)
    return DataLoader(
        data,
        batch_size=config.batch_size,
        sampler=wanted,
        num_workers=config.workers,
        # A forked process hangs on the locks of threads that it does not have.
        multiprocessing_context="spawn" if config.workers else None,
        collate_fn=partial(to_batch, min_object_px=config.min_object_px),
        worker_init_fn=_single_threaded,
        prefetch_factor=4 if config.workers else None,
    )


def _object_views(config: TrainConfig) -> ObjectViews:
    return ObjectViews(open_dataset(config.dataset, "train"), config)


def validation_set(config: TrainConfig) -> Dataset:
    """Held-out samples of the configured dataset."""
    if config.dataset == "synthetic":
        return held_out_street(config.validation_frames, (config.crop_height, config.crop_width))
    return open_dataset(config.dataset, "val")


def held_out_street(frames: int, size: tuple[int, int]) -> SyntheticStreet:
    """Held-out sequences, at least `frames` frames of (H, W) in all: four of each sequence."""
    return SyntheticStreet(
        size=size, split="val", sequences=-(-frames // 4), frames_per_sequence=4, depth=False
    )


def class_names(config: TrainConfig) -> tuple[str, ...]:
    """Classes of the configured dataset. Raises InputError where there is none."""
    if config.dataset == "synthetic":
        return SyntheticStreet.class_names
    return open_dataset(config.dataset, "train").class_names
