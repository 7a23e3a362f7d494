"""Seeds and masks by similarity: the compiled loops against plain torch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instaseg_ros.clustering import similarity
from instaseg_ros.config.options.metric_learning import DecodeConfig

CONFIG = DecodeConfig(min_pixels=2)


def seeds_by_torch(
    embedding: torch.Tensor, score: torch.Tensor, alpha: float, least: float, most: int
) -> list[int]:
    seeds: list[int] = []
    left = torch.ones(len(score), dtype=torch.bool)
    rank = score.clone()
    while len(seeds) < most:
        best = torch.where(left & (rank >= least), rank, -1.0)
        if not (best >= 0).any():
            break
        seeds.append(int(best.argmax()))
        distances = (embedding[:, None] - embedding[seeds]).square().sum(2).double()
        alike = 2 / (1 + torch.exp(distances.min(1).values))
        rank = (score.double() * (1 - alike) ** alpha).float()
        left &= rank > 0
        left[seeds] = False
    return seeds


def values(rng: np.random.Generator, shape: tuple[int, ...], step: float) -> np.ndarray:
    """Multiples of `step`, whose squares and sums float32 holds exactly: the order in which they
    are summed makes no difference."""
    return (rng.integers(-20, 21, shape) * step).astype(np.float32)


@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(1, 5), st.sampled_from([0, 0.3, 1]))
@settings(max_examples=60)
def test_seeds_are_those_of_plain_torch(seed: int, n: int, channels: int, alpha: float) -> None:
    rng = np.random.default_rng(seed)
    embedding = values(rng, (n, channels), rng.choice([1 / 16, 1 / 4]))
    score = rng.integers(0, 65, n).astype(np.float32) / 64  # ties
    least, most = rng.choice([0.0, 0.3, 0.5]), int(rng.integers(1, 70))
    expected = seeds_by_torch(
        torch.from_numpy(embedding), torch.from_numpy(score), alpha, least, most
    )
    got = similarity.choose_seeds(embedding, score, alpha, least, most)
    assert got.tolist() == expected


def test_seeds_far_apart_come_before_alike_ones() -> None:
    embedding = np.array([[0, 0], [0.1, 0], [9, 0], [9, 0]], np.float32)
    score = np.array([0.9, 0.8, 0.6, 0.6], np.float32)
    found = similarity.choose_seeds(embedding, score, 0.3, 0.01, 9)
    assert found.tolist() == [0, 2, 1]  # the fourth is the third again
    assert similarity.choose_seeds(embedding, score, 0.3, 0.5, 9).tolist() == [0, 2]
    assert similarity.choose_seeds(embedding[:0], score[:0], 0.3, 0.5, 9).tolist() == []


@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 150), st.booleans())
@settings(max_examples=60)
def test_masks_are_those_of_plain_torch(
    seed: int, height: int, width: int, first_come: bool
) -> None:
    """Also where outputs are not finite."""
    rng = np.random.default_rng(seed)
    channels = int(rng.integers(1, 5))
    embedding = values(rng, (channels, height, width), 1 / 16)
    embedding += (np.indices((height, width)).sum(0) // 8).astype(np.float32)  # parts to pass over
    if rng.random() < 0.3:
        embedding[rng.random(embedding.shape) < 0.1] = rng.choice([np.nan, np.inf, -np.inf])
    count = int(rng.integers(0, 12))
    places = rng.integers(height, size=count), rng.integers(width, size=count)
    seeds = np.ascontiguousarray(embedding[:, places[0], places[1]].T)
    limits = rng.choice([0.0, 0.25, 2.0, 9.0], count).astype(np.float32)
    config = dataclasses.replace(
        CONFIG, first_come=first_come, min_new_fraction=rng.choice([0, 0.5, 1])
    )
    tensors = (torch.from_numpy(array) for array in (embedding, seeds, limits))
    expected = similarity.grow(*tensors, config)

    def embed_rows(first: int, end: int, out: torch.Tensor) -> None:
        out.copy_(torch.from_numpy(embedding[:, first:end]))

    got = similarity.grow_compiled((height, width), embed_rows, seeds, limits, config)
    for left, right in zip(expected, got, strict=True):
        np.testing.assert_array_equal(left, right)
        assert left.dtype == right.dtype


@pytest.mark.parametrize("first_come", [True, False])
def test_what_two_masks_claim(first_come: bool) -> None:
    embedding = torch.arange(12.0).repeat(1, 2, 1)  # (1, 2, 12): columns
    seeds, limits = torch.tensor([[2.0], [3.0], [6.0]]), torch.tensor([4.0, 1.0, 9.0])
    config = dataclasses.replace(CONFIG, first_come=first_come)
    labels, accepted = similarity.grow(embedding, seeds, limits, config)
    assert accepted.tolist() == [True, False, True]  # columns 0 to 4; 2 to 4 in it; 3 to 9
    edge = 5 if first_come else 3
    assert labels.tolist() == [[1] * edge + [2] * (10 - edge) + [0] * 2] * 2
