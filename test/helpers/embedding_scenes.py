"""Raw network outputs for tests of the clustering, and what the oracle makes of them."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from instaseg_ros.clustering.ellipses import Groups, reference
from instaseg_ros.config.options.spatial_embedding import DecodeConfig
from instaseg_ros.methods import spatial_embedding as method

Outputs = tuple[np.ndarray, np.ndarray, np.ndarray]  # offset, bandwidth, seed of one image

SMALL = DecodeConfig(seed_threshold=0.9, min_pixels=4)
THREES = dataclasses.replace(SMALL, min_pixels=2)


def oracle_groups(outputs: Outputs, config: DecodeConfig) -> Groups:
    """The groups of the published loop."""
    offset, bandwidth, seed = (torch.from_numpy(array) for array in outputs)
    embedding = method.embed(offset, method.pixel_grid(*seed.shape[1:]))
    scale = method.inverse_bandwidth(bandwidth)
    return reference.group(embedding, scale, method.seed_score(seed), config)


def assert_groups_of_oracle(outputs: Outputs, config: DecodeConfig) -> Groups:
    """Every field equal, bit for bit; returns the groups for further questions."""
    expected, got = oracle_groups(outputs, config), method.group(*outputs, config)
    assert_same_groups(expected, got)
    return got


def assert_same_groups(expected: Groups, got: Groups) -> None:
    """Every field of one type and shape, and equal bit for bit."""
    for name in Groups._fields:
        left, right = getattr(expected, name), getattr(got, name)
        assert left.dtype == right.dtype and left.shape == right.shape, name
        np.testing.assert_array_equal(left, right, err_msg=name)


def raw_bandwidth(radius_px: float) -> float:
    """The raw output that makes a disc of this radius of one instance's pixels."""
    return float(np.log(np.log(2) / (radius_px * method.STEP_Y) ** 2)) / method.BANDWIDTH_GAIN


def scene_of_discs(
    rng: np.random.Generator, size: tuple[int, int], n_classes: int, n_sigma: int, chaos: int
) -> Outputs:
    """Discs whose pixels point at their centres.

    chaos: 0 neatly, 1 with ties and noise, 2 wildly, with every other value replaced by something
    a healthy network does not say.
    """
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


def uniform_outputs(
    height: int, width: int, radius_px: float, logit: float, n_classes: int = 1
) -> Outputs:
    """No offsets, one bandwidth, one seed output everywhere."""
    return (
        np.zeros((2, height, width), np.float32),
        np.full((1, height, width), raw_bandwidth(radius_px), np.float32),
        np.full((n_classes, height, width), logit, np.float32),
    )


def columns_of_three(height: int, width: int) -> Outputs:
    """Every three pixels above each other are an instance, the later the higher its score."""
    offset, bandwidth, seed = uniform_outputs(height, width, 0.3, 3)
    offset[1] = ((1 - np.arange(height) % 3) * np.float32(method.STEP_Y))[:, None]
    seed[0, 1::3] = np.linspace(4, 5, height // 3 * width).reshape(height // 3, width)
    return offset, bandwidth, seed
