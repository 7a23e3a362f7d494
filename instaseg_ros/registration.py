"""Brings a depth image to the pixels of a camera image."""

# mypy: allow-untyped-defs, allow-incomplete-defs
from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from instaseg_ros.errors import ImageError
from instaseg_ros.frames import Distortion
from instaseg_ros.numba_cache import compile_all, kernel

SAME_PX = 0.01  # of the image's width: intrinsics that differ less are of the same view
SAME_SHAPE = 0.02  # aspect ratios that differ less are equal: sizes are rounded
MOST_PX = 16  # half of the largest square: a point just before the camera must not take seconds


class View(NamedTuple):
    """What a camera sees. frame_id: its optical frame. size: (H, W) pixels. intrinsics: (3, 3)
    float64, pixels of that size; None when unknown. distortion: as in Frame."""

    frame_id: str
    size: tuple[int, int]
    intrinsics: NDArray[np.float64] | None = None
    distortion: Distortion | None = None


def registered(
    depth: NDArray[np.float32],
    source: View,
    target: View,
    pose: NDArray[np.float64] | None = None,
    why_no_pose: str = "",
) -> NDArray[np.float32]:
    """Depth (H, W) float32 metres of `source` as `target` sees it: (H, W) of its size, 0 where
    unknown.

    pose: (4, 4) float64, from the coordinates of the source's frame to those of the target's; not
    needed if both are in one frame. Between different views of known intrinsics each point is
    projected, and the nearest on a pixel stays. Depth in the target's own view is scaled to its
    size, each pixel taking the nearest value. Raises ImageError, with what is missing.
    """
    same_frame = source.frame_id in ("", target.frame_id)
    if same_frame and _is_same_view(source, target):
        return _scaled(depth, target.size)
    what = f"depth of {_said(source)} for an image of {_said(target)}"
    if same_frame and source.intrinsics is None:
        raise ImageError(
            f"{what}: expected the same aspect ratio; publish registered depth, or the depth's own "
            "camera_info"
        )
    for view, name in ((source, "depth's"), (target, "image's")):
        if view.intrinsics is None:
            raise ImageError(
                f"{what}: expected the {name} calibrated camera_info, to project one into the "
                "other; publish it, or registered depth in the image's frame"
            )
        if view.distortion is not None:
            raise ImageError(
                f"{what}: expected rectified images, to project one into the other, but the "
                f"{name} camera_info has distortion; rectify them (image_proc) and set "
                "input.rectified, or publish registered depth"
            )
    if not same_frame and pose is None:
        raise ImageError(
            f"{what}: the transform between these frames is missing"
            + (f" ({why_no_pose})" if why_no_pose else "")
            + "; publish it on /tf_static, or registered depth in the image's frame"
        )
    return reprojected(depth, source, target, np.eye(4) if same_frame or pose is None else pose)


def _is_same_view(source: View, target: View) -> bool:
    """Whether the pixels of one, scaled, are those of the other; judged by the aspect ratio if
    intrinsics are unknown."""
    (high, wide), (height, width) = source.size, target.size
    if abs(wide * height / (high * width) - 1) > SAME_SHAPE:
        return False
    if source.intrinsics is None or target.intrinsics is None:
        return True
    scale = np.array([[width / wide], [height / high], [1]])
    difference = np.abs(source.intrinsics * scale - target.intrinsics)
    return bool(difference.max() <= SAME_PX * width) and source.distortion == target.distortion


def _said(view: View) -> str:
    height, width = view.size
    return f"{width} x {height} in frame '{view.frame_id}'"


def _scaled(depth: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    if depth.shape == size:
        return depth
    scaled = cv2.resize(depth, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(scaled, np.float32)


def reprojected(
    depth: NDArray[np.float32], source: View, target: View, pose: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Project the pixels of `source` into `target`, each as a square as large as it appears there,
    so that a finer image has no holes; the nearest on a pixel stays."""
    assert source.intrinsics is not None and target.intrinsics is not None
    compile_all()
    # A pixel (u, v) of depth z is seen at turned (u, v, 1) z + shifted.
    turned = target.intrinsics @ pose[:3, :3] @ np.linalg.inv(source.intrinsics)
    shifted = target.intrinsics @ pose[:3, 3]
    sides = np.abs(np.diag(target.intrinsics)[:2] / np.diag(source.intrinsics)[:2])
    seen = np.full(target.size, np.inf, np.float32)
    flat = np.require(depth, np.float32, ["C", "W"])
    _project(flat, np.ascontiguousarray(turned), np.ascontiguousarray(shifted), sides, seen)
    seen[np.isinf(seen)] = 0
    return seen


@kernel("void(float32[:,::1], float64[:,::1], float64[::1], float64[::1], float32[:,::1])")
def _project(depth, turned, shifted, sides, seen):
    """Write the nearest depth that each pixel sees; sides: of a depth pixel in image pixels, where
    both are equally far."""
    height, width = seen.shape
    for v in range(depth.shape[0]):
        for u in range(depth.shape[1]):
            z = depth[v, u]
            if not z > 0:
                continue
            there = (turned[2, 0] * u + turned[2, 1] * v + turned[2, 2]) * z + shifted[2]
            if there <= 0:
                continue
            x = ((turned[0, 0] * u + turned[0, 1] * v + turned[0, 2]) * z + shifted[0]) / there
            y = ((turned[1, 0] * u + turned[1, 1] * v + turned[1, 2]) * z + shifted[1]) / there
            half_x = min(0.5 * sides[0] * z / there, MOST_PX)
            half_y = min(0.5 * sides[1] * z / there, MOST_PX)
            if not (-half_x - 1 < x < width + half_x and -half_y - 1 < y < height + half_y):
                continue
            left, right = int(np.ceil(x - half_x)), int(np.ceil(x + half_x))
            top, bottom = int(np.ceil(y - half_y)), int(np.ceil(y + half_y))
            if left == right:
                left, right = int(np.rint(x)), int(np.rint(x)) + 1
            if top == bottom:
                top, bottom = int(np.rint(y)), int(np.rint(y)) + 1
            for row in range(max(top, 0), min(bottom, height)):
                for column in range(max(left, 0), min(right, width)):
                    if there < seen[row, column]:
                        seen[row, column] = there
