"""Directions of pixels, against OpenCV's projection of known points."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from instaseg_ros.frames import Distortion, Frame
from instaseg_ros.rays import directions, sight, sight_rays

SIZE = (120, 160)
K = np.array([[200.0, 0, 79.5], [0, 190, 59.5], [0, 0, 1]])
LENSES = {
    "plumb_bob": Distortion("plumb_bob", (-0.25, 0.06, 0.001, -0.002, 0.01)),
    "rational_polynomial": Distortion(
        "rational_polynomial", (0.2, -0.1, 0.001, 0.0, 0.02, 0.3, -0.05, 0.01)
    ),
    "equidistant": Distortion("equidistant", (-0.02, 0.004, -0.001, 0.0002)),
}


def points() -> np.ndarray:
    """(N, 3) at several depths, in the view of the camera."""
    rng = np.random.default_rng(0)
    slopes = rng.uniform((-0.38, -0.3), (0.38, 0.3), (200, 2))
    z = rng.uniform(1, 30, 200)
    return np.column_stack([slopes * z[:, None], z])


def test_without_distortion():
    skewed = K + np.array([[0, 3.0, 0], [0, 0, 0], [0, 0, 0]])
    seen = points() @ skewed.T
    found = directions(seen[:, :2] / seen[:, 2:], skewed)
    np.testing.assert_allclose(found, points()[:, :2] / points()[:, 2:], atol=1e-12)


@pytest.mark.parametrize("model", LENSES)
def test_distortion_is_undone(model):
    lens = LENSES[model]
    project = cv2.fisheye.projectPoints if model == "equidistant" else cv2.projectPoints
    coefficients = np.array(lens.coefficients)
    if model == "equidistant":
        pixels, _ = project(points()[:, None], np.zeros(3), np.zeros(3), K, coefficients)
    else:
        pixels, _ = project(points(), np.zeros(3), np.zeros(3), K, coefficients)
    found = directions(pixels.reshape(-1, 2), K, lens)
    true = points()[:, :2] / points()[:, 2:]
    np.testing.assert_allclose(found, true, atol=1e-3)
    plain = directions(pixels.reshape(-1, 2), K)
    assert np.abs(plain - true).max() > 5e-3  # what it would be without


@pytest.mark.parametrize("lens", [None, *LENSES.values()])
def test_sight_of_every_pixel(lens):
    frame = Frame(np.zeros((*SIZE, 3), np.uint8), intrinsics=K, distortion=lens)
    rays = sight(frame)
    assert rays.shape == (*SIZE, 2) and rays.dtype == np.float32
    pixels = np.array([[0, 0], [79, 60], [159, 119], [3, 100]], float)
    for (x, y), ray in zip(pixels.astype(int), directions(pixels, K, lens), strict=True):
        np.testing.assert_allclose(rays[y, x], ray, atol=1e-6)
    assert sight_rays(K, SIZE, lens) is rays  # kept


def test_no_pixels():
    for lens in (None, *LENSES.values()):
        assert directions(np.zeros((0, 2)), K, lens).shape == (0, 2)
