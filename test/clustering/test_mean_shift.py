"""The compiled mean shift against its rules in plain torch, and the rules themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instaseg_ros.clustering.mean_shift import cpu, reference
from instaseg_ros.config.options.discriminative import DecodeConfig
from instaseg_ros.methods.discriminative import BANDWIDTH, REACH

SMALL = DecodeConfig(seed_threshold=0.5, min_pixels=2)


def run(
    points: np.ndarray, score: np.ndarray, config: DecodeConfig
) -> tuple[list[int], np.ndarray]:
    """Owners and means of (D, N) points, on which both must agree."""
    tensors = torch.from_numpy(points.astype(np.float32)), torch.from_numpy(score)
    expected = reference.cluster(*tensors, BANDWIDTH, REACH, config)
    on_lattice = reference.on_lattice(tensors[0]).numpy()
    owner, means = cpu.cluster(on_lattice, score, BANDWIDTH, REACH, config)
    np.testing.assert_array_equal(owner, expected.owner.numpy())
    np.testing.assert_array_equal(means, expected.means.numpy())
    return owner.tolist(), means


@st.composite
def random_points(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, DecodeConfig]:
    """Clusters near and far, noise, ties of score and place, and what no healthy network says."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_dims, n = draw(st.sampled_from([1, 2, 3, 8])), draw(st.integers(1, 700))
    centers = rng.normal(
        0, draw(st.sampled_from([0.2, 1.0, 3.0])), (n_dims, draw(st.integers(1, 9)))
    )
    spread = draw(st.sampled_from([0.0, 0.1, 0.4]))
    points = centers[:, rng.integers(centers.shape[1], size=n)] + rng.normal(0, spread, (n_dims, n))
    if draw(st.booleans()):
        points = np.round(points * 2) / 2  # many at exactly the bandwidth
    if draw(st.booleans()):
        odd = rng.random(points.shape) < 0.05
        points[odd] = rng.choice([np.nan, np.inf, -np.inf, 1e30, -70, 64], odd.sum())
    score = np.round(rng.uniform(0, 1, n) * 8) / 8
    return (
        points,
        score.astype(np.float32),
        DecodeConfig(
            seed_threshold=draw(st.sampled_from([0.0, 0.3, 0.5, 1.0])),
            min_pixels=draw(st.sampled_from([0, 1, 10])),
            min_new_fraction=draw(st.sampled_from([0.0, 0.5, 0.9])),
        ),
    )


@given(random_points())
@settings(max_examples=150)
def test_compiled_is_the_oracle(case: tuple[np.ndarray, np.ndarray, DecodeConfig]) -> None:
    run(*case)


def line(*positions: float) -> np.ndarray:
    return np.array([positions])


def sure(n: int) -> np.ndarray:
    return np.linspace(0.9, 0.8, n, dtype=np.float32)


def test_a_mean_shifts_to_the_densest_place() -> None:
    points = line(0.0, 0.75, 0.875, 1.0, 1.125, 1.25)
    owner, means = run(points, sure(6), SMALL)
    # around 0: 0 to 1, mean 0.65625; around that 0 to 1.25: mean 0.8333, and it stays
    assert owner == [1] * 6
    assert means[0] == pytest.approx(5 / 6)


def test_pixels_between_two_clusters_go_to_the_nearer_one_within_reach() -> None:
    points = line(0, 0, 0, 3, 3, 3, 1.25, 1.875, 4.75)
    owner, _ = run(points, sure(9), SMALL)
    assert owner == [1, 1, 1, 2, 2, 2, 1, 2, 0]


def test_a_cluster_starts_where_the_network_is_sure() -> None:
    points = line(*[0] * 4, *[9] * 4)
    score = np.array([0.3] * 4 + [0.2, 0.5, 0.2, 0.2], np.float32)
    assert run(points, score, SMALL)[0] == [0] * 4 + [1] * 4


def test_small_ones_and_those_mostly_taken_are_refused() -> None:
    small = line(*[0] * 4, *[9] * 2)
    assert run(small, sure(6), SMALL)[0] == [1] * 4 + [0] * 2
    # the second cluster ends at 1.25, within 1 of which four of seven lie that the first one has
    near = line(0, 0, 0, 0, 1, 1, 1, 1, 1.25, 1.25, 1.25)
    owner, means = run(near, sure(11), SMALL)
    assert len(means) == 1 and owner == [1] * 11


def test_twenty_failures_in_a_row_end_it() -> None:
    specks, object_ = [3.0 * k for k in range(1, 21)], [0.0] * 5
    assert run(line(*specks, *object_), sure(25), SMALL)[0] == [0] * 25
    assert run(line(*specks[1:], *object_), sure(24), SMALL)[0] == [0] * 19 + [1] * 5


def test_none_and_one() -> None:
    assert run(np.zeros((4, 0)), sure(0), SMALL)[0] == []
    assert run(np.zeros((4, 1)), sure(1), DecodeConfig(min_pixels=0))[0] == [1]
