"""Makes the endless views that training sees, of a dataset or of rendered streets."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset as TorchDataset

from instaseg_ros.config import TrainConfig
from instaseg_ros.datasets import Dataset, Sample, Sequences
from instaseg_ros.errors import ConfigError, InputError
from instaseg_ros.synthetic_street import SyntheticStreet
from instaseg_ros.training.augment import random_view
from instaseg_ros.training.camera_effects import camera_effects
from instaseg_ros.training.data import Clip
from instaseg_ros.training.paste import Paste


class EndlessStreet(TorchDataset[Clip]):
    """Clip `index` of a run depends only on (seed, index), so a resumed run continues with exactly
    the frames that an uninterrupted one would see.

    backgrounds: pictures, of which `train.background_share` of the clips are random views.
    """

    def __init__(self, config: TrainConfig, backgrounds: Dataset | None = None) -> None:
        size = config.crop_height, config.crop_width
        self.plain, self.varied = (
            SyntheticStreet(size=size, seed=config.seed, depth=False, variation=variation)
            for variation in (False, True)
        )
        self.seed, self.camera = config.seed, config.augment.camera
        self.rows = config.horizon_rows or config.crop_height
        self.frames = config.clip_frames
        self.backgrounds, self.config = backgrounds, config

    def __getitem__(self, index: int) -> Clip:
        rng = np.random.default_rng([self.seed, index])
        if self.backgrounds is not None:
            own = _generator_of_kind(self.config, index)
            if own.random() < self.config.background_share:
                picture = self.backgrounds[int(own.integers(len(self.backgrounds)))]
                size = self.rows, self.config.crop_width
                return [random_view(picture, None, size, self.config.augment, rng)]
        own = np.random.default_rng([self.seed, index, 3])
        street = self.varied if own.random() < self.config.variation else self.plain
        clip = street.training_clip(rng, self.frames, self.rows)
        return [self._seen(sample, index) for sample in clip]

    def _seen(self, sample: Sample, index: int) -> Sample:
        """The sample as one camera would show all of its clip."""
        rng = np.random.default_rng([self.seed, index, 1])
        image = camera_effects(sample.frame.image, self.camera, rng)
        return replace(sample, frame=replace(sample.frame, image=image))


class ObjectViews(TorchDataset[Clip]):
    """Random views of a dataset, each around an object; they too depend only on (seed, index).

    A clip ends with its object's frame if the sequence has enough frames before it, and all its
    frames are seen through one window. objects: an `object_index` of the dataset. backgrounds: the
    number of the dataset's last samples that are `Backgrounds`: they have views of their own, on
    which nothing is pasted. Views that show an object are the same whatever the share of others.
    """

    def __init__(
        self,
        dataset: Dataset,
        objects: NDArray[np.void],
        config: TrainConfig,
        backgrounds: int = 0,
    ) -> None:
        self.dataset, self.config = dataset, config
        self.starts = clip_starts(dataset, config.clip_frames)
        self.images = len(dataset) - backgrounds
        self.anywhere = np.flatnonzero(self.starts[: self.images] >= 0)
        self.objects = objects[objects["pixels"] >= config.min_object_px]
        if not len(self.objects):
            raise InputError(
                f"train.dataset {config.dataset}: it has no object of at least "
                f"{config.min_object_px} pixels (train.min_object_px)"
            )
        self.objects = self.objects[self.starts[self.objects["image"]] >= 0]
        if not len(self.objects):
            raise ConfigError(
                f"train.clip_frames: {config.dataset} has no sequence of {config.clip_frames} "
                "frames with an object; lower it"
            )
        frequency = np.bincount(self.objects["class_id"])
        weight = frequency[self.objects["class_id"]] ** -config.class_balance
        self.cumulative = np.cumsum(weight / weight.sum())
        self.paste = Paste(dataset, objects, config) if config.augment.paste else None

    def chosen(self, index: int) -> tuple[int, tuple[float, float] | None, np.random.Generator]:
        """The image of a view, the position that it shows (None: any), and the generator for the
        rest."""
        rng = np.random.default_rng([self.config.seed, index])
        image = self._without_object(index)
        if image is not None:
            return image, None, rng
        row = int(np.searchsorted(self.cumulative, rng.random()))
        chosen = self.objects[min(row, len(self.objects) - 1)]
        return int(chosen["image"]), (float(chosen["x"]), float(chosen["y"])), rng

    def _without_object(self, index: int) -> int | None:
        """The image of a view that is not around an object."""
        background, anywhere = self.config.background_share, self.config.anywhere_share
        if not background + anywhere:
            return None
        own = _generator_of_kind(self.config, index)
        kind = own.random()
        if kind < background:
            return int(own.integers(self.images, len(self.dataset)))
        if kind < background + anywhere:
            return int(own.choice(self.anywhere))
        return None

    def __getitem__(self, index: int) -> Clip:
        image, center, rng = self.chosen(index)
        size = self.config.crop_height, self.config.crop_width
        first = int(self.starts[image])
        paste = None
        if (
            self.paste is not None and image < self.images
        ):  # by another generator: the view is the same but for it
            own = np.random.default_rng([self.config.seed, index, 1])
            paste = partial(self.paste, rng=own)
        augment = self.config.augment
        return [
            random_view(self.dataset[i], center, size, augment, copy.deepcopy(rng), paste)
            for i in range(first, first + self.config.clip_frames)
        ]


def _generator_of_kind(config: TrainConfig, index: int) -> np.random.Generator:
    """What decides whether a view shows an object; another than that of the rest of it."""
    return np.random.default_rng([config.seed, index, 2])


def clip_starts(dataset: Dataset, frames: int) -> NDArray[np.int64]:
    """For each frame, the start of the clip of `frames` frames that shows it; -1 in shorter
    sequences.

    Raises ConfigError for clips from a dataset without sequences.
    """
    index = np.arange(len(dataset))
    if frames == 1:
        return index
    if not isinstance(dataset, Sequences):
        raise ConfigError(
            "train.clip_frames: expected 1 for a dataset of single images, or a dataset of "
            f"sequences (synthetic, KITTI MOTS, recordings), got {frames}"
        )
    names = [dataset.sequence(i) for i in range(len(dataset))]
    begins = np.array([True, *(a != b for a, b in pairwise(names))])
    first = index[begins][np.cumsum(begins) - 1]  # of the frame's sequence
    end = np.append(index[begins][1:], len(index))[np.cumsum(begins) - 1]
    return np.where(end - first < frames, -1, np.maximum(index - frames + 1, first))
