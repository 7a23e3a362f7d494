"""Opens the samples of a training: those to learn, and those held out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset as TorchDataset

from instaseg_ros.config import TrainConfig
from instaseg_ros.config.options import spatio_temporal
from instaseg_ros.datasets import SYNTHETIC, Dataset, open_dataset, semantic_names
from instaseg_ros.errors import ConfigError, InputError
from instaseg_ros.synthetic_street import SyntheticStreet, held_out_street
from instaseg_ros.training.backgrounds import WithBackgrounds, open_backgrounds
from instaseg_ros.training.cache import kept
from instaseg_ros.training.objects import object_index
from instaseg_ros.training.views import EndlessStreet, ObjectViews, clip_starts


def open_splits(path: str) -> tuple[Dataset, Dataset]:
    """The datasets to train and to validate on: `train` and `val` of `open_dataset`.

    Raises InputError if nothing can be read, or there is only one image.
    """
    if not path:
        raise ConfigError("train.dataset: this recipe needs a dataset: give it with --data DIR")
    train, held_out = open_dataset(path, "train"), open_dataset(path, "val")
    if len(train) == 1 and train.files(0) == held_out.files(0):
        raise InputError(f"dataset {path}: expected at least two images, found 1")
    return train, held_out


class Source(NamedTuple):
    """The samples of a training.

    views: endless samples or clips; held_out: for validation; objects: index of a recorded
    dataset's objects, None for the synthetic street; semantic_names: the samples' dense classes.
    """

    views: TorchDataset[Any]
    held_out: Dataset
    class_names: tuple[str, ...]
    objects: NDArray[np.void] | None
    semantic_names: tuple[str, ...] = ()


def open_source(config: TrainConfig, run_dir: Path) -> Source:
    """Open the configured dataset and read all of it once; its index is kept in `run_dir`."""
    backgrounds = open_backgrounds(config)
    if config.dataset == SYNTHETIC:
        _check_dense(config, ())
        if config.cache != "none":
            raise ConfigError(
                "train.cache: the synthetic street is rendered, there is nothing to keep: set it "
                "to none"
            )
        if config.anywhere_share:
            raise ConfigError(
                "train.anywhere_share: expected 0 for the synthetic street, which is seen whole, "
                f"got {config.anywhere_share}"
            )
        if backgrounds:
            backgrounds.check()
        street = EndlessStreet(config, backgrounds)
        size = config.crop_height, config.crop_width
        held_out = held_out_street(config.validation_frames, size)
        return Source(street, held_out, SyntheticStreet.class_names, None)
    _check_augment(config)
    train, val = open_splits(config.dataset)
    dense = semantic_names(train)
    _check_dense(config, dense)
    _check_clips(config, train)
    object_index(val, run_dir / "objects_val.npz")
    if backgrounds:
        train = WithBackgrounds(train, backgrounds)
    if config.cache != "none":
        train = kept(train)
    objects = object_index(train, run_dir / "objects.npz")
    names = train.class_names
    if config.class_name:
        if len(names) > 1:
            raise ConfigError(
                f"train.class_name: '{config.class_name}' is for a dataset of one class; "
                f"{config.dataset} has {len(names)}: {', '.join(names)}"
            )
        names = (config.class_name,)
    views = ObjectViews(train, objects, config, len(backgrounds) if backgrounds else 0)
    return Source(views, val, names, objects, dense)


def _check_dense(config: TrainConfig, names: tuple[str, ...]) -> None:
    if config.weight_dense and not names:
        raise ConfigError(
            f"train.weight_dense: {config.dataset} has no dense classes (Cityscapes has, and label "
            "images with a folder semantic/); set it to 0"
        )


def _check_augment(config: TrainConfig) -> None:
    if config.variation:
        raise ConfigError(
            "train.variation: it is for the rendered street (train.dataset: synthetic); for "
            f"{config.dataset} set it to 0, and train.augment instead"
        )
    if config.augment.paste and config.clip_frames > 1:
        raise ConfigError(
            "train.augment.paste: expected 0 with train.clip_frames above 1, as what is pasted "
            f"would have to move with its clip; got {config.augment.paste}"
        )
    for name in ("camera", "paste"):
        strength = getattr(config.augment, name)
        if strength and config.cache == "device":
            raise ConfigError(
                f"train.augment.{name}: expected 0 with train.cache: device, where views are made "
                f"without it, got {strength}; set it to 0, or train.cache to memory"
            )


def _check_clips(config: TrainConfig, dataset: Dataset) -> None:
    """Raises ConfigError, before everything is read, if the dataset lacks what depth needs."""
    clip_starts(dataset, config.clip_frames)
    if config.clip_frames == 1 or not isinstance(config, spatio_temporal.LossConfig):
        return
    if not config.weight_depth:
        return
    sample = dataset[0]
    needed: dict[str, Any] = {"camera intrinsics": sample.frame.intrinsics}
    if config.ego_motion == "known":
        needed["camera poses (train.ego_motion: known)"] = sample.pose
    for what, there in needed.items():
        if there is None:
            raise ConfigError(
                f"train.weight_depth: depth learns from {what}, which {config.dataset} does not "
                "have; set it to 0"
            )
