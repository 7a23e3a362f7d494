"""Regions of an image: a mask within its box, from masks, strokes and polygons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Path = Sequence[tuple[float, float]]  # x, y in pixels of the image, one after the other


class Region(NamedTuple):
    """Pixels of an image. top, left: of the box; mask: (h, w) bool within it."""

    top: int
    left: int
    mask: NDArray[np.bool_]

    @property
    def box(self) -> tuple[slice, slice]:
        """Rows and columns."""
        height, width = self.mask.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    @classmethod
    def of(cls, mask: NDArray[np.bool_]) -> Region | None:
        """The pixels of a mask (H, W); None without any."""
        left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
        if not width:
            return None
        return cls(top, left, mask[top : top + height, left : left + width])


def component_at(mask: NDArray[np.bool_], x: float, y: float) -> Region | None:
    """The connected part of a mask (H, W) that holds a place; None if it is outside the mask."""
    column, row = int(x), int(y)
    if not (0 <= row < mask.shape[0] and 0 <= column < mask.shape[1] and mask[row, column]):
        return None
    whole = Region.of(mask)
    assert whole is not None
    filled = whole.mask.astype(np.uint8)
    cv2.floodFill(filled, None, (column - whole.left, row - whole.top), 2)
    inner = Region.of(filled == 2)
    assert inner is not None
    return Region(whole.top + inner.top, whole.left + inner.left, inner.mask)


def stroke(path: Path, radius: float, size: tuple[int, int]) -> Region | None:
    """What a round brush covers along a path; None if that is outside the image.

    radius: pixels; below 1 the line has one pixel. size: (H, W).
    """
    points = np.rint(np.asarray(path, np.float64) - 0.5).astype(np.int32).reshape(-1, 2)
    return _drawn(points, round(radius), size, filled=False)


def polygon(path: Path, size: tuple[int, int]) -> Region | None:
    """The inside of a polygon; None if that is outside the image. size: (H, W)."""
    points = np.rint(np.asarray(path, np.float64) - 0.5).astype(np.int32).reshape(-1, 2)
    return _drawn(points, 0, size, filled=True)


def _drawn(
    points: NDArray[np.int32], radius: int, size: tuple[int, int], filled: bool
) -> Region | None:
    low = np.maximum(points.min(0) - radius, 0)
    high = np.minimum(points.max(0) + radius + 1, size[::-1])
    if (low >= high).any():
        return None
    width, height = (high - low).tolist()
    canvas = np.zeros((height, width), np.uint8)
    moved = (np.vstack([points, points[-1:]]) - low)[:, None].astype(np.int32)  # a point is a line
    if filled:
        cv2.fillPoly(canvas, [moved], 1)
    else:
        cv2.polylines(canvas, [moved], False, 1, 2 * radius + 1)
    found = Region.of(canvas.view(bool))
    left, top = low.tolist()
    return found and Region(top + found.top, left + found.left, found.mask)
