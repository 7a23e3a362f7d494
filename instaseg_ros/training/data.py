"""From samples to training batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from instaseg_ros.config import TrainConfig
from instaseg_ros.datasets import Sample
from instaseg_ros.datasets.synthetic_street import SyntheticStreet
from instaseg_ros.errors import ConfigError
from instaseg_ros.methods import Targets


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
        ignore.append(ignored if sample.ignore is None else ignored | sample.ignore)
    targets = Targets(
        torch.from_numpy(np.stack(labels)), class_ids, torch.from_numpy(np.stack(ignore))
    )
    return Batch(images, targets)


class EndlessStreet(Dataset[Sample]):
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


def _single_threaded(_: int) -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def training_batches(config: TrainConfig, first_step: int) -> Iterable[Batch]:
    """Batches `first_step`, ... up to `config.steps`, prepared by worker processes."""
    wanted = range(first_step * config.batch_size, config.steps * config.batch_size)
    return DataLoader(
        EndlessStreet(config),
        batch_size=config.batch_size,
        sampler=wanted,
        num_workers=config.workers,
        # A forked process hangs on the locks of threads that it does not have.
        multiprocessing_context="spawn" if config.workers else None,
        collate_fn=partial(to_batch, min_object_px=config.min_object_px),
        worker_init_fn=_single_threaded,
        prefetch_factor=4 if config.workers else None,
    )


def validation_set(frames: int, size: tuple[int, int]) -> SyntheticStreet:
    """Held-out sequences, at least `frames` frames of (H, W) in all: four of each sequence."""
    return SyntheticStreet(
        size=size, split="val", sequences=-(-frames // 4), frames_per_sequence=4, depth=False
    )


def class_names(config: TrainConfig) -> tuple[str, ...]:
    """Classes of the configured dataset. Raises ConfigError for an unknown dataset."""
    if config.dataset != "synthetic":
        raise ConfigError(f"train.dataset: expected 'synthetic', got '{config.dataset}'")
    return SyntheticStreet.class_names
