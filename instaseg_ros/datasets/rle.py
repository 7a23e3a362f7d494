"""Decodes COCO's run-length coded masks: alternating runs of 0 and 1, down the columns.

pycocotools turns polygons into runs; its C code trusts its input, so points are first clipped to
near the image. Runs are decoded here: if they do not fill the image, as in a truncated file,
pycocotools returns uninitialised memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.errors import MissingExtraError

Runs = NDArray[np.int64]  # (R,) lengths that fill an image
MOST = 1e100  # for a coordinate, so that products of two are finite
LONGEST_PX = 4_000_000  # of an object's outline; pycocotools takes 80 bytes for each


def runs_of_counts(counts: str | bytes | Sequence[float], height: int, width: int) -> Runs:
    """The runs from `counts`, a list of lengths or COCO's string.

    Raises ValueError if they are not runs, or do not fill the image.
    """
    pixels = height * width
    if isinstance(counts, (str, bytes)):
        runs = _runs_of_string(counts, pixels)
    else:
        runs = np.array(counts)
        if runs.dtype.kind == "f" and (runs == np.floor(runs)).all() and (abs(runs) < 2**53).all():
            runs = runs.astype(np.int64)  # as some tools write them
    if runs.ndim != 1 or runs.dtype.kind not in "iu" or (runs < 0).any():
        raise ValueError("expected lengths of runs, got values that are not whole numbers from 0")
    if (runs > pixels).any():  # their sum might not fit into 64 bits
        raise ValueError(
            f"expected runs that fill {height} x {width} pixels, got one of {runs.max()}"
        )
    runs = runs.astype(np.int64)
    if runs.sum() != pixels:
        raise ValueError(
            f"expected runs that fill {height} x {width} pixels, got {runs.sum()} pixels"
        )
    return runs


def runs_of_polygons(polygons: Sequence[Any], height: int, width: int) -> Runs:
    """The runs of the interior of polygons [x, y, x, y, ...]; fewer than three points have none.

    Raises ValueError for other content, MissingExtraError without pycocotools.
    """
    try:
        from pycocotools import mask as mask_api
    except ModuleNotFoundError as error:
        raise MissingExtraError("pycocotools", "coco", "reading polygons") from error
    try:
        points = [np.asarray(polygon, np.float64) for polygon in polygons]
    except (TypeError, OverflowError) as error:
        raise ValueError(str(error)) from error
    if any(p.ndim != 1 or len(p) % 2 or not (abs(p) < MOST).all() for p in points):
        raise ValueError("expected polygons [x, y, x, y, ...] of finite numbers")
    near = [_near(p.reshape(-1, 2), height, width) for p in points]
    near = [p for p in near if len(p) >= 3]
    if not near:
        return np.array([height * width])
    outline = sum(abs(np.diff(p, axis=0, append=p[:1])).max(1).sum() for p in near)
    if outline > LONGEST_PX:
        raise ValueError(f"expected polygons of at most {LONGEST_PX} pixels of outline")
    parts = mask_api.frPyObjects([p.ravel().tolist() for p in near], height, width)
    return runs_of_counts(mask_api.merge(parts)["counts"], height, width)


def area(runs: Runs) -> int:
    """The number of pixels in the mask."""
    return int(runs[1::2].sum())


def pixels_inside(runs: Runs) -> NDArray[np.int64]:
    """(area,) indices of the mask's pixels, ascending, counted down the columns."""
    starts, lengths = np.cumsum(runs)[:-1:2], runs[1::2]
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())


def decode_rle(counts: str | bytes | Sequence[float], height: int, width: int) -> NDArray[np.bool_]:
    """(H, W) bool mask from `runs_of_counts`."""
    return _mask(runs_of_counts(counts, height, width), height, width)


def decode_polygons(polygons: Sequence[Any], height: int, width: int) -> NDArray[np.bool_]:
    """(H, W) bool mask from `runs_of_polygons`."""
    return _mask(runs_of_polygons(polygons, height, width), height, width)


def _mask(runs: Runs, height: int, width: int) -> NDArray[np.bool_]:
    mask = np.zeros(height * width, bool)
    mask[pixels_inside(runs)] = True
    return mask.reshape(width, height).T


def _near(points: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """The polygon (N, 2) clipped to at most the image's own size around it (Sutherland and Hodgman
    1974); unchanged if it is inside."""
    margin = max(height, width)
    for axis, extent in ((0, width), (1, height)):
        points = _beyond(points, points[:, axis] + margin)
        points = _beyond(points, extent + margin - points[:, axis])
    return points


def _beyond(points: NDArray[np.float64], distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """The part of a polygon (N, 2) where `distance` (N,) from a line is at least 0."""
    if (distance >= 0).all():
        return points
    kept = []
    ends = np.roll(points, -1, 0), np.roll(distance, -1)
    for here, there, d, e in zip(points, ends[0], distance, ends[1], strict=True):
        if d >= 0:
            kept.append(here)
        if (d >= 0) != (
            e >= 0
        ):  # from the inner end: added to a distant one it would be rounded away
            crossing = here + d / (d - e) * (there - here)
            kept.append(crossing if d >= 0 else there + e / (e - d) * (here - there))
    return np.array(kept).reshape(-1, 2)


def _runs_of_string(text: str | bytes, pixels: int) -> Runs:
    """Parse COCO's string: 5 bits of a number per character, lowest first; from the third number
    on, its difference from the number two places before."""
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
        if bits & 32:  # continues in the next
            continue
        if bits & 16:  # negative
            number -= 1 << shift
        runs.append(number + (runs[-2] if len(runs) > 2 else 0))
        if not 0 <= runs[-1] <= pixels:
            raise ValueError(f"expected runs within {pixels} pixels, got one of {runs[-1]}")
        number = shift = 0
    if shift:
        raise ValueError("expected whole numbers, got a string that breaks off")
    return np.array(runs, np.int64)
