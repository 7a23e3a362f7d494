"""The Triton kernels in Triton's interpreter against the oracle: run by `test_triton_grouping`.

In a process of its own, because Triton decides at import whether to interpret. The interpreter runs
programs one after the other on the CPU: it shows that the kernels compute what they should, not how
fast, nor that programs at the same time do each other no harm. Nothing in the kernels waits for
another program, and where programs write to one place they add or take extremes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from clustering_scenes import assert_groups_of_oracle, evaluated, random_scene
from test_grouping import SMALL, THREES, Outputs, columns_of_three, flat
from torch import Tensor

from instaseg_ros.clustering.ellipses import gpu, triton_session
from instaseg_ros.methods import spatial_embedding as method
from instaseg_ros.options.spatial_embedding import DecodeConfig

SMALL_STEPS = pytest.mark.usefixtures("small_steps")


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """With so few points at a time that small images need every loop of the kernels."""
    for name, value in {
        "ROWS": 8,
        "COLUMNS": 8,
        "RUN": 32,
        "RUNS": 2,
        "BESTS": 4,
        "SLOTS": 128,
    }.items():
        monkeypatch.setattr(triton_session, name, value)


def clustering(*images: Outputs) -> tuple[Any, tuple[Tensor, ...]]:
    maps = evaluated(*images)
    n_sigma, shape = maps[1].shape[1], maps[2].shape
    corner = method.pixel_grid(*shape[2:])[:, -1, -1].tolist()
    return triton_session.TritonGrouping(shape, n_sigma, "cpu", corner), maps


def groups_of(config: DecodeConfig, *images: Outputs, launches: int = 1) -> list[Any]:
    """Groups of a batch, equal to the oracle's; None where there was no room.

    launches: the second finds the memory as the first has left it.
    """
    kernels, maps = clustering(*images)
    for _ in range(launches):
        kernels.launch(*maps, config)
        found = kernels.groups(kernels.labels.numpy().copy(), kernels.report.numpy().copy())
        fitting = [k for k, groups in enumerate(found) if groups is not None]
        kept = [found[k] for k in fitting]
        assert_groups_of_oracle([t[fitting] for t in maps], kept, config)
    return found


@pytest.mark.parametrize("number", range(2))
def test_kernels_agree_with_the_oracle(number: int) -> None:
    outputs, config = random_scene(number)
    groups_of(config, outputs)


@pytest.mark.parametrize("numbers", [(14, 19), pytest.param(range(8, 32), marks=pytest.mark.slow)])
@SMALL_STEPS
def test_kernels_agree_in_small_steps(numbers: Sequence[int]) -> None:
    found = []
    for number in numbers:
        outputs, config = random_scene(number)
        found += groups_of(config, outputs, launches=2)
    assert sum(len(groups.scores) for groups in found if groups) > 10


@SMALL_STEPS
def test_images_of_a_batch_do_not_mix() -> None:
    images = [random_scene(number)[0] for number in (32, 62)]  # alike in shape
    found = groups_of(SMALL, *images, launches=2)
    assert len({groups.labels.tobytes() for groups in found}) == 2


@SMALL_STEPS
def test_equal_seeds_are_taken_in_image_order() -> None:
    (found,) = groups_of(dataclasses.replace(SMALL, agreement=False), flat(16, 32, 4, 3))
    assert found.centers[0].tolist() == [0, 0] and len(found.scores) > 5


@pytest.mark.parametrize(("left", "kept"), [(25, [1, 0]), (24, [1])])
@SMALL_STEPS
def test_contested_pixels_go_to_the_better_instance(left: int, kept: list[int]) -> None:
    outputs = flat(12, 48, 1e4, 4, n_classes=3)
    outputs[2][1, :, :left], outputs[2][1, :, left:] = -4, 5
    outputs[2][2] = -4
    (found,) = groups_of(SMALL, outputs)
    assert found.class_ids.tolist() == kept


@SMALL_STEPS
def test_where_there_is_no_room_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the session goes on in plain torch, with the same result."""
    monkeypatch.setattr(triton_session, "SLOTS", 20)
    many = columns_of_three(9, 8)
    crowd = flat(20, 30, 1e4, 3, n_classes=4)  # more points than two classes' worth
    for outputs, config in ((many, THREES), (crowd, SMALL)):
        assert groups_of(config, outputs) == [None]
        kernels, maps = clustering(outputs)
        session = gpu.Session(kernels)
        raw = [torch.from_numpy(array)[None] for array in outputs]
        grid = method.pixel_grid(*raw[2].shape[2:])
        got = session.group((raw[0], grid, *raw[1:]), method._maps, config)
        assert_groups_of_oracle(maps, got, config)


@SMALL_STEPS
def test_fewer_rounds_than_a_chain_of_rivals_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = flat(12, 48, 1e4, 4, n_classes=3)
    outputs[2][1], outputs[2][2] = 5, 6
    outputs[2][:, :, 20:] = -4
    outputs[2][2, :, 5:], outputs[2][1, :, 12:] = -4, -4
    config = dataclasses.replace(SMALL, min_new_fraction=0.0)
    (found,) = groups_of(config, outputs)
    assert found.class_ids.tolist() == [2, 1, 0]
    monkeypatch.setattr(triton_session, "ROUNDS", 1)
    assert groups_of(config, outputs) == [None]
