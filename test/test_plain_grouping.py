"""The clustering in plain torch, which a GPU runs without Triton, against the oracle."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from clustering_scenes import assert_groups_of_oracle, evaluated, random_scene
from test_grouping import SMALL, THREES, columns_of_three, flat

from instaseg_ros.clustering.ellipses import gpu, reference, torch_loop
from instaseg_ros.methods import spatial_embedding as method


@pytest.mark.parametrize("proposals", [1, 5, torch_loop.PROPOSALS])
def test_it_agrees_with_the_oracle(monkeypatch: pytest.MonkeyPatch, proposals: int) -> None:
    """However often the host looks."""
    monkeypatch.setattr(torch_loop, "PROPOSALS", proposals)
    count = 0
    for number in range(60):
        outputs, config = random_scene(number)
        maps = evaluated(outputs)
        got = torch_loop.group(*(t[0] for t in maps), config)
        count += assert_groups_of_oracle(maps, [got], config)
    assert count > 100


@pytest.mark.parametrize(("left", "kept"), [(25, [1, 0]), (24, [1])])
def test_contested_pixels_go_to_the_better_instance(left: int, kept: list[int]) -> None:
    outputs = flat(24, 48, 1e4, 4, n_classes=3)
    outputs[2][1, :, :left], outputs[2][1, :, left:] = -4, 5
    outputs[2][2] = 4
    config = dataclasses.replace(SMALL, min_new_fraction=0.5)
    maps = evaluated(outputs)
    got = torch_loop.group(*(t[0] for t in maps), config)
    assert_groups_of_oracle(maps, [got], config)
    assert got.class_ids.tolist() == kept


def test_beyond_the_limit_the_best_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (torch_loop, reference):
        monkeypatch.setattr(module, "MAX_INSTANCES", 20)
    maps = evaluated(columns_of_three(9, 9))
    got = torch_loop.group(*(t[0] for t in maps), THREES)
    assert assert_groups_of_oracle(maps, [got], THREES) == 20


def test_judging_in_rounds_is_judging_in_order() -> None:
    """Chains of rivals over many classes, where one verdict waits for another."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        n, n_classes = int(rng.integers(1, 13)), int(rng.integers(2, 5))
        class_of = np.concatenate([[-1], rng.integers(0, n_classes, n)])
        claims = np.zeros((n_classes, 40), np.int64)
        for rank in rng.permutation(n) + 1:
            start = rng.integers(0, 40)
            claims[class_of[rank], start : start + rng.integers(1, 20)] = rank
        expected = np.zeros(n + 1, bool)
        taken = np.zeros(40, bool)
        for rank in range(1, n + 1):
            own = claims[class_of[rank]] == rank
            new = own & ~taken
            expected[rank] = new.any() and new.sum() / own.sum() > 0.5
            taken |= new & expected[rank]
        got = torch_loop.settle(torch.from_numpy(claims), n, 0.5)
        assert got.tolist() == expected.tolist()


def test_a_batch_without_triton_is_clustered_image_by_image() -> None:
    """`gpu.group` of tensors that no Triton kernel may touch."""
    offset, bandwidth, seed = flat(9, 15, 4, 3)
    batch = [torch.from_numpy(np.stack([a, a[..., ::-1]])) for a in (offset, bandwidth, seed)]
    grid = method.pixel_grid(*seed.shape[1:])
    got = gpu.group((batch[0], grid, *batch[1:]), method._maps, SMALL)
    flipped = tuple(np.ascontiguousarray(a[..., ::-1]) for a in (offset, bandwidth, seed))
    maps = evaluated((offset, bandwidth, seed), flipped)
    assert assert_groups_of_oracle(maps, got, SMALL) > 0
