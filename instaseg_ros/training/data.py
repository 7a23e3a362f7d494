"""Turns samples into training batches."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import count
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from instaseg_ros.config import TrainConfig
from instaseg_ros.datasets import Sample
from instaseg_ros.methods import Targets
from instaseg_ros.training.memory import worker_count

Clip = Sequence[Sample]  # frames of one camera, one after another


class Batch(NamedTuple):
    """images: (B, 3, H, W) uint8 RGB, channels-last in memory; targets: their truth."""

    images: torch.Tensor
    targets: Targets


def to_batch(items: Sequence[Sample | Clip], min_object_px: int = 0) -> Batch:
    """Stack samples, or clips of one length, of one size; instances are renumbered 1..K within each
    image or clip.

    Instances with fewer than `min_object_px` pixels are ignored.
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
    """Label images with the numbers 1..K, without objects that are too small there, and classes
    (K,)."""
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
    """Poses relative to each clip's first frame, and intrinsics; None if a frame has none."""
    poses = [[s.pose for s in clip if s.pose is not None] for clip in clips]
    matrices = [s.frame.intrinsics for clip in clips for s in clip]
    known = [matrix for matrix in matrices if matrix is not None]
    relative = [np.linalg.inv(of_clip[0]) @ pose for of_clip in poses for pose in of_clip]
    return (
        torch.from_numpy(np.stack(relative)).float() if len(relative) == len(matrices) else None,
        torch.from_numpy(np.stack(known)).float() if len(known) == len(matrices) else None,
    )


def _single_threaded(_: int) -> None:
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is for the trainer, which ends this process
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def training_batches(
    views: TorchDataset[Sample | Clip],
    config: TrainConfig,
    first_step: int,
    rank: int = 0,
    size: int = 1,
    on_gpu: bool = False,
) -> Iterable[Batch]:
    """Batches `first_step`, ... up to `config.steps`, or endless with `train.seconds`, prepared by
    worker processes; of each batch, the share of process `rank` of `size`.

    on_gpu: they go to a GPU, so they are in pinned memory.
    """
    steps = count(first_step) if config.seconds else range(first_step, config.steps)
    workers = worker_count(config.workers, on_gpu)
    return DataLoader(
        views,
        batch_size=config.batch_size // size,
        sampler=(index for step in steps for index in shown(config, step, rank, size)),
        num_workers=workers,
        # A forked process would wait for locks of threads that it does not have.
        multiprocessing_context="spawn" if workers else None,
        collate_fn=partial(to_batch, min_object_px=config.min_object_px),
        worker_init_fn=_single_threaded,
        prefetch_factor=4 if workers else None,
        pin_memory=on_gpu,
    )


def shown(config: TrainConfig, step: int, rank: int, size: int) -> range:
    """The indices of the views that process `rank` of `size` sees in a step."""
    share = config.batch_size // size
    first = step * config.batch_size + rank * share
    return range(first, first + share)
