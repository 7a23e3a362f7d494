"""The compiled clustering against the oracle, the published loop in plain torch."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instaseg_ros import grouping
from instaseg_ros.config import DecodeConfig
from instaseg_ros.grouping import Groups, cpu, oracle
from instaseg_ros.methods import spatial_embedding as method

Outputs = tuple[np.ndarray, np.ndarray, np.ndarray]  # offset, bandwidth, seed of one image

SMALL = DecodeConfig(seed_threshold=0.9, min_pixels=4)


def oracle_groups(outputs: Outputs, config: DecodeConfig) -> Groups:
    offset, bandwidth, seed = (torch.from_numpy(array) for array in outputs)
    embedding = method.embed(offset, method.pixel_grid(*seed.shape[1:]))
    scale = method.inverse_bandwidth(bandwidth)
    return oracle.group(embedding, scale, method.seed_score(seed), config)


def assert_same(outputs: Outputs, config: DecodeConfig) -> Groups:
    """Every field equal, bit for bit; returns the groups for further questions."""
    expected, got = oracle_groups(outputs, config), method.group(*outputs, config)
    for name, left, right in zip(Groups._fields, expected, got, strict=True):
        assert left.dtype == right.dtype and left.shape == right.shape, name
        np.testing.assert_array_equal(left, right, err_msg=name)
    return got


def raw_bandwidth(radius_px: float) -> float:
    return float(np.log(np.log(2) / (radius_px * method.STEP_Y) ** 2)) / method.BANDWIDTH_GAIN


def scene(
    rng: np.random.Generator, size: tuple[int, int], n_classes: int, n_sigma: int, chaos: int
) -> Outputs:
    """Discs whose pixels point at their centres: 0 neatly, 1 with ties and noise, 2 wildly, with
    every other value replaced by something a healthy network does not say."""
    height, width = size
    y, x = np.mgrid[:height, :width].astype(np.float64)
    offset = rng.normal(0, 0.002, (2, height, width)) * (chaos > 0)
    bandwidth = np.full((n_sigma, height, width), raw_bandwidth(4.0))
    seed = rng.normal(-3, chaos, (n_classes, height, width))
    for _ in range(rng.integers(0, 9)):
        cx, cy, radius = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(1, 10)
        inside = (x - cx) ** 2 + (y - cy) ** 2 <= radius**2
        pull = rng.uniform(0, 1)
        offset[0][inside] = (pull * (cx - x) * method.STEP_X)[inside]
        offset[1][inside] = (pull * (cy - y) * method.STEP_Y)[inside]
        bandwidth[:, inside] = raw_bandwidth(radius * rng.uniform(0.3, 1.5))
        logits = rng.uniform(1, 6) - 2 * ((x - cx) ** 2 + (y - cy) ** 2) / radius**2
        seed[rng.integers(n_classes)][inside] = logits[inside]
    if chaos:
        noise = rng.normal(0, 0.05 * chaos, bandwidth.shape)
        bandwidth += noise
        step = rng.choice([0.25, 1.0, 4.0])
        seed = np.round(seed / step) * step  # ties
    if chaos == 2:
        for array, values in (
            (offset, [0, 0.5, -3, 30, np.inf, -np.inf, np.nan]),
            (bandwidth, [-20, -1, 0, 2, 8.9, 30, np.inf, -np.inf, np.nan]),
            (seed, [0, 2, 20, 200, np.inf, -np.inf, np.nan]),
        ):
            odd = rng.random(array.shape) < rng.choice([0.01, 0.3])
            array[odd] = rng.choice(values, odd.sum())
    return offset.astype(np.float32), bandwidth.astype(np.float32), seed.astype(np.float32)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    random_seed=st.integers(0, 2**32),
    size=st.sampled_from([(24, 48), (17, 31), (130, 9), (1, 60), (60, 1)]),
    n_classes=st.integers(1, 3),
    n_sigma=st.integers(1, 2),
    chaos=st.integers(0, 2),
    config=st.builds(
        DecodeConfig,
        seed_threshold=st.sampled_from([0.0, 0.5, 0.7, 0.9, 0.95, 1.0]),
        foreground_threshold=st.sampled_from([0.0, 0.3, 0.5, 0.8, 1.0]),
        min_pixels=st.sampled_from([0, 1, 4, 10, 50]),
        min_new_fraction=st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]),
    ),
)
def test_kernels_agree_with_the_oracle(
    random_seed: int,
    size: tuple[int, int],
    n_classes: int,
    n_sigma: int,
    chaos: int,
    config: DecodeConfig,
) -> None:
    rng = np.random.default_rng(random_seed)
    assert_same(scene(rng, size, n_classes, n_sigma, chaos), config)


def test_random_scenes_hold_instances() -> None:
    """The scenes above are worth comparing: they have instances, and several of them."""
    counts = [
        len(assert_same(scene(np.random.default_rng(k), (24, 48), 2, 2, k % 3), SMALL).scores)
        for k in range(30)
    ]
    assert sum(count > 1 for count in counts) > 15


def test_threads_change_nothing() -> None:
    """Neither those that share the work on an image, nor those that bring one image each."""
    scenes = [scene(np.random.default_rng(k), (200, 100), 2, 2, k % 3) for k in range(8)]
    threads = torch.get_num_threads()
    try:
        for torch_threads in (1, 3):
            torch.set_num_threads(torch_threads)
            with ThreadPoolExecutor(4) as pool:
                together = list(pool.map(lambda one: method.group(*one, SMALL), scenes))
            for one, groups in zip(scenes, together, strict=True):
                expected = oracle_groups(one, SMALL)
                np.testing.assert_array_equal(groups.labels, expected.labels)
                np.testing.assert_array_equal(groups.scores, expected.scores)
    finally:
        torch.set_num_threads(threads)


def flat(height: int, width: int, radius_px: float, logit: float, n_classes: int = 1) -> Outputs:
    """No offsets, one bandwidth, one seed output everywhere."""
    return (
        np.zeros((2, height, width), np.float32),
        np.full((1, height, width), raw_bandwidth(radius_px), np.float32),
        np.full((n_classes, height, width), logit, np.float32),
    )


def test_empty_foreground() -> None:
    groups = assert_same(flat(24, 48, 4, -5), SMALL)
    assert not groups.labels.any() and groups.boxes_xyxy.shape == (0, 4)


def test_everything_is_one_object() -> None:
    groups = assert_same(flat(24, 48, 1e4, 4), SMALL)
    assert (groups.labels == 1).all()
    assert groups.boxes_xyxy.tolist() == [[0, 0, 48, 24]]


def test_equal_seeds_are_taken_in_image_order() -> None:
    groups = assert_same(flat(24, 48, 4, 3), SMALL)
    assert groups.labels[0, 0] == 1
    assert groups.centers[0].tolist() == [0, 0]
    assert len(groups.scores) > 10


def test_equal_logits_beyond_float32_probability_tie() -> None:
    """Logits 20 and 30 are both the score 1.0: the first pixel wins, not the higher logit."""
    outputs = flat(8, 8, 2, 20)
    outputs[2][0, 4, 4] = 30
    assert assert_same(outputs, SMALL).centers[0].tolist() == [0, 0]


@pytest.mark.parametrize(("left", "labelled"), [(4, 5), (5, 10)])
def test_no_more_than_min_pixels_left_ends_the_loop(left: int, labelled: int) -> None:
    """Even where a proposal over them would have been accepted."""
    offset, bandwidth, seed = flat(1, 5 + left, 0.3, 4)
    offset[0, 0, :5] = np.arange(5) * -method.STEP_X  # all at the first pixel
    bandwidth[0, 0, 5:], seed[0, 0, 5:] = raw_bandwidth(1e4), 3
    config = dataclasses.replace(SMALL, min_new_fraction=0.3)
    groups = assert_same((offset, bandwidth, seed), config)
    assert np.count_nonzero(groups.labels) == labelled


def test_unlimited_and_vanishing_bandwidths() -> None:
    for raw in (-50.0, 50.0, np.inf, -np.inf):
        outputs = flat(24, 48, 4, 3)
        outputs[1][:] = raw
        assert len(assert_same(outputs, SMALL).scores) == (raw < 0)


def test_nan_pixels_take_no_part() -> None:
    for array in range(3):
        outputs = flat(24, 48, 1e4, 4)
        outputs[array][0, 3:5] = np.nan
        groups = assert_same(outputs, SMALL)
        assert not groups.labels[3:5].any() and groups.labels[:3].all() and groups.labels[5:].all()
    outputs[0][:] = np.nan
    assert not assert_same(outputs, SMALL).labels.any()


def test_nan_in_one_class_leaves_the_others_alone() -> None:
    outputs = flat(24, 48, 1e4, 4, n_classes=3)
    outputs[2][1] = np.nan
    outputs[2][2] = 3
    groups = assert_same(outputs, SMALL)
    assert groups.class_ids.tolist() == [0]


@pytest.mark.parametrize(("left", "kept"), [(25, [1, 0]), (24, [1])])
def test_contested_pixels_go_to_the_better_instance(left: int, kept: list[int]) -> None:
    outputs = flat(24, 48, 1e4, 4, n_classes=3)
    # Class 1 is taken first; class 0 lives on where more than half of its pixels are left to it.
    outputs[2][1, :, :left], outputs[2][1, :, left:] = -4, 5
    outputs[2][2] = 4  # equals class 0 everywhere: nothing is left for it
    groups = assert_same(outputs, dataclasses.replace(SMALL, min_new_fraction=0.5))
    assert groups.class_ids.tolist() == kept
    boxes = [[left, 0, 48, 24], [0, 0, left, 24]]
    assert groups.boxes_xyxy.tolist() == boxes[: len(kept)]


def columns_of_three(height: int, width: int) -> Outputs:
    """Every three pixels above each other are an instance, the later the higher its score."""
    offset, bandwidth, seed = flat(height, width, 0.3, 3)
    offset[1] = ((1 - np.arange(height) % 3) * np.float32(method.STEP_Y))[:, None]
    seed[0, 1::3] = np.linspace(4, 5, height // 3 * width).reshape(height // 3, width)
    return offset, bandwidth, seed


THREES = dataclasses.replace(SMALL, min_pixels=2)


def test_more_than_255_instances() -> None:
    groups = assert_same(columns_of_three(30, 30), THREES)
    assert len(groups.scores) == 300
    assert np.unique(groups.labels).tolist() == list(range(1, 301))


def test_beyond_the_limit_the_best_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = columns_of_three(9, 9)
    everything = assert_same(outputs, THREES)
    for module in (cpu, oracle):
        monkeypatch.setattr(module, "MAX_INSTANCES", 20)
    best = assert_same(outputs, THREES)
    assert len(everything.scores) == 27
    np.testing.assert_array_equal(best.scores, everything.scores[:20])


def test_the_label_image_holds_65535_instances() -> None:
    height, width = 600, 400
    groups = method.group(*columns_of_three(height, width), THREES)
    labels = groups.labels.reshape(-1, 3, width)[:, 1].ravel()
    lost = height // 3 * width - grouping.MAX_INSTANCES
    assert not labels[:lost].any()  # the lowest scores
    assert labels[lost:].tolist() == list(range(grouping.MAX_INSTANCES, 0, -1))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(difference=st.floats(2**-13, 2**-4, width=32), ulps=st.integers(-6, 6))
def test_border_of_an_ellipse(difference: float, ulps: int) -> None:
    """A pixel whose distance is within ulps of ln 2 is in or out as torch's exp decides."""
    gap = np.float32(difference)
    scale = np.float32(np.log(2) / np.float64(gap) ** 2)
    scale = np.int32(scale.view(np.int32) + ulps).view(np.float32)
    embedding = np.zeros((2, 1, 64), np.float32)
    embedding[1, 0, 32:] = gap
    scales = np.full((1, 1, 64), scale, np.float32)
    score = np.linspace(0.99, 0.95, 64, dtype=np.float32)[None, None]
    lattice = np.linspace(0, 0.0625, 64, dtype=np.float32), np.zeros(1, np.float32)
    outputs = cpu.Outputs(embedding, scales, score, *lattice)
    got = cpu.group(
        outputs, 0.9, lambda offset, _, bandwidth, seed: (offset, bandwidth, seed), SMALL
    )
    expected = oracle.group(*map(torch.from_numpy, outputs[:3]), SMALL)
    np.testing.assert_array_equal(got.labels, expected.labels)
    assert len(got.scores) in (1, 2)


def test_largest_distance_is_where_torch_exp_crosses_one_half() -> None:
    bits = int(np.float32(np.log(2)).view(np.int32))
    distance = torch.arange(bits - 50_000, bits + 50_000, dtype=torch.int32).view(torch.float32)
    members = torch.exp(-distance) > grouping.MEMBERSHIP
    assert torch.equal(members, distance <= float(cpu.largest_distance()))


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.3, 0.5, 0.6, 0.9, 0.999])
def test_least_logit_is_where_the_score_crosses_the_threshold(threshold: float) -> None:
    least = np.float32(method.least_logit(threshold))
    for distance in (1e-7, 1e-6, 1e-4, 1e-2, 1.0):
        logits = least + np.linspace(-distance, distance, 10_001, dtype=np.float32)
        above = method.seed_score(torch.from_numpy(logits)) > threshold
        np.testing.assert_array_equal(above.numpy(), logits >= least)


def test_no_logit_is_above_a_threshold_of_one() -> None:
    assert np.isnan(method.least_logit(1.0))
