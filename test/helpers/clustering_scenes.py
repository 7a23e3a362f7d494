"""What the tests of the clusterings on torch tensors share: the scenes of `embedding_scenes`, in a
form that every one of them takes, and the comparison with the oracle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from embedding_scenes import Outputs, assert_same_groups, scene_of_discs
from torch import Tensor

from instaseg_ros.clustering.ellipses import Groups, reference
from instaseg_ros.config.options.spatial_embedding import DecodeConfig
from instaseg_ros.methods import spatial_embedding as method

SIZES = ((24, 48), (17, 31), (130, 9), (1, 60), (60, 1))


def random_outputs(number: int) -> tuple[Outputs, DecodeConfig]:
    """The raw outputs of one image, ties and odd values included, and thresholds for it."""
    rng = np.random.default_rng(number)
    outputs = scene_of_discs(
        rng, SIZES[number % 5], 1 + number % 3, 1 + number % 2, number // 5 % 3
    )
    return outputs, DecodeConfig(
        seed_threshold=rng.choice([0, 0.5, 0.7, 0.9, 1.0]).item(),
        foreground_threshold=rng.choice([0, 0.3, 0.5, 0.8]).item(),
        min_pixels=rng.choice([0, 1, 4, 10]).item(),
        min_new_fraction=rng.choice([0, 0.3, 0.5, 0.9, 1.0]).item(),
        first_come=number % 2 == 0,
        agreement=number % 3 > 0,
    )


def embedding_scale_score(*images: Outputs) -> tuple[Tensor, Tensor, Tensor]:
    """Embedding, scale and score (B, c, H, W) of a batch."""
    offset, bandwidth, seed = (
        torch.stack([torch.from_numpy(array) for array in arrays])
        for arrays in zip(*images, strict=True)
    )
    embedding = method.embed(offset, method.pixel_grid(*seed.shape[2:]))
    return embedding, method.inverse_bandwidth(bandwidth), method.seed_score(seed)


def assert_batch_of_oracle(
    maps: Sequence[Tensor], got: Sequence[Groups], config: DecodeConfig
) -> int:
    """Every field of every image equal, bit for bit. Returns how many instances there were."""
    count = 0
    for embedding, scale, score, groups in zip(*maps, got, strict=True):
        expected = reference.group(embedding, scale, score, config)
        assert_same_groups(expected, groups)
        count += len(expected.scores)
    return count
