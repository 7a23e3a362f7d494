"""Decoding of spatial embedding: the published golden scene, units, batches, odd inputs."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from instaseg_ros.clustering.ellipses import reference
from instaseg_ros.config.options.spatial_embedding import DecodeConfig
from instaseg_ros.methods import spatial_embedding as method
from instaseg_ros.methods.spatial_embedding import STEP_X, STEP_Y, SpatialEmbedding

Disc = tuple[float, float, float, float, float]  # centre x, y, radius, raw bandwidth, top logit

PUBLISHED = DecodeConfig(0.9, 0.5, 128, 0.5, first_come=False, agreement=False)
DISCS: list[Disc] = [
    (100, 80, 40, 0.60, 3.0),
    (300, 120, 60, 0.50, 4.0),
    (345, 185, 30, 0.65, 3.5),
    (200, 220, 6, 0.90, 5.0),  # 113 pixels: too few
    (450, 60, 30, 0.65, 1.7),
    (40, 200, 25, 0.70, 2.5),
]
GOLDEN = [(0.982014, 10995), (0.970688, 2821), (0.952574, 5025), (0.924142, 1961)]


def paint_discs(height: int, width: int, discs: list[Disc]) -> dict[str, torch.Tensor]:
    y, x = np.mgrid[:height, :width].astype(np.float64)
    raw = np.zeros((4, height, width))
    raw[3] = -5
    for cx, cy, radius, bandwidth, top in discs:
        square = (x - cx) ** 2 + (y - cy) ** 2
        inside = square <= radius**2
        raw[0][inside] = np.arctanh(0.9 * (cx - x) * STEP_X)[inside]
        raw[1][inside] = np.arctanh(0.9 * (cy - y) * STEP_Y)[inside]
        raw[2][inside] = bandwidth
        raw[3][inside] = (top - 2 * square / radius**2)[inside]
    maps = torch.from_numpy(raw.astype(np.float32))[None]
    return dict(zip(("offset", "bandwidth", "seed"), maps.split([2, 1, 1], 1), strict=True))


@pytest.mark.parametrize(
    ("threshold", "expected"), [(0.9, GOLDEN), (0.5, [*GOLDEN, (0.845535, 2393)])]
)
def test_golden_scene(threshold: float, expected: list[tuple[float, int]]) -> None:
    config = dataclasses.replace(PUBLISHED, seed_threshold=threshold)
    outputs = paint_discs(256, 512, DISCS)
    embedding = method.embed(outputs["offset"][0], method.pixel_grid(256, 512)).flatten(1)
    scale = method.inverse_bandwidth(outputs["bandwidth"][0]).flatten(1)
    score = method.seed_score(outputs["seed"][0, 0]).flatten()
    pixels = torch.nonzero(score > 0.5).squeeze(1)
    assert len(pixels) == 23308
    proposals = reference.cluster(embedding[:, pixels], scale[:, pixels], score[pixels], config)
    assert [int(p.mask.sum()) for p in proposals] == [size for _, size in expected]

    (found,) = SpatialEmbedding(1, 1).decode(outputs, config)
    assert found.scores == pytest.approx([score for score, _ in expected], abs=1e-6)
    owner = torch.zeros(len(pixels), dtype=torch.int64)
    for number, proposal in enumerate(proposals):
        owner[proposal.mask] = number + 1  # the last writer wins
    np.testing.assert_array_equal(found.labels.ravel()[pixels.numpy()], owner.numpy())
    assert np.count_nonzero(found.labels) == (owner > 0).sum()


def test_fields_are_in_pixels() -> None:
    (found,) = SpatialEmbedding(1, 1).decode(paint_discs(256, 512, DISCS), PUBLISHED)
    np.testing.assert_allclose(
        found.centers_xy, [[300, 120], [345, 185], [100, 80], [40, 200]], atol=1
    )
    for k, box in enumerate(found.boxes_xyxy):
        y, x = np.nonzero(found.labels == found.ids[k])
        assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
    radius = math.sqrt(math.log(2) / math.exp(5))
    np.testing.assert_allclose(found.bandwidths[0], [radius / STEP_X, radius / STEP_Y], rtol=1e-5)
    assert found.ids.tolist() == [1, 2, 3, 4] and found.class_ids.tolist() == [0] * 4
    assert found.labels.dtype == found.ids.dtype == np.uint16
    for array in (found.scores, found.boxes_xyxy, found.centers_xy, found.bandwidths):
        assert array.dtype == np.float32


def test_300_objects_on_a_full_image() -> None:
    """The reference cannot count beyond 255."""
    height, width = 1024, 2048
    raw = np.zeros((4, height, width), np.float32)
    raw[2], raw[3] = 1.0, -5
    centers = [(x, y) for y in range(30, 1000, 65) for x in range(30, 2000, 98)][:300]
    grid = np.arange(-8, 9, dtype=np.float32)
    for cx, cy in centers:
        patch = np.s_[cy - 8 : cy + 9, cx - 8 : cx + 9]
        raw[0][patch] = np.arctanh(-0.9 * grid * STEP_X)
        raw[1][patch] = np.arctanh(-0.9 * grid * STEP_Y)[:, None]
        raw[3][patch] = 4 - (grid**2 + grid[:, None] ** 2) / 128
    maps = torch.from_numpy(raw)[None].split([2, 1, 1], 1)
    outputs = dict(zip(("offset", "bandwidth", "seed"), maps, strict=True))
    (found,) = SpatialEmbedding(1, 1).decode(outputs, PUBLISHED)
    assert len(found) == 300
    assert (np.bincount(found.labels.ravel())[1:] == 17 * 17).all()
    assert sorted(map(tuple, found.centers_xy.round().astype(int).tolist())) == sorted(centers)


def test_batch_and_crops_change_nothing() -> None:
    one, two = paint_discs(256, 512, DISCS[:3]), paint_discs(256, 512, DISCS[1:])
    batch = {name: torch.cat([one[name], two[name]]) for name in one}
    padded = {
        name: torch.nn.functional.pad(maps, (0, 24, 0, 8), value=5.0)[..., :256, :512]
        for name, maps in batch.items()
    }
    channels_last = {
        name: maps.contiguous(memory_format=torch.channels_last) for name, maps in batch.items()
    }
    decode, config = SpatialEmbedding(1, 1).decode, PUBLISHED
    expected = [*decode(one, config), *decode(two, config)]
    assert [len(found) for found in expected] == [3, 3]
    for outputs in (batch, padded, channels_last):
        for left, right in zip(expected, decode(outputs, config), strict=True):
            for name in left.__slots__:
                np.testing.assert_array_equal(getattr(left, name), getattr(right, name))


def test_results_of_earlier_frames_stay_as_they_were() -> None:
    """The kernels use their memory again; what was handed out is not part of it."""
    decode, config = SpatialEmbedding(1, 1).decode, PUBLISHED
    (first,) = decode(paint_discs(256, 512, DISCS), config)
    given = [name for name in first.__slots__ if getattr(first, name) is not None]
    copies = {name: getattr(first, name).copy() for name in given}
    decode(paint_discs(256, 512, DISCS[3:]), config)
    for name, copy in copies.items():
        np.testing.assert_array_equal(getattr(first, name), copy)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 300), (300, 1)])
def test_thin_images(height: int, width: int) -> None:
    outputs = {
        "offset": torch.zeros(1, 2, height, width),
        "bandwidth": torch.full((1, 2, height, width), -1.0),
        "seed": torch.full((1, 3, height, width), 3.0),
    }
    (found,) = SpatialEmbedding(3, 2).decode(outputs, PUBLISHED)
    assert len(found) == (height * width > 128)
    assert found.labels.shape == (height, width)


def test_pixels_vote_on_the_class_if_they_are_asked() -> None:
    outputs = paint_discs(64, 128, [(30, 30, 14, 0.8, 4.0), (90, 40, 14, 0.8, 4.0)])
    others = torch.full_like(outputs["seed"], -30).expand(1, 2, 64, 128)
    outputs["seed"] = torch.cat([outputs["seed"], others], 1)
    outputs["dense"] = torch.zeros(1, 3, 8, 16)
    outputs["dense"][:, 1, :, :8] = outputs["dense"][:, 2, :, 8:] = 0.5
    method = SpatialEmbedding(3, 1)
    (plain,) = method.decode(outputs, DecodeConfig())
    (asked,) = method.decode(outputs, DecodeConfig(class_vote=True))
    assert plain.class_ids.tolist() == [0, 0]
    assert asked.class_ids.tolist() == [1 + int(x > 60) for x in asked.centers_xy[:, 0]]
    assert sorted(asked.class_ids) == [1, 2]
    np.testing.assert_array_equal(asked.labels, plain.labels)
    np.testing.assert_array_equal(asked.scores, plain.scores)
