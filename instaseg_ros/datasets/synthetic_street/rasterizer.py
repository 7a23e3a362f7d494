"""Quads to pixels with a depth buffer: which triangle is seen where, and how far away it is.

Polygons with a depth buffer in numba, and not a GL renderer: on a machine without a GPU those need system libraries
(EGL or OSMesa with llvmpipe) that PyPI does not bring, and this is quick enough on one core.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

NEAR_M = 0.2


@njit(cache=True, fastmath=True)
def _clip_near(corners: np.ndarray, clipped: np.ndarray) -> int:
    """Sutherland-Hodgman against z = NEAR_M; rows (x, y, z, u, v); returns the number of corners left."""
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


@njit(cache=True, fastmath=True)
def _fill(a: np.ndarray, b: np.ndarray, c: np.ndarray, index: int, inverse_depth: np.ndarray,
          surface: np.ndarray, plane: np.ndarray) -> bool:
    """One screen triangle, rows (x_px, y_px, 1/z, u/z, v/z); half-open spans, so that neighbours do not overlap."""
    area = (b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1])
    if abs(area) < 1e-6:
        return False
    height, width = surface.shape
    y_low = min(a[1], b[1], c[1])
    y_high = max(a[1], b[1], c[1])
    first = max(0, int(math.ceil(max(y_low, 0.0))))
    last = min(height, int(math.ceil(min(y_high, float(height)))))
    if first >= last or max(a[0], b[0], c[0]) < 0.0 or min(a[0], b[0], c[0]) > width:
        return False
    for j in range(3):  # value = plane[j, 0] x + plane[j, 1] y + plane[j, 2]
        p, q = b[2 + j] - a[2 + j], c[2 + j] - a[2 + j]
        plane[j, 0] = (p * (c[1] - a[1]) - q * (b[1] - a[1])) / area
        plane[j, 1] = (q * (b[0] - a[0]) - p * (c[0] - a[0])) / area
        plane[j, 2] = a[2 + j] - plane[j, 0] * a[0] - plane[j, 1] * a[1]
    for y in range(first, last):
        left, right = 1e30, -1e30
        for edge in range(3):
            p, q = (a, b) if edge == 0 else ((b, c) if edge == 1 else (c, a))
            if (p[1] <= y) != (q[1] <= y):
                x = p[0] + (y - p[1]) / (q[1] - p[1]) * (q[0] - p[0])
                left, right = min(left, x), max(right, x)
        if right < left:
            continue
        x_first = int(math.ceil(max(left, 0.0)))
        x_last = int(math.ceil(min(right, float(width))))
        start = plane[0, 1] * y + plane[0, 2]
        for x in range(x_first, x_last):
            value = plane[0, 0] * x + start
            if value > inverse_depth[y, x]:
                inverse_depth[y, x] = value
                surface[y, x] = index
    return True


@njit(cache=True, fastmath=True)
def rasterize(vertices: np.ndarray, uv_scales: np.ndarray, rotation: np.ndarray, origin: np.ndarray,
              intrinsics: np.ndarray, inverse_depth: np.ndarray, surface: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draw quads into `inverse_depth` (H, W) float32 (0 = nothing) and `surface` (H, W) int32 (-1 = nothing).

    vertices (Q, 4, 3) world; rotation (3, 3) world to camera; origin (3,) camera centre; intrinsics (fx, fy, cx, cy).
    Returns planes (T, 3, 3), affine in pixels, of 1/z, u/z and v/z per triangle, and the quad (T,) of each triangle.
    """
    height, width = surface.shape
    fx, fy, cx, cy = intrinsics
    planes = np.empty((3 * len(vertices), 3, 3))
    owners = np.empty(3 * len(vertices), np.int32)
    count = 0
    corners = np.empty((4, 5))
    clipped = np.empty((6, 5))
    for q in range(len(vertices)):
        nearest, farthest = 1e30, -1e30
        for k in range(4):
            x = vertices[q, k, 0] - origin[0]
            y = vertices[q, k, 1] - origin[1]
            z = vertices[q, k, 2] - origin[2]
            for j in range(3):
                corners[k, j] = rotation[j, 0] * x + rotation[j, 1] * y + rotation[j, 2] * z
            corners[k, 3] = uv_scales[q, 0] if k == 1 or k == 2 else 0.0
            corners[k, 4] = uv_scales[q, 1] if k >= 2 else 0.0
            nearest, farthest = min(nearest, corners[k, 2]), max(farthest, corners[k, 2])
        if farthest <= NEAR_M:
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
            if _fill(clipped[0], clipped[k], clipped[k + 1], count, inverse_depth, surface, planes[count]):
                owners[count] = q
                count += 1
    return planes[:count], owners[:count]
