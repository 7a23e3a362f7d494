"""From samples to training batches."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from instaseg_ros.config import TrainConfig
from instaseg_ros.datasets import Dataset, Sample, open_dataset, semantic_names
from instaseg_ros.datasets.synthetic_street import SyntheticStreet
from instaseg_ros.errors import ConfigError, InputError
from instaseg_ros.methods import Targets
from instaseg_ros.training.augment import random_view
from instaseg_ros.training.objects import object_index

log = logging.getLogger(__name__)


Clip = Sequence[Sample]  # frames of one camera, one after another


class Batch(NamedTuple):
    """images: (B, 3, H, W) uint8 RGB, channels last in memory; targets: their truth."""

    images: torch.Tensor
    targets: Targets


def to_batch(items: Sequence[Sample | Clip], min_object_px: int = 0) -> Batch:
    """Stack samples, or clips of one length, of one size; instances are renumbered 1..K within each
    image or clip.

    Instances are ignored ground where they have fewer than `min_object_px` pixels.
    """
    clips = [(item,) if isinstance(item, Sample) else item for item in items]
    samples = [sample for clip in clips for sample in clip]
    images = torch.from_numpy(np.stack([s.frame.image for s in samples])).permute(0, 3, 1, 2)
    labels, class_ids, ignore = [], [], []
    for clip in clips:
        numbers, classes = _renumbered(clip, min_object_px)
        labels += numbers
        class_ids += [torch.from_numpy(classes)] * len(clip)
    for sample, numbered in zip(samples, labels, strict=True):
        ignored = (sample.labels > 0) & (numbered == 0)
        for other in (sample.ignore, sample.crowd):
            ignored = ignored if other is None else ignored | (other > 0)
        ignore.append(ignored)
    targets = Targets(
        torch.from_numpy(np.stack(labels)), class_ids, torch.from_numpy(np.stack(ignore))
    )
    if any(sample.semantic is not None for sample in samples):
        unknown = np.zeros(samples[0].labels.shape, np.uint8)
        dense = [unknown if s.semantic is None else s.semantic for s in samples]
        targets = targets._replace(semantic=torch.from_numpy(np.stack(dense).astype(np.int64)))
    if len(clips[0]) > 1:
        poses, intrinsics = _cameras(clips)
        targets = targets._replace(frames=len(clips[0]), poses=poses, intrinsics=intrinsics)
    return Batch(images, targets)


def _renumbered(
    clip: Clip, min_object_px: int
) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
    """Label images with the numbers 1..K, without what is too small there, and classes (K,)."""
    class_of = np.zeros(1 << 16, np.int64)
    large = []
    for sample in clip:
        class_of[sample.ids] = sample.class_ids
        sizes = np.bincount(sample.labels.ravel(), minlength=1 << 16)
        large.append(sample.ids[sizes[sample.ids] >= min_object_px])
    ids = np.unique(np.concatenate(large))
    labels = []
    for sample, known in zip(clip, large, strict=True):
        number = np.zeros(1 << 16, np.int64)
        number[known] = 1 + np.searchsorted(ids, known)
        labels.append(number[sample.labels])
    return labels, class_of[ids]


def _cameras(clips: Sequence[Clip]) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Poses relative to each clip's first, and intrinsics; None where a frame has none."""
    poses = [[s.pose for s in clip if s.pose is not None] for clip in clips]
    matrices = [s.frame.intrinsics for clip in clips for s in clip]
    known = [matrix for matrix in matrices if matrix is not None]
    relative = [np.linalg.inv(of_clip[0]) @ pose for of_clip in poses for pose in of_clip]
    return (
        torch.from_numpy(np.stack(relative)).float() if len(relative) == len(matrices) else None,
        torch.from_numpy(np.stack(known)).float() if len(known) == len(matrices) else None,
    )


class EndlessStreet(TorchDataset[Clip]):
    """Clip `index` of a run is a function of (seed, index) alone, so a resumed run goes on with
    exactly the frames an uninterrupted one would see."""

    def __init__(self, config: TrainConfig) -> None:
        self.street = SyntheticStreet(
            size=(config.crop_height, config.crop_width), seed=config.seed, depth=False
        )
        self.seed = config.seed
        self.rows = config.horizon_rows or config.crop_height
        self.frames = config.clip_frames

    def __getitem__(self, index: int) -> Clip:
        rng = np.random.default_rng([self.seed, index])
        return self.street.training_clip(rng, self.frames, self.rows)


class ObjectViews(TorchDataset[Sample]):
    """Random views of a dataset, each around an object; likewise a function of (seed, index).

    objects: an `object_index` of the dataset.
    """

    def __init__(self, dataset: Dataset, objects: NDArray[np.void], config: TrainConfig) -> None:
        self.dataset, self.config = dataset, config
        self.objects = objects[objects["pixels"] >= config.min_object_px]
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


class Part:
    """Some samples of a dataset, as a dataset."""

    def __init__(self, dataset: Dataset, indices: Sequence[int]) -> None:
        self._dataset, self._indices = dataset, indices
        self.class_names = dataset.class_names
        self.semantic_names = semantic_names(dataset)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Sample:
        return self._dataset[self._indices[index]]

    def files(self, index: int) -> tuple[Path, ...]:
        return self._dataset.files(self._indices[index])


def open_splits(path: str) -> tuple[Dataset, Dataset]:
    """What to train on and what to validate on: the splits `train` and `val`. Where there is no
    `val`, every tenth image, or the last of fewer, is held out of what there is.

    Raises InputError where nothing can be read, or there is but one image.
    """
    if not path:
        raise ConfigError("train.dataset: this recipe needs a dataset: give it with --data DIR")
    train = open_dataset(path, "train")
    try:
        held_out = open_dataset(path, "val")
        reason = "it has no splits"
    except InputError as error:
        held_out, reason = train, str(error)
    if train.files(0) != held_out.files(0):
        return train, held_out
    count = len(train)
    if count < 2:
        raise InputError(f"dataset {path}: expected at least two images, found {count}")
    held = range(9, count, 10) if count >= 10 else range(count - 1, count)
    log.info(
        "dataset %s: %s; %d of its %d images are held out for validation",
        *(path, reason, len(held), count),
    )
    return Part(train, [i for i in range(count) if i not in held]), Part(train, held)


class Source(NamedTuple):
    """Where a training takes its samples from.

    views: endless, samples or clips; held_out: for validation; objects: index of recorded ones,
    None: drawn ones; semantic_names: dense classes that the samples know.
    """

    views: TorchDataset[Any]
    held_out: Dataset
    class_names: tuple[str, ...]
    objects: NDArray[np.void] | None
    semantic_names: tuple[str, ...] = ()


def open_source(config: TrainConfig, run_dir: Path) -> Source:
    """The configured dataset, all of it read once; what was found is kept in `run_dir`."""
    if config.dataset == "synthetic":
        _check_dense(config, ())
        views = EndlessStreet(config)
        size = config.crop_height, config.crop_width
        held_out = held_out_street(config.validation_frames, size)
        return Source(views, held_out, SyntheticStreet.class_names, None)
    train, val = open_splits(config.dataset)
    dense = semantic_names(train)
    _check_dense(config, dense)
    object_index(val, run_dir / "objects_val.npz")
    objects = object_index(train, run_dir / "objects.npz")
    names = train.class_names
    if config.class_name:
        if len(names) > 1:
            raise ConfigError(
                f"train.class_name: '{config.class_name}' is for a dataset of one class; "
                f"{config.dataset} has {len(names)}: {', '.join(names)}"
            )
        names = (config.class_name,)
    return Source(ObjectViews(train, objects, config), val, names, objects, dense)


def _check_dense(config: TrainConfig, names: tuple[str, ...]) -> None:
    if config.weight_dense and not names:
        raise ConfigError(
            f"train.weight_dense: {config.dataset} has no dense classes (Cityscapes has, and label "
            "images with a folder semantic/); set it to 0"
        )


def _single_threaded(_: int) -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def training_batches(
    views: TorchDataset[Sample | Clip],
    config: TrainConfig,
    first_step: int,
    rank: int = 0,
    size: int = 1,
) -> Iterable[Batch]:
    """Batches `first_step`, ... up to `config.steps`, prepared by worker processes; of each, what
    is the share of process `rank` of `size`."""
    share = config.batch_size // size
    firsts = range(first_step * config.batch_size + rank * share, config.steps * config.batch_size)
    wanted = [first + k for first in firsts[:: config.batch_size] for k in range(share)]
    return DataLoader(
        views,
        batch_size=share,
        sampler=wanted,
        num_workers=config.workers,
        # A forked process hangs on the locks of threads that it does not have.
        multiprocessing_context="spawn" if config.workers else None,
        collate_fn=partial(to_batch, min_object_px=config.min_object_px),
        worker_init_fn=_single_threaded,
        prefetch_factor=4 if config.workers else None,
    )


def held_out_street(frames: int, size: tuple[int, int], per_sequence: int = 4) -> SyntheticStreet:
    """Held-out sequences, at least `frames` frames of (H, W) in all, `per_sequence` of each."""
    return SyntheticStreet(
        size=size,
        split="val",
        sequences=-(-frames // per_sequence),
        frames_per_sequence=per_sequence,
        depth=False,
    )
