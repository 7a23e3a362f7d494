"""Leaves out instances that fall short of the stricter thresholds of their class."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from instaseg_ros.clustering.label_image import only
from instaseg_ros.config.options.schema import shown
from instaseg_ros.config.options.shared import class_values
from instaseg_ros.errors import ConfigError
from instaseg_ros.frames import Instances
from instaseg_ros.methods.spatial_embedding import seed_score

SEED = "seed"  # the head with a map of scores per class


class ClassLimits(NamedTuple):
    """What an instance of each of C classes needs: at least the score; more pixels than
    `min_pixels`, at the network's size; and on one of them at least the seed score of its class.

    min_score, seed_threshold: (C,) float32. min_pixels: (C,) int64. A class without a threshold of
    its own has 0, 0 and -1, which leave out nothing.
    """

    min_score: NDArray[np.float32]
    min_pixels: NDArray[np.int64]
    seed_threshold: NDArray[np.float32]


OPTIONS = {  # by the threshold of all classes, that of single classes
    "min_score": "class_min_scores",
    "min_pixels": "class_min_pixels",
    "seed_threshold": "class_seed_thresholds",
}


@functools.lru_cache(maxsize=16)
def limits_of(decode: Any, class_names: tuple[str, ...]) -> ClassLimits | None:
    """The thresholds of single classes in a method's `DecodeConfig`; None if it sets none. Raises
    ConfigError for a class that is not one of the names."""
    own = {name: class_values(getattr(decode, OPTIONS[name], ())) for name in OPTIONS}
    for name, values in own.items():
        if unknown := values.keys() - set(class_names):
            raise ConfigError(
                f"decode.{OPTIONS[name]}: expected classes of the weights "
                f"({', '.join(class_names)}), got {', '.join(map(shown, sorted(unknown)))}"
            )
    if not any(own.values()):
        return None

    def of_classes(name: str, without: float) -> NDArray[np.float64]:
        return np.array([own[name].get(one, without) for one in class_names])

    return ClassLimits(
        of_classes("min_score", 0).astype(np.float32),
        of_classes("min_pixels", -1).astype(np.int64),
        of_classes("seed_threshold", 0).astype(np.float32),
    )


def within(
    instances: Instances, limits: ClassLimits, outputs: dict[str, Tensor], image: int
) -> Instances:
    """The instances of one image of a batch that keep to the limits of their classes.

    instances: at the network's size. outputs: raw, by head.
    """
    class_ids = instances.class_ids
    kept = instances.scores >= limits.min_score[class_ids]
    kept &= pixels_of(instances) > limits.min_pixels[class_ids]
    if limits.seed_threshold.any():
        kept &= seeds_of(instances, outputs[SEED][image]) >= limits.seed_threshold[class_ids]
    return only(instances, kept)


def pixels_of(instances: Instances) -> NDArray[np.int64]:
    """(K,) pixels of each."""
    return np.bincount(instances.labels.ravel(), minlength=1 << 16)[instances.ids]


def seeds_of(instances: Instances, seed: Tensor) -> NDArray[np.float32]:
    """(K,) the best seed score of their class that the instances' pixels have, in [0, 1].

    seed: (C, H, W), raw, of the size of the instances' labels.
    """
    row = np.zeros(1 << 16, np.int64)
    row[instances.ids] = np.arange(1, len(instances) + 1)
    row_of_pixel = torch.from_numpy(row[instances.labels].ravel()).to(seed.device)
    pixels = row_of_pixel.nonzero().squeeze(1)
    rows = row_of_pixel[pixels] - 1
    class_ids = torch.from_numpy(instances.class_ids).to(seed.device)
    raw = seed.float().flatten(1)[class_ids[rows], pixels]
    best = torch.full((len(instances),), -torch.inf, device=seed.device)
    best = best.scatter_reduce(0, rows, raw, "amax")
    return np.asarray(seed_score(best).cpu().numpy(), np.float32)
