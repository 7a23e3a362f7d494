"""Training: targets, schedule, and a run that resumes after a kill as if nothing had happened."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from instaseg_ros.checkpoint import load_checkpoint
from instaseg_ros.config import Config, TrainConfig, merge
from instaseg_ros.datasets import Sample
from instaseg_ros.errors import ConfigError, InputError
from instaseg_ros.frames import Frame
from instaseg_ros.training.data import to_batch, training_batches
from instaseg_ros.training.schedule import learning_rate
from instaseg_ros.training.trainer import train

SMALL = {
    "train.steps": 2,
    "train.batch_size": 2,
    "train.crop_height": 64,
    "train.crop_width": 96,
    "train.workers": 0,
    "train.warmup_steps": 2,
    "train.validation_frames": 2,
    "runtime.device": "cpu",
}


def test_targets_are_numbered_per_image_and_keep_classes() -> None:
    labels = np.zeros((8, 8), np.uint16)
    labels[0], labels[3, 3] = 900, 7
    sample = Sample(
        Frame(np.zeros((8, 8, 3), np.uint8)), labels, np.array([7, 900]), np.array([2, 0])
    )
    batch = to_batch([sample, sample])
    assert batch.images.shape == (2, 3, 8, 8)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.targets.labels[1, 3, 3] == 1 and batch.targets.labels[1, 0, 0] == 2
    assert batch.targets.class_ids[0].tolist() == [2, 0]
    assert not batch.targets.ignore.any()
    batch = to_batch([sample], min_object_px=2)  # row 0 has eight pixels of 900, 7 has one
    assert batch.targets.labels.sum() == 8 and batch.targets.class_ids[0].tolist() == [0]
    assert batch.targets.ignore.sum() == 1 and batch.targets.ignore[0, 3, 3]


def test_learning_rate_warms_up_and_ends_at_zero() -> None:
    config = dataclasses.replace(TrainConfig(), steps=1000, warmup_steps=100, learning_rate=1.0)
    rates = [learning_rate(config, step) for step in range(1001)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == rates[100] == pytest.approx(1.0)
    assert rates[1000] == pytest.approx(0.0)


def test_the_published_schedule_is_a_polynomial_of_degree_0_9() -> None:
    config = dataclasses.replace(
        TrainConfig(), steps=10, warmup_steps=0, learning_rate=5e-4, schedule="poly"
    )
    rates = [learning_rate(config, step) for step in range(11)]
    assert rates == pytest.approx([5e-4 * (1 - step / 10) ** 0.9 for step in range(11)])


def test_a_synthetic_run_leaves_weights_that_describe_themselves(tmp_path: Path) -> None:
    weights = load_checkpoint(train(merge(Config(), SMALL), tmp_path / "run"))
    assert weights.class_names == ("person", "rider", "car", "truck", "bus")
    assert weights.notes["train"]["steps"] == 2


def test_processes_share_out_every_batch() -> None:
    """And a resumed run goes on with the next."""

    class Numbers(torch.utils.data.Dataset[int]):
        def __getitem__(self, index: int) -> int:
            return index

    config = dataclasses.replace(TrainConfig(), batch_size=4, steps=3, workers=0)

    def seen(first: int, rank: int, size: int) -> list[list[int]]:
        loader = training_batches(Numbers(), config, first, rank, size)  # type: ignore[arg-type]
        loader.collate_fn = list  # type: ignore[attr-defined]
        return list(loader)  # type: ignore[arg-type]

    assert seen(0, 0, 1) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert seen(1, 0, 2) == [[4, 5], [8, 9]]
    assert seen(1, 1, 2) == [[6, 7], [10, 11]]


def test_an_unknown_dataset_is_refused_before_anything_starts(tmp_path: Path) -> None:
    config = merge(Config(), {"train.dataset": "moon"})
    with pytest.raises(InputError, match="moon: expected `synthetic` or a path"):
        train(config, tmp_path / "run")


def test_a_crop_that_cannot_be_halved_thrice_is_refused(tmp_path: Path) -> None:
    config = merge(Config(), {"train.horizon_rows": 100})
    with pytest.raises(ConfigError, match=r"horizon_rows: expected a multiple of 8, got 100"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
