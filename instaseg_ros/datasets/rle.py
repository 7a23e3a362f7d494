"""Run-length coded masks as COCO defined them: runs of 0 and 1 in turn, down the columns.

Polygons become runs by pycocotools. Runs are decoded here: where they do not fill the image, as in
a file that was cut, pycocotools returns memory that nobody wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.errors import MissingExtraError


def decode_rle(counts: str | bytes | Sequence[int], height: int, width: int) -> NDArray[np.bool_]:
    """(H, W) bool mask of `counts`, the lengths of the runs or their string.

    Raises ValueError where they are no runs, or do not fill the image.
    """
    runs = _runs_of_string(counts) if isinstance(counts, (str, bytes)) else np.array(counts)
    if runs.ndim != 1 or runs.dtype.kind != "i" or (runs < 0).any():
        raise ValueError("expected lengths of runs, got others than whole numbers from 0")
    if runs.sum() != height * width:
        raise ValueError(
            f"expected runs that fill {height} x {width} pixels, got {runs.sum()} pixels"
        )
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def decode_polygons(polygons: Sequence[Any], height: int, width: int) -> NDArray[np.bool_]:
    """(H, W) bool mask of the inside of polygons [x, y, x, y, ...]; fewer than three points have
    none. Raises ValueError for other content, MissingExtraError without pycocotools."""
    try:
        from pycocotools import mask as mask_api
    except ModuleNotFoundError as error:
        raise MissingExtraError("pycocotools", "coco", "reading polygons") from error
    try:
        points = [np.asarray(polygon, np.float64) for polygon in polygons]
    except TypeError as error:
        raise ValueError(str(error)) from error
    if any(p.ndim != 1 or len(p) % 2 or not np.isfinite(p).all() for p in points):
        raise ValueError("expected polygons [x, y, x, y, ...] of finite numbers")
    points = [p.tolist() for p in points if len(p) >= 6]
    if not points:
        return np.zeros((height, width), bool)
    parts = mask_api.frPyObjects(points, height, width)
    return decode_rle(mask_api.merge(parts)["counts"], height, width)


def _runs_of_string(text: str | bytes) -> NDArray[np.int64]:
    """COCO's string: 5 bits of a number per character, lowest first; from the third number on, its
    difference from the one before the last."""
    data = text.encode() if isinstance(text, str) else text
    runs: list[int] = []
    number = shift = 0
    for byte in data:
        if not 0 <= (bits := byte - 48) < 64:
            raise ValueError(f"expected characters from '0' to 'o', got {chr(byte)!r}")
        number |= (bits & 31) << shift
        shift += 5
        if shift > 30:
            raise ValueError("expected runs of an image, got a number of more than 30 bits")
        if bits & 32:  # goes on in the next
            continue
        if bits & 16:  # negative
            number -= 1 << shift
        runs.append(number + (runs[-2] if len(runs) > 2 else 0))
        number = shift = 0
    if shift:
        raise ValueError("expected whole numbers, got a string that breaks off")
    return np.array(runs, np.int64)
