"""Preprocessing and the way back to camera resolution."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from instaseg_ros.config import InputConfig
from instaseg_ros.errors import ImageError
from instaseg_ros.frames import Instances
from instaseg_ros.preprocess import preprocess, restore


def image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_a_fitting_image_is_passed_on_without_a_copy() -> None:
    camera = image(16, 24)
    batch, geometry = preprocess([camera], InputConfig())
    assert np.shares_memory(batch, camera)
    assert geometry == ((16, 24), (16, 24))


def test_other_sizes_are_padded_right_and_below() -> None:
    camera = image(13, 17)
    batch, geometry = preprocess([camera, camera], InputConfig())
    assert batch.shape == (2, 16, 24, 3)
    assert np.array_equal(batch[1, :13, :17], camera)
    assert not batch[:, 13:].any() and not batch[:, :, 17:].any()
    assert geometry.scaled == (13, 17)


def test_a_smaller_image_is_of_means_a_larger_one_has_values_between() -> None:
    """Of every fourth column white, picking pixels would make columns black or white."""
    stripes, edge = np.zeros((16, 64, 3), np.uint8), np.zeros((8, 16, 3), np.uint8)
    stripes[:, ::4], edge[:, 8:] = 200, 200
    (small,), geometry = preprocess([stripes], InputConfig(scale=0.25))
    assert geometry.scaled == (4, 16) and np.all(small[:4, :16] == 50)
    (large,), _ = preprocess([edge], InputConfig(scale=2.0))
    assert large[0, :, 0].tolist() == [0] * 15 + [50, 150] + [200] * 15


@pytest.mark.parametrize(
    "asked", [InputConfig(height=20), InputConfig(width=40), InputConfig(scale=0.5)]
)
def test_one_side_or_a_scale_keeps_the_shape_of_the_image(asked: InputConfig) -> None:
    batch, geometry = preprocess([image(40, 80)], asked)
    assert geometry == ((40, 80), (20, 40))
    assert batch.shape == (1, 24, 40, 3)


@pytest.mark.parametrize(
    ("rows", "seen"), [(200, 240), (240, 240), (300, 300), (512, 512), (1024, 512)]
)
def test_an_image_is_scaled_only_to_the_nearest_end_of_the_range(rows: int, seen: int) -> None:
    asked = InputConfig(min_height=240, max_height=512)
    _, geometry = preprocess([image(rows, 2 * rows)], asked)
    assert geometry == ((rows, 2 * rows), (seen, 2 * seen))
    # A side that is set is the last word; a magnification is not.
    assert preprocess([image(rows, 8)], dataclasses.replace(asked, height=40))[1].scaled[0] == 40
    _, geometry = preprocess([image(rows, 8)], dataclasses.replace(asked, scale=0.5))
    assert geometry.scaled[0] == min(max(rows // 2, 240), 512)


def test_labels_boxes_and_centers_come_back_at_camera_size() -> None:
    """Four times as high, twice as wide."""
    batch, geometry = preprocess([image(40, 80)], InputConfig(height=10, width=40))
    assert batch.shape == (1, 16, 40, 3)
    small = Instances.empty(10, 40)
    small.labels[2:4, 5:10] = 300
    found = dataclasses.replace(
        small,
        ids=np.array([300], np.uint16),
        boxes_xyxy=np.array([[5, 2, 10, 4]], np.float32),
        centers_xy=np.array([[7, 3]], np.float32),
        bandwidths=np.array([[2, 1]], np.float32),
    )
    large = restore(found, geometry)
    assert large.labels.shape == (40, 80) and large.labels.dtype == np.uint16
    assert (large.labels == 300).sum() == 8 * 10
    assert np.all(large.labels[8:16, 10:20] == 300)
    assert large.boxes_xyxy.tolist() == [[10, 8, 20, 16]]
    assert large.centers_xy.tolist() == [[14, 12]]
    assert large.bandwidths.tolist() == [[4, 4]]


def test_an_instance_that_no_pixel_of_the_camera_shows_is_left_out() -> None:
    _, geometry = preprocess([image(8, 16)], InputConfig(scale=2))
    large = Instances.empty(16, 32)
    large.labels[4:12, 8:20] = 1
    large.labels[:, 31] = 2  # half a pixel of the camera wide
    found = dataclasses.replace(
        large,
        ids=np.array([1, 2], np.uint16),
        class_ids=np.array([3, 4]),
        scores=np.array([0.9, 0.8], np.float32),
        boxes_xyxy=np.array([[8, 4, 20, 12], [31, 0, 32, 16]], np.float32),
        centers_xy=np.array([[14, 8], [31, 8]], np.float32),
        bandwidths=np.ones((2, 2), np.float32),
        embeddings=np.eye(2, dtype=np.float32),
    )
    small = restore(found, geometry)
    assert set(np.unique(small.labels)) == {0, 1}
    assert (small.ids.tolist(), small.class_ids.tolist()) == ([1], [3])
    assert small.boxes_xyxy.tolist() == [[4, 2, 10, 6]]
    assert small.embeddings is not None and small.embeddings.tolist() == [[1, 0]]


@pytest.mark.parametrize(
    "bad",
    [
        [np.zeros((8, 8), np.uint8)],
        [np.zeros((8, 8, 4), np.uint8)],
        [np.zeros((8, 8, 3), np.float32)],
        [np.zeros((0, 8, 3), np.uint8)],
        [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 16, 3), np.uint8)],
    ],
)
def test_what_is_no_image_is_refused(bad: list[np.ndarray]) -> None:
    with pytest.raises(ImageError, match="expected"):
        preprocess(bad, InputConfig())


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (InputConfig(max_pixels=799), "an image of 1 to 799 pixels, got 40 x 20"),
        (InputConfig(max_pixels=800, scale=2), "a scaled image of 1 to 800 pixels, got 80 x 40"),
        (InputConfig(max_pixels=800, height=40, width=40), "a scaled image .* got 40 x 40"),
    ],
)
def test_a_larger_image_than_configured_never_reaches_the_network(
    config: InputConfig, said: str
) -> None:
    with pytest.raises(ImageError, match=said):
        preprocess([image(20, 40)], config)
    preprocess([image(20, 40)], InputConfig(max_pixels=800))
