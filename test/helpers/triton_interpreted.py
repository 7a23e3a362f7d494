"""The Triton kernels in Triton's interpreter against the oracle: run by `test_triton`.

In a process of its own, because Triton decides at import whether to interpret. The interpreter runs
programs one after the other on the CPU: it shows that the kernels compute what they should, not how
fast, nor that programs at the same time do each other no harm. Nothing in the kernels waits for
another program, and where programs write to one place they add or take extremes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from clustering_scenes import assert_batch_of_oracle, random_outputs
from embedding_scenes import SMALL, THREES, Outputs, columns_of_three, uniform_outputs
from loss_batches import batch
from torch import Tensor

from instaseg_ros.benchmarks.yardstick import made_to_measure
from instaseg_ros.clustering.ellipses import triton_kernels as kernels
from instaseg_ros.clustering.ellipses import triton_session
from instaseg_ros.config.options.spatial_embedding import DecodeConfig
from instaseg_ros.methods import binned_loss
from instaseg_ros.methods import spatial_embedding as method

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


@triton.jit
def evaluate(  # type: ignore[no-untyped-def]
    offset, bandwidth, seed, lattice_x, lattice_y, embedding, scale, score, width, n_pixels, gain,
    SIGMA: tl.constexpr, CLASSES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The kernels' formulas for every pixel, of contiguous float32 outputs."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n_pixels
    x, y, scale_x, scale_y = kernels._ellipse(
        offset + at, n_pixels, bandwidth + at, n_pixels, lattice_x + at % width,
        lattice_y + at // width, gain, inside, SIGMA,
    )  # fmt: skip
    tl.store(embedding + at, x, mask=inside)
    tl.store(embedding + n_pixels + at, y, mask=inside)
    tl.store(scale + at, scale_x, mask=inside)
    tl.store(scale + (SIGMA - 1) * n_pixels + at, scale_y, mask=inside)
    for c in range(CLASSES):
        raw = tl.load(seed + c * n_pixels + at, mask=inside, other=0.0)
        tl.store(score + c * n_pixels + at, kernels.seed_score(raw), mask=inside)


def stacked(*images: Outputs) -> list[Tensor]:
    """Raw outputs (B, c, H, W) of a batch."""
    return [torch.from_numpy(np.stack(arrays)) for arrays in zip(*images, strict=True)]


def _first_image(raw: Sequence[Tensor]) -> Outputs:
    offset, bandwidth, seed = (part[0].float().numpy() for part in raw)
    return offset, bandwidth, seed


def lattice_of(raw: Sequence[Tensor]) -> list[Tensor]:
    """The pixels' coordinates along x and y, as the method has them."""
    return [torch.from_numpy(axis) for axis in method._lattice(*raw[2].shape[2:])]


def maps_of(raw: Sequence[Tensor]) -> list[Tensor]:
    """Embedding, scale and score, as the kernels have them."""
    raw = [t.float().contiguous() for t in raw]
    maps = [torch.empty_like(t) for t in raw]
    width, (n_images, n_classes, *_) = raw[2].shape[3], raw[2].shape
    n_pixels = raw[2][0, 0].numel()
    for b in range(n_images):
        image = [t[b] for t in raw], lattice_of(raw), [t[b] for t in maps]
        evaluate[(-(-n_pixels // 1024),)](
            *(t for part in image for t in part), width, n_pixels, method.BANDWIDTH_GAIN,
            SIGMA=raw[1].shape[1], CLASSES=n_classes, BLOCK=1024,
        )  # fmt: skip
    return maps


def clustering(raw: Sequence[Tensor]) -> triton_session.TritonGrouping:
    """A session for outputs of these shapes, on the CPU."""
    seed = raw[2]
    return triton_session.TritonGrouping(seed.shape, raw[1].shape[1], "cpu", lattice_of(raw))


def groups_of_raw(config: DecodeConfig, raw: Sequence[Tensor], launches: int = 1) -> list[Any]:
    """Groups of a batch, equal to the reference's; None if they did not fit.

    launches: the second finds the memory as the first has left it.
    """
    grouping, maps = clustering(raw), maps_of(raw)
    least_logit = method.least_logit(config.foreground_threshold)
    for _ in range(launches):
        grouping.launch(raw, least_logit, method.BANDWIDTH_GAIN, config)
        found = grouping.groups(grouping.labels.numpy().copy(), grouping.report.numpy().copy())
        fitting = [k for k, groups in enumerate(found) if groups is not None]
        kept = [groups for groups in found if groups is not None]
        assert_batch_of_oracle([t[fitting] for t in maps], kept, config)
    return found


def groups_of(config: DecodeConfig, *images: Outputs, launches: int = 1) -> list[Any]:
    return groups_of_raw(config, stacked(*images), launches)


def test_formulas_are_the_methods() -> None:
    """But for the last places of tanh and exp; the score is equal, as the seeds' order hangs on it.
    What is not a number stays so."""
    values = torch.cat([torch.linspace(-12, 12, 2048), torch.tensor([0.0, -0.0, 1e-30, 90.0])])
    odd = torch.tensor([torch.inf, -torch.inf, torch.nan])
    row = torch.cat([values, -values, values / 100, odd]).expand(1, 1, 1, -1)
    raw = row.expand(1, 2, 1, -1), row / 4, row
    embedding, scale, score = maps_of(raw)
    grid = method.pixel_grid(1, row.shape[-1])
    # x reaches 6, where neighbours in float32 lie 5e-7 apart
    torch.testing.assert_close(embedding, method.embed(raw[0], grid), rtol=0.0, atol=5e-7,
                               equal_nan=True)  # fmt: skip
    torch.testing.assert_close(embedding[:, 1], torch.tanh(raw[0][:, 1]), rtol=3e-7, atol=0.0,
                               equal_nan=True)  # fmt: skip
    torch.testing.assert_close(scale, method.inverse_bandwidth(raw[1]), rtol=2e-7, atol=1e-37,
                               equal_nan=True)  # fmt: skip
    torch.testing.assert_close(score, method.seed_score(row), rtol=0, atol=0, equal_nan=True)


@SMALL_STEPS
@pytest.mark.parametrize(
    "dtype",
    [
        torch.float16,
        pytest.param(torch.bfloat16, marks=pytest.mark.slow),
        pytest.param(torch.float32, marks=pytest.mark.slow),
    ],
)
def test_outputs_are_read_as_they_lie(dtype: torch.dtype) -> None:
    """Half precision, channels last, cut out of a larger image and of one tensor with all heads:
    as a network leaves them."""
    outputs, config = random_outputs(71)
    (one,) = groups_of_raw(config, [t.to(dtype) for t in stacked(outputs)])
    sizes = [len(array) for array in outputs]
    height, width = outputs[2].shape[1:]
    padded = torch.full((1, height + 3, width + 5, sum(sizes) + 2), 7.0, dtype=dtype)
    heads = padded[:, :height, :width].permute(0, 3, 1, 2)[:, 1:-1].split(sizes, 1)
    for head, array in zip(heads, outputs, strict=True):
        head.copy_(torch.from_numpy(array)[None])
    (other,) = groups_of_raw(config, heads)
    assert len(one.scores) > 2
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left, right)


def test_what_a_network_says_is_clustered_as_on_the_cpu() -> None:
    """From the raw outputs on, in half precision: which pixels are points, and every formula."""
    made = made_to_measure(48, 96, 5, 2, 6, 1300)
    raw, config = [part.half() for part in made.values()], DecodeConfig(min_pixels=20)
    grouping = clustering(raw)
    least_logit = method.least_logit(config.foreground_threshold)
    grouping.launch(raw, least_logit, method.BANDWIDTH_GAIN, config)
    (found,) = grouping.groups(grouping.labels.numpy(), grouping.report.numpy())
    expected = method.group(*_first_image(raw), config)
    assert found is not None and len(found.scores) == len(expected.scores) == 6
    assert np.count_nonzero(found.labels != expected.labels) <= 2  # on a border, by rounding
    np.testing.assert_array_equal(found.class_ids, expected.class_ids)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-6)
    np.testing.assert_allclose(found.centers, expected.centers, atol=5e-7)
    np.testing.assert_allclose(found.scales, expected.scales, rtol=5e-7)


@pytest.mark.parametrize("number", range(2))
def test_kernels_agree_with_the_oracle(number: int) -> None:
    outputs, config = random_outputs(number)
    groups_of(config, outputs)


@pytest.mark.parametrize("numbers", [(14, 19), pytest.param(range(8, 32), marks=pytest.mark.slow)])
@SMALL_STEPS
def test_kernels_agree_in_small_steps(numbers: Sequence[int]) -> None:
    found = []
    for number in numbers:
        outputs, config = random_outputs(number)
        found += groups_of(config, outputs, launches=2)
    assert sum(len(groups.scores) for groups in found if groups) > 10


@SMALL_STEPS
def test_images_of_a_batch_do_not_mix() -> None:
    images = [random_outputs(number)[0] for number in (32, 62)]  # alike in shape
    found = groups_of(SMALL, *images, launches=2)
    assert len({groups.labels.tobytes() for groups in found}) == 2


@SMALL_STEPS
def test_equal_seeds_are_taken_in_image_order() -> None:
    (found,) = groups_of(dataclasses.replace(SMALL, agreement=False), uniform_outputs(16, 32, 4, 3))
    assert found.centers[0].tolist() == [0, 0] and len(found.scores) > 5


@pytest.mark.parametrize(("left", "kept"), [(25, [1, 0]), (24, [1])])
@SMALL_STEPS
def test_contested_pixels_go_to_the_better_instance(left: int, kept: list[int]) -> None:
    outputs = uniform_outputs(12, 48, 1e4, 4, n_classes=3)
    outputs[2][1, :, :left], outputs[2][1, :, left:] = -4, 5
    outputs[2][2] = -4
    (found,) = groups_of(SMALL, outputs)
    assert found.class_ids.tolist() == kept


@SMALL_STEPS
def test_where_there_is_no_room_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """And leaves the image to the CPU."""
    monkeypatch.setattr(triton_session, "SLOTS", 20)
    many = columns_of_three(9, 8)
    crowd = uniform_outputs(20, 30, 1e4, 3, n_classes=4)  # more points than two classes' worth
    for outputs, config in ((many, THREES), (crowd, SMALL)):
        assert groups_of(config, outputs) == [None]


@SMALL_STEPS
def test_fewer_rounds_than_a_chain_of_rivals_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = uniform_outputs(12, 48, 1e4, 4, n_classes=3)
    outputs[2][1], outputs[2][2] = 5, 6
    outputs[2][:, :, 20:] = -4
    outputs[2][2, :, 5:], outputs[2][1, :, 12:] = -4, -4
    config = dataclasses.replace(SMALL, min_new_fraction=0.0)
    (found,) = groups_of(config, outputs)
    assert found.class_ids.tolist() == [2, 1, 0]
    monkeypatch.setattr(triton_session, "ROUNDS", 1)
    assert groups_of(config, outputs) == [None]


@pytest.mark.parametrize(("n_sigma", "radius_px", "quality"), [(1, 10, 0.0), (2, 20, 0.9)])
def test_binned_instance_loss(n_sigma: int, radius_px: float, quality: float) -> None:
    """With a last block that is not full, and classes padded beyond an image's instances."""
    outputs, targets = batch(7, n_sigma, radius_px, quality)
    cut = slice(0, 95)
    embedding = method.embed(outputs["offset"].detach(), method.pixel_grid(96, 160))[..., cut, :]
    truth = binned_loss.truth_of(targets.labels[:, cut], targets.ignore[:, cut], targets.class_ids)
    rng = torch.Generator().manual_seed(1)
    center = torch.rand(3, 2, 9, generator=rng) * 0.1
    scale = torch.exp(10 + torch.rand(3, 2, 9, generator=rng))
    given = embedding.flatten(2), center, scale, truth.own, truth.counted, torch.tensor([9, 4, 1])
    found, wanted = binned_loss._in_triton(*given), binned_loss._in_torch(*given)
    assert wanted[0][0] > 0.5
    for got, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5 * float(want.abs().max()))
