"""Says in which direction a camera's pixels look."""

from __future__ import annotations

import functools
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from instaseg_ros.frames import Distortion, Frame

Matrix = NDArray[np.float64]
FISHEYE = "equidistant"


def directions(
    pixels: NDArray[np.float64], intrinsics: Matrix, distortion: Distortion | None = None
) -> NDArray[np.float64]:
    """(N, 2) float64: x / z and y / z of what pixels (N, 2) see; the centre of the first one is
    (0, 0).

    intrinsics: (3, 3), in pixels of the same image.
    """
    if distortion is None or not len(pixels):
        rays = np.column_stack([pixels, np.ones(len(pixels))]) @ np.linalg.inv(intrinsics).T
        return np.asarray(rays[:, :2], np.float64)
    undistort: Any = (
        cv2.fisheye.undistortPoints if distortion.model == FISHEYE else cv2.undistortPoints
    )
    points = np.ascontiguousarray(pixels, np.float64).reshape(-1, 1, 2)
    found = undistort(points, intrinsics, np.array(distortion.coefficients))
    return np.asarray(found, np.float64).reshape(-1, 2)


def sight(frame: Frame) -> NDArray[np.float32]:
    """(H, W, 2) float32: x / z and y / z of what each pixel of the image sees; kept for the cameras
    of the last calls. The frame has intrinsics."""
    assert frame.intrinsics is not None
    return sight_rays(frame.intrinsics, frame.image.shape[:2], frame.distortion)


def sight_rays(
    intrinsics: Matrix, size: tuple[int, int], distortion: Distortion | None = None
) -> NDArray[np.float32]:
    """`sight` of an image of `size` (H, W)."""
    return _rays(np.ascontiguousarray(intrinsics, np.float64).tobytes(), size, distortion)


@functools.lru_cache(maxsize=8)
def _rays(
    intrinsics: bytes, size: tuple[int, int], distortion: Distortion | None
) -> NDArray[np.float32]:
    y, x = np.indices(size, float)
    pixels = np.column_stack([x.ravel(), y.ravel()])
    rays = directions(pixels, np.frombuffer(intrinsics).reshape(3, 3), distortion)
    return rays.astype(np.float32).reshape(*size, 2)
