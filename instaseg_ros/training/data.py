"""From samples to training batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


def to_batch(samples: Sequence[Sample]) -> Batch:
    """Stack samples of one size; instances are renumbered 1..K within each image."""
    images = torch.from_numpy(np.stack([s.frame.image for s in samples])).permute(0, 3, 1, 2)
    labels, ignore = [], []
    for sample in samples:
        number = np.zeros(1 << 16, np.int64)
        number[sample.ids] = np.arange(1, len(sample.ids) + 1)
        labels.append(number[sample.labels])
        ignore.append(
            np.zeros(sample.labels.shape, bool) if sample.ignore is None else sample.ignore
        )
    class_ids = [torch.from_numpy(np.asarray(s.class_ids, np.int64)) for s in samples]
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

    def __getitem__(self, index: int) -> Sample:
        return self.street.training_sample(np.random.default_rng([self.seed, index]))


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
        collate_fn=to_batch,
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
