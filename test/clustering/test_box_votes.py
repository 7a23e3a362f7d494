"""The compiled voting against the plain one, and what both make of odd outputs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from box_scenes import perfect_outputs, street_of_ellipses, targets_of_image
from hypothesis import given, settings
from hypothesis import strategies as st

from instaseg_ros.clustering.box_votes import cpu, reference
from instaseg_ros.config.options.box_regression import DecodeConfig
from instaseg_ros.frames import Instances
from instaseg_ros.methods.box_regression import UNIT_PX, points

SMALL = DecodeConfig(seed_threshold=0.3, min_pixels=4)
Outputs = dict[str, torch.Tensor]


def assert_same(outputs: Outputs, config: DecodeConfig) -> Instances:
    """Both give every field alike, bit for bit; returns the instances."""
    given_points = points(outputs["box"][0], outputs["semantic"][0], config.foreground_threshold)
    expected = reference.group(given_points, config)
    got = cpu.group(given_points, config)
    for field in dataclasses.fields(Instances):
        left, right = getattr(expected, field.name), getattr(got, field.name)
        np.testing.assert_array_equal(left, right, err_msg=field.name)
    return got


def scene(random_seed: int, size: tuple[int, int], n_classes: int, chaos: int) -> Outputs:
    """Ideal outputs, 1 with noise and ties, 2 with what a healthy network does not say."""
    rng = np.random.default_rng(random_seed)
    labels, classes = street_of_ellipses(*size, int(rng.integers(0, 9)), random_seed)
    outputs = perfect_outputs(
        targets_of_image(labels, [c % n_classes for c in classes]), n_classes, logit=3.0
    )
    for name, array in outputs.items():
        noise = rng.normal(0, 0.2 * chaos * (5 if name == "semantic" else 1), array.shape)
        step = rng.choice([0.125, 1.0])
        array += torch.from_numpy(np.round(noise / step) * step).float()
        if chaos == 2:
            odd = torch.from_numpy(rng.random(array.shape) < rng.choice([0.01, 0.3]))
            values = [0, -3, 30, -200, np.inf, -np.inf, np.nan]
            array[odd] = torch.from_numpy(rng.choice(values, int(odd.sum()))).float()
    return outputs


@settings(max_examples=150)
@given(
    random_seed=st.integers(0, 2**31),
    size=st.sampled_from([(48, 64), (33, 47), (130, 9), (1, 60), (60, 1)]),
    n_classes=st.integers(1, 3),
    chaos=st.integers(0, 2),
    config=st.builds(
        DecodeConfig,
        seed_threshold=st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]),
        foreground_threshold=st.sampled_from([0.0, 0.1, 0.5, 0.8, 1.0]),
        min_pixels=st.sampled_from([0, 1, 4, 50]),
        min_new_fraction=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    ),
)
def test_kernels_agree_with_plain_torch(
    random_seed: int, size: tuple[int, int], n_classes: int, chaos: int, config: DecodeConfig
) -> None:
    assert_same(scene(random_seed, size, n_classes, chaos), config)


def test_random_scenes_hold_instances() -> None:
    counts = [len(assert_same(scene(k, (48, 64), 2, k % 3), SMALL)) for k in range(30)]
    assert sum(count > 1 for count in counts) > 15


def test_blocks_of_points_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "BLOCK", 100)
    assert len(assert_same(scene(2, (48, 64), 3, 1), SMALL)) > 1


def test_no_more_hypotheses_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.kron(np.arange(1, 13).reshape(3, 4), np.ones((10, 10), int))
    outputs = perfect_outputs(targets_of_image(labels, [0] * 12), 1)
    assert len(assert_same(outputs, SMALL)) == 12
    for module in (cpu, reference):
        monkeypatch.setattr(module, "MAX_HYPOTHESES", 5)
    assert len(assert_same(outputs, SMALL)) == 5


def test_more_than_255_instances() -> None:
    labels = np.kron(np.arange(1, 301).reshape(15, 20), np.ones((8, 8), int))
    found = assert_same(perfect_outputs(targets_of_image(labels, [0] * 300), 1), SMALL)
    assert len(found) == 300 and found.labels.min() == 1


def test_votes_that_disagree_are_worth_less() -> None:
    """The score is that of the class times the overlap of the boxes that were collected."""
    labels = np.zeros((40, 40), int)
    labels[10:30, 8:24] = 1
    outputs = perfect_outputs(targets_of_image(labels, [0]), 1)
    (agreed,) = assert_same(outputs, SMALL).scores
    assert agreed == pytest.approx(1 / (1 + np.exp(-6)), abs=1e-3)
    outputs["box"][0, 1, 20:30, 8:24] += 6 / UNIT_PX  # the lower half looks 6 pixels lower
    (torn,) = assert_same(outputs, SMALL).scores
    assert torn == pytest.approx(agreed * (1 + 14 / 26) / 2, abs=0.02)


def test_a_pixel_votes_for_its_second_class_too() -> None:
    """Half of an object is more probably of another class: the surer class gets it whole."""
    labels = np.zeros((40, 40), int)
    labels[10:30, 10:30] = 1
    outputs = perfect_outputs(targets_of_image(labels, [0]), 2)
    outputs["semantic"][0, 2, 20:30, 10:30] = 6.5
    found = assert_same(outputs, SMALL)
    assert found.class_ids.tolist() == [0] and found.boxes_xyxy.tolist() == [[10, 10, 30, 30]]
    assert found.scores[0] == pytest.approx((1 + 1 / (1 + np.exp(0.5))) / 2, abs=0.01)
