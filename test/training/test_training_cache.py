"""A dataset kept in memory feeds a training the same batches."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import dataset_layouts
import numpy as np
import pytest
import torch

from instaseg_ros.config import TrainConfig
from instaseg_ros.datasets import Dataset, Sequences, open_dataset, remarks
from instaseg_ros.errors import ConfigError
from instaseg_ros.synthetic_street import SyntheticStreet
from instaseg_ros.training import cache
from instaseg_ros.training.cache import kept
from instaseg_ros.training.data import training_batches
from instaseg_ros.training.objects import object_index
from instaseg_ros.training.source import open_source
from instaseg_ros.training.views import ObjectViews

CONFIG = dataclasses.replace(
    TrainConfig(), batch_size=3, steps=4, crop_height=64, crop_width=64, workers=0
)


def city(tmp_path: Path) -> Dataset:
    """Six frames of a street with groups, void and dense classes."""
    street = SyntheticStreet((96, 160), sequences=3, frames_per_sequence=2, seed=4)
    dataset_layouts.write_cityscapes(tmp_path, [street[i] for i in range(6)])
    return open_dataset(tmp_path, "all")


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_batches_are_the_same_bit_by_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """In several blocks of memory, and shared with worker processes."""
    monkeypatch.setattr(cache, "BLOCK_BYTES", 100_000)
    plain = city(tmp_path / "data")
    objects = object_index(plain, tmp_path / "objects.npz")
    config = dataclasses.replace(CONFIG, workers=workers)
    plain_batches, kept_batches = (
        list(training_batches(ObjectViews(data, objects, config), config, 0))
        for data in (plain, kept(plain))
    )
    assert len(plain_batches) == 4
    for one, other in zip(plain_batches, kept_batches, strict=True):
        assert torch.equal(one.images, other.images)
        for name in ("labels", "ignore", "semantic"):
            assert torch.equal(getattr(one.targets, name), getattr(other.targets, name)), name
        for left, right in zip(one.targets.class_ids, other.targets.class_ids, strict=True):
            assert torch.equal(left, right)


def test_samples_and_what_is_known_of_a_dataset_are_the_same(tmp_path: Path) -> None:
    street = SyntheticStreet((64, 96), sequences=2, frames_per_sequence=2, seed=1)
    for plain in (city(tmp_path), street):
        own = kept(plain)
        assert len(own) == len(plain) and own.class_names == plain.class_names
        assert own.files(1) == plain.files(1) and remarks(own) == remarks(plain)
        assert isinstance(own, Sequences) == isinstance(plain, Sequences)
        for index in range(len(own)):
            for field in dataclasses.fields(own[index]):
                one, other = (getattr(data[index], field.name) for data in (own, plain))
                if field.name == "frame":
                    assert one.stamp_ns == other.stamp_ns
                    one, other = one.image, other.image
                np.testing.assert_array_equal(one, other, err_msg=field.name)
                assert getattr(one, "dtype", None) == getattr(other, "dtype", None)


@pytest.mark.parametrize("short", ["memory", "/dev/shm"])
def test_too_little_memory_is_told_before_anything_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: str
) -> None:
    plain = city(tmp_path)
    if short == "memory":
        monkeypatch.setattr(cache, "available_bytes", lambda: 100_000)
    else:
        usage = cache.shutil.disk_usage(tmp_path)._replace(free=100_000)
        monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ConfigError, match=rf"train\.cache: .*{short}.* has 0\.0 GB left"):
        kept(plain)


def test_the_synthetic_street_has_nothing_to_keep(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.cache: the synthetic street is rendered"):
        open_source(dataclasses.replace(CONFIG, cache="memory"), tmp_path)
