"""Rasterises quads with a depth buffer: which triangle is visible where, and how far away it is.

In numba and not with a GL renderer: without a GPU those need system libraries (EGL or OSMesa with
llvmpipe) that PyPI does not provide, and this is fast enough on one core.
"""

from __future__ import annotations

import math

import numpy as np

from instaseg_ros.numba_cache import cached_njit

NEAR_M = 0.2


@cached_njit(fastmath=True, error_model="numpy")
def _clip_near(corners: np.ndarray, clipped: np.ndarray) -> int:
    """Clip against z = NEAR_M (Sutherland-Hodgman); rows (x, y, z, u, v); returns the number of
    remaining corners."""
    count = 0
    for k in range(4):
        n = (k + 1) % 4
        if corners[k, 2] >= NEAR_M:
            clipped[count] = corners[k]
            count += 1
        if (corners[k, 2] >= NEAR_M) != (corners[n, 2] >= NEAR_M):
            share = (NEAR_M - corners[k, 2]) / (corners[n, 2] - corners[k, 2])
            clipped[count] = corners[k] + share * (corners[n] - corners[k])
            count += 1
    return count


@cached_njit(fastmath=True, error_model="numpy")
def _fill(
    corners: np.ndarray,
    i: int,
    j: int,
    index: int,
    inverse_depth: np.ndarray,
    surface: np.ndarray,
    planes: np.ndarray,
) -> bool:
    """Draw the screen triangle of corners 0, i, j, rows (x_px, y_px, 1/z, u/z, v/z), and write
    planes[index].

    Spans are half-open, so that neighbours neither overlap nor leave a gap. Scalars only: array
    views are slow here.
    """
    ax, ay, bx, by = corners[0, 0], corners[0, 1], corners[i, 0], corners[i, 1]
    cx, cy = corners[j, 0], corners[j, 1]
    area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
    height, width = surface.shape
    first = int(math.ceil(max(min(ay, by, cy), 0.0)))
    last = int(math.ceil(min(max(ay, by, cy), float(height))))
    if abs(area) < 1e-6 or first >= last or max(ax, bx, cx) < 0.0 or min(ax, bx, cx) > width:
        return False
    for k in range(3):  # value = plane[k, 0] x + plane[k, 1] y + plane[k, 2]
        p, q = corners[i, 2 + k] - corners[0, 2 + k], corners[j, 2 + k] - corners[0, 2 + k]
        along_x = (p * (cy - ay) - q * (by - ay)) / area
        along_y = (q * (bx - ax) - p * (cx - ax)) / area
        planes[index, k, 0], planes[index, k, 1] = along_x, along_y
        planes[index, k, 2] = corners[0, 2 + k] - along_x * ax - along_y * ay
    slope_ab = (bx - ax) / (by - ay) if by != ay else 0.0
    slope_bc = (cx - bx) / (cy - by) if cy != by else 0.0
    slope_ca = (ax - cx) / (ay - cy) if ay != cy else 0.0
    along_x, along_y, offset = planes[index, 0, 0], planes[index, 0, 1], planes[index, 0, 2]
    for y in range(first, last):
        left, right = 1e30, -1e30
        if (ay <= y) != (by <= y):
            x = ax + (y - ay) * slope_ab
            left, right = min(left, x), max(right, x)
        if (by <= y) != (cy <= y):
            x = bx + (y - by) * slope_bc
            left, right = min(left, x), max(right, x)
        if (cy <= y) != (ay <= y):
            x = cx + (y - cy) * slope_ca
            left, right = min(left, x), max(right, x)
        start = along_y * y + offset
        for x_px in range(int(math.ceil(max(left, 0.0))), int(math.ceil(min(right, float(width))))):
            value = along_x * x_px + start
            if value > inverse_depth[y, x_px]:
                inverse_depth[y, x_px] = value
                surface[y, x_px] = index
    return True


@cached_njit(fastmath=True, error_model="numpy")
def _seen_from(
    vertices: np.ndarray,
    uv_scales: np.ndarray,
    q: int,
    rotation: np.ndarray,
    origin: np.ndarray,
    intrinsics: np.ndarray,
    shape: tuple[int, int],
    corners: np.ndarray,
) -> float:
    """Transform the corners of quad q to the camera, rows (x, y, z, u, v).

    Returns the least z, or a negative number below any z if no part is in view.
    """
    fx, fy, cx, cy = intrinsics
    nearest, farthest = 1e30, -1e30
    left, right, above, below = 0, 0, 0, 0  # corners beyond that side of the view
    for k in range(4):
        x = vertices[q, k, 0] - origin[0]
        y = vertices[q, k, 1] - origin[1]
        z = vertices[q, k, 2] - origin[2]
        for j in range(3):
            corners[k, j] = rotation[j, 0] * x + rotation[j, 1] * y + rotation[j, 2] * z
        corners[k, 3] = uv_scales[q, 0] if k == 1 or k == 2 else 0.0
        corners[k, 4] = uv_scales[q, 1] if k >= 2 else 0.0
        across, down, depth = fx * corners[k, 0], fy * corners[k, 1], corners[k, 2]
        nearest, farthest = min(nearest, depth), max(farthest, depth)
        left += across < -(cx + 1) * depth
        right += across > (shape[1] - cx) * depth
        above += down < -(cy + 1) * depth
        below += down > (shape[0] - cy) * depth
    return -1e30 if farthest <= NEAR_M or max(left, right, above, below) == 4 else nearest


@cached_njit(fastmath=True, error_model="numpy")
def rasterize(
    vertices: np.ndarray,
    uv_scales: np.ndarray,
    rotation: np.ndarray,
    origin: np.ndarray,
    intrinsics: np.ndarray,
    inverse_depth: np.ndarray,
    surface: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw quads into `inverse_depth` (H, W) float32 (0 = nothing) and `surface` (H, W) int32 (-1 =
    nothing).

    vertices (Q, 4, 3) world; rotation (3, 3) world to camera; origin (3,) camera centre; intrinsics
    (fx, fy, cx, cy). Returns planes (T, 3, 3), affine in pixels, of 1/z, u/z and v/z per triangle,
    and the quad (T,) of each triangle.
    """
    fx, fy, cx, cy = intrinsics
    planes = np.empty((3 * len(vertices), 3, 3))
    owners = np.empty(3 * len(vertices), np.int32)
    count = 0
    corners = np.empty((4, 5))
    clipped = np.empty((6, 5))
    for q in range(len(vertices)):
        nearest = _seen_from(
            vertices, uv_scales, q, rotation, origin, intrinsics, surface.shape, corners
        )
        if nearest == -1e30:
            continue
        n = 4
        if nearest < NEAR_M:
            n = _clip_near(corners, clipped)
        else:
            clipped[:4] = corners
        for k in range(n):
            inverse = 1.0 / clipped[k, 2]
            clipped[k, 0] = fx * clipped[k, 0] * inverse + cx
            clipped[k, 1] = fy * clipped[k, 1] * inverse + cy
            clipped[k, 2] = inverse
            clipped[k, 3] *= inverse
            clipped[k, 4] *= inverse
        for k in range(1, n - 1):
            if _fill(clipped, k, k + 1, count, inverse_depth, surface, planes):
                owners[count] = q
                count += 1
    return planes[:count], owners[:count]
