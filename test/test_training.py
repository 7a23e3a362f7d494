"""Training: targets, schedule, and a run that goes on after a kill as if nothing had happened."""

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
from instaseg_ros.training.data import to_batch
from instaseg_ros.training.trainer import DivergedError, learning_rate, train
from instaseg_ros.types import Frame

SMALL = {
    "train.steps": 4,
    "train.batch_size": 2,
    "train.crop_height": 64,
    "train.crop_width": 96,
    "train.workers": 0,
    "train.warmup_steps": 2,
    "train.save_every": 2,
    "train.validate_every": 4,
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


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path: Path) -> None:
    config = merge(Config(), SMALL)
    whole = load_checkpoint(train(config, tmp_path / "whole"))

    class Killed(Exception):
        pass

    import instaseg_ros.training.trainer as trainer

    original = trainer._step

    def dying(*args: object, **kwargs: object) -> dict[str, torch.Tensor]:
        if args[5] == 3:  # after the state of step 2 was saved
            raise Killed
        return original(*args, **kwargs)  # type: ignore[arg-type]

    trainer._step = dying
    try:
        with pytest.raises(Killed):
            train(config, tmp_path / "killed")
    finally:
        trainer._step = original
    again = load_checkpoint(train(config, tmp_path / "killed"))
    for name, tensor in whole.tensors.items():
        assert torch.allclose(tensor.float(), again.tensors[name].float(), atol=1e-3), name
    assert again.class_names == ("person", "rider", "car", "truck", "bus")
    assert again.notes["train"]["steps"] == 4


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    config = merge(Config(), {**SMALL, "train.foreground_weight": 1e38})
    with pytest.raises(DivergedError, match=r"step 0: the gradient is"):
        train(config, tmp_path)


def test_an_unknown_dataset_is_refused_before_anything_starts(tmp_path: Path) -> None:
    config = merge(Config(), {"train.dataset": "moon"})
    with pytest.raises(InputError, match="moon: expected `synthetic` or a path"):
        train(config, tmp_path / "run")


def test_a_crop_that_cannot_be_halved_thrice_is_refused(tmp_path: Path) -> None:
    config = merge(Config(), {"train.horizon_rows": 100})
    with pytest.raises(ConfigError, match=r"horizon_rows: expected a multiple of 8, got 100"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
