"""The compiled clustering against the oracle, the published loop in plain torch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from embedding_scenes import (
    SMALL,
    THREES,
    assert_groups_of_oracle,
    columns_of_three,
    raw_bandwidth,
    scene_of_discs,
    uniform_outputs,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from instaseg_ros.clustering import MAX_INSTANCES, ellipses
from instaseg_ros.clustering.ellipses import cpu, reference
from instaseg_ros.config.options.spatial_embedding import DecodeConfig
from instaseg_ros.methods import spatial_embedding as method


@settings(max_examples=300)
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
        first_come=st.booleans(),
        agreement=st.booleans(),
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
    assert_groups_of_oracle(scene_of_discs(rng, size, n_classes, n_sigma, chaos), config)


def test_random_scenes_hold_instances() -> None:
    """The scenes above are worth comparing: they have instances, and several of them."""
    counts = [
        len(
            assert_groups_of_oracle(
                scene_of_discs(np.random.default_rng(k), (24, 48), 2, 2, k % 3), SMALL
            ).scores
        )
        for k in range(30)
    ]
    assert sum(count > 1 for count in counts) > 15


def test_empty_foreground() -> None:
    groups = assert_groups_of_oracle(uniform_outputs(24, 48, 4, -5), SMALL)
    assert not groups.labels.any() and groups.boxes_xyxy.shape == (0, 4)


def test_everything_is_one_object() -> None:
    groups = assert_groups_of_oracle(uniform_outputs(24, 48, 1e4, 4), SMALL)
    assert (groups.labels == 1).all()
    assert groups.boxes_xyxy.tolist() == [[0, 0, 48, 24]]


def test_equal_seeds_are_taken_in_image_order() -> None:
    groups = assert_groups_of_oracle(
        uniform_outputs(24, 48, 4, 3), dataclasses.replace(SMALL, agreement=False)
    )
    assert groups.labels[0, 0] == 1
    assert groups.centers[0].tolist() == [0, 0]
    assert len(groups.scores) > 10


def test_equal_logits_beyond_float32_probability_tie() -> None:
    """Logits 20 and 30 are both the score 1.0: the first pixel wins, not the higher logit."""
    outputs = uniform_outputs(8, 8, 2, 20)
    outputs[2][0, 4, 4] = 30
    groups = assert_groups_of_oracle(outputs, dataclasses.replace(SMALL, agreement=False))
    assert groups.centers[0].tolist() == [0, 0]


@pytest.mark.parametrize(("left", "labelled"), [(4, 5), (5, 10)])
def test_no_more_than_min_pixels_left_ends_the_loop(left: int, labelled: int) -> None:
    """Even where a proposal over them would have been accepted."""
    offset, bandwidth, seed = uniform_outputs(1, 5 + left, 0.3, 4)
    offset[0, 0, :5] = np.arange(5) * -method.STEP_X  # all at the first pixel
    bandwidth[0, 0, 5:], seed[0, 0, 5:] = raw_bandwidth(1e4), 3
    config = dataclasses.replace(SMALL, min_new_fraction=0.3)
    groups = assert_groups_of_oracle((offset, bandwidth, seed), config)
    assert np.count_nonzero(groups.labels) == labelled


def test_unlimited_and_vanishing_bandwidths() -> None:
    for raw in (-50.0, 50.0, np.inf, -np.inf):
        outputs = uniform_outputs(24, 48, 4, 3)
        outputs[1][:] = raw
        assert len(assert_groups_of_oracle(outputs, SMALL).scores) == (raw < 0)


def test_nan_pixels_take_no_part() -> None:
    for array in range(3):
        outputs = uniform_outputs(24, 48, 1e4, 4)
        outputs[array][0, 3:5] = np.nan
        groups = assert_groups_of_oracle(outputs, SMALL)
        assert not groups.labels[3:5].any() and groups.labels[:3].all() and groups.labels[5:].all()
    outputs[0][:] = np.nan
    assert not assert_groups_of_oracle(outputs, SMALL).labels.any()


def test_nan_in_one_class_leaves_the_others_alone() -> None:
    outputs = uniform_outputs(24, 48, 1e4, 4, n_classes=3)
    outputs[2][1] = np.nan
    outputs[2][2] = 3
    groups = assert_groups_of_oracle(outputs, SMALL)
    assert groups.class_ids.tolist() == [0]


@pytest.mark.parametrize("first_come", [True, False])
def test_pixels_that_two_instances_of_a_class_claim(first_come: bool) -> None:
    """Of a row of pixels at 0, 1 and 2 steps, the seed at 0 takes the middle first."""
    offset, bandwidth, seed = uniform_outputs(6, 30, 1, 3)
    offset[0] = np.arctanh((np.arange(30) // 10 - np.arange(30)) * method.STEP_X)
    offset[1] = np.arctanh(-np.arange(6)[:, None] * method.STEP_Y)
    bandwidth[:] = raw_bandwidth(1.2)
    seed[0, :, :10], seed[0, :, 20:] = 5, 4
    config = dataclasses.replace(SMALL, min_new_fraction=0.3, first_come=first_come)
    groups = assert_groups_of_oracle((offset, bandwidth, seed), config)
    in_a_row = [[1] * 10, [1 if first_come else 2] * 10, [2] * 10]
    assert groups.labels[0].tolist() == [label for ten in in_a_row for label in ten]


def test_the_score_tells_how_well_the_members_agree() -> None:
    """Half of them point at the seed's centre, the others half a radius beside it."""
    offset, bandwidth, seed = uniform_outputs(2, 12, 1, 3)
    offset[0] = np.arctanh(-np.arange(12) * method.STEP_X)
    offset[1, 1] = np.arctanh(-0.5 * method.STEP_Y)
    seed[0, 0, 0] = 5
    alone = 1 / (1 + np.exp(-5))
    for agreement, expected in ((False, alone), (True, alone * method.MEMBERSHIP ** (1 / 8))):
        config = dataclasses.replace(SMALL, agreement=agreement)
        (score,) = assert_groups_of_oracle((offset, bandwidth, seed), config).scores
        assert score == pytest.approx(expected, abs=1e-5)


def test_a_better_seed_keeps_its_pixels_though_its_members_agree_less() -> None:
    """One class claims both rows, the other the second one, whose pixels point beside its seed."""
    offset, bandwidth, seed = uniform_outputs(2, 12, 1, 3, n_classes=2)
    seed[1, 0] = -5
    seed[0, 0, 0], seed[1, 1, 0] = 4, 5
    offset[0] = np.arctanh(-np.arange(12) * method.STEP_X)
    offset[1, 1, 1:] = np.arctanh(0.9 * method.STEP_Y)
    for agreement in (False, True):
        config = dataclasses.replace(SMALL, agreement=agreement, min_new_fraction=0.3)
        groups = assert_groups_of_oracle((offset, bandwidth, seed), config)
        assert groups.class_ids.tolist() == [1, 0]
        assert groups.labels[:, 0].tolist() == [2, 1]
        assert (groups.scores[0] < groups.scores[1]) == agreement


@pytest.mark.parametrize(("left", "kept"), [(25, [1, 0]), (24, [1])])
def test_contested_pixels_go_to_the_better_instance(left: int, kept: list[int]) -> None:
    outputs = uniform_outputs(24, 48, 1e4, 4, n_classes=3)
    # Class 1 is taken first; class 0 lives on where more than half of its pixels are left to it.
    outputs[2][1, :, :left], outputs[2][1, :, left:] = -4, 5
    outputs[2][2] = 4  # equals class 0 everywhere: nothing is left for it
    groups = assert_groups_of_oracle(outputs, dataclasses.replace(SMALL, min_new_fraction=0.5))
    assert groups.class_ids.tolist() == kept
    boxes = [[left, 0, 48, 24], [0, 0, left, 24]]
    assert groups.boxes_xyxy.tolist() == boxes[: len(kept)]


def test_more_than_255_instances() -> None:
    groups = assert_groups_of_oracle(columns_of_three(30, 30), THREES)
    assert len(groups.scores) == 300
    assert np.unique(groups.labels).tolist() == list(range(1, 301))


def test_beyond_the_limit_the_best_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = columns_of_three(9, 9)
    everything = assert_groups_of_oracle(outputs, THREES)
    for module in (cpu, reference):
        monkeypatch.setattr(module, "MAX_INSTANCES", 20)
    best = assert_groups_of_oracle(outputs, THREES)
    assert len(everything.scores) == 27
    np.testing.assert_array_equal(best.scores, everything.scores[:20])


def test_the_label_image_holds_65535_instances() -> None:
    height, width = 600, 400
    groups = method.group(*columns_of_three(height, width), THREES)
    labels = groups.labels.reshape(-1, 3, width)[:, 1].ravel()
    lost = height // 3 * width - MAX_INSTANCES
    assert not labels[:lost].any()  # the lowest scores
    assert labels[lost:].tolist() == list(range(MAX_INSTANCES, 0, -1))


@settings(max_examples=60)
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
    expected = reference.group(*map(torch.from_numpy, outputs[:3]), SMALL)
    np.testing.assert_array_equal(got.labels, expected.labels)
    assert len(got.scores) in (1, 2)


def test_largest_distance_is_where_torch_exp_crosses_one_half() -> None:
    bits = int(np.float32(np.log(2)).view(np.int32))
    distance = torch.arange(bits - 50_000, bits + 50_000, dtype=torch.int32).view(torch.float32)
    members = torch.exp(-distance) > ellipses.MEMBERSHIP
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
