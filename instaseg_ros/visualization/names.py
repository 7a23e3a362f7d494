"""Writes names beside objects: where nothing is written yet and where they hide little."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

FONT = cv2.FONT_HERSHEY_SIMPLEX
PART_PX = 2048  # about so many pixels of a box are looked at to find an object's parts
MOST = 100  # names in a picture
FARTHEST = 8  # a name is at most so many of its heights away from its object
LEGEND_SHARE = 0.1  # of the picture, at most
LEGEND = (32, 34, 37)  # RGB, behind the legend

Rectangle = tuple[int, int, int, int]  # left, top, right, bottom; the last two exclusive


def write_names(
    picture: NDArray[np.uint8],
    labels: NDArray[np.uint16],
    ids: NDArray[np.uint16],
    boxes_xyxy: NDArray[np.float32],
    texts: Sequence[str],
    colors: NDArray[np.uint8],
    taken: Sequence[Rectangle] = (),
) -> NDArray[np.bool_]:
    """Write each object's text on a bar of its colour, beside its largest part, the largest objects
    first; a line leads from a bar that does not touch its object to it.

    picture: (H, W, 3) uint8 RGB, drawn on. labels: (H, W) uint16. ids: (N,) uint16, the objects;
    boxes_xyxy: (N, 4), texts, colors (N, 3) uint8 RGB: of them. taken: places where nothing is to
    be written.
    Returns (N,) bool: those that were written. Where there is no room, an object has no name, nor
    has one that is smaller than the MOST largest.
    """
    written = np.zeros(len(ids), bool)
    chosen = np.argsort(-(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(1), kind="stable")[:MOST]
    found = [largest_part(labels, int(ids[k]), boxes_xyxy[k]) for k in chosen]
    parts = np.array(found, int).reshape(-1, 4)
    bars = np.array([*taken], int).reshape(-1, 4)
    order = np.argsort(-(parts[:, 2:] - parts[:, :2]).prod(1), kind="stable")
    for n, k in zip(order.tolist(), chosen[order].tolist(), strict=True):
        size = _bar_size(picture, texts[k])
        others = np.arange(len(parts)) != n
        bar = _place(size, picture.shape[:2], parts[n], parts[others], bars)
        if bar is not None:
            bars = np.vstack([bars, bar])
            _write(picture, texts[k], bar, parts[n], tuple(colors[k].tolist()))
            written[k] = True
    return written


def write_legend(picture: NDArray[np.uint8], lines: Sequence[str]) -> None:
    """Write lines at `legend_place`, if there is one."""
    place = legend_place(picture, lines)
    if place is None:
        return
    left, top, right, bottom = place
    cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), LEGEND, -1)
    height = _bar_size(picture, lines[0])[1]
    for n, line in enumerate(lines):
        corner = left + height // 4, top + height // 4 + n * height
        _put(picture, line, corner, height, (255, 255, 255))


def legend_place(picture: NDArray[np.uint8], lines: Sequence[str]) -> Rectangle | None:
    """The lower left corner, as large as the lines; None if that hides too much of the picture."""
    if not lines:
        return None
    sizes = [_bar_size(picture, line) for line in lines]
    height = sizes[0][1] * len(lines) + sizes[0][1] // 2
    width = max(width for width, _ in sizes) + sizes[0][1] // 2
    rows, columns = picture.shape[:2]
    if width * height > LEGEND_SHARE * rows * columns or width > columns:
        return None
    return 0, rows - height, width, rows


def boxes_of(labels: NDArray[np.uint16], ids: NDArray[np.uint16]) -> NDArray[np.float32]:
    """(N, 4) float32: boxes around objects of a label image, right and lower edges exclusive."""
    found = [cv2.boundingRect((labels == label).view(np.uint8)) for label in ids]
    boxes = np.array(found, np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def largest_part(
    labels: NDArray[np.uint16], label: int, box_xyxy: NDArray[np.float32]
) -> Rectangle:
    """The box around the largest connected part of an object, to a few pixels if it is large.

    box_xyxy: (4,), around the object; returned if it shows no pixel of the object.
    """
    height, width = labels.shape
    left, top = (max(0, int(side)) for side in box_xyxy[:2])
    right, bottom = min(width, math.ceil(box_xyxy[2])), min(height, math.ceil(box_xyxy[3]))
    step = max(1, math.isqrt(max(0, right - left) * max(0, bottom - top) // PART_PX))
    mask = (labels[top:bottom:step, left:right:step] == label).view(np.uint8)
    if not mask.any():
        return left, top, max(right, left + 1), max(bottom, top + 1)
    _, _, statistics, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    x, y, wide, high = statistics[1 + statistics[1:, cv2.CC_STAT_AREA].argmax(), :4].tolist()
    left, top = left + x * step, top + y * step
    return left, top, min(left + wide * step, right), min(top + high * step, bottom)


def _place(
    size: tuple[int, int],
    picture: tuple[int, int],
    part: NDArray[np.int64],
    others: NDArray[np.int64],
    bars: NDArray[np.int64],
) -> NDArray[np.int64] | None:
    """The best free place (4,) for a bar of `size` (width, height) beside a part; None if none is.

    picture: (H, W). others: (M, 4), better not hidden. bars: (B, 4), not to be overlapped.
    """
    room = np.array([picture[1] - size[0], picture[0] - size[1]])
    if room.min() < 0:
        return None
    for candidates in (_touching, _away):
        table = np.array(candidates(*size, *part.tolist()))
        places = np.clip(table[:, :2].astype(int), 0, room)
        bounds = np.hstack([places, places + size])
        free = ~(_overlaps(bounds, bars) > 0).any(1)
        if free.any():
            bounds, costs = bounds[free], table[free, 2]
            hidden = _overlaps(bounds, others).sum(1) / (size[0] * size[1])
            return bounds[(costs + hidden).argmin()]
    return None


# Places of a bar: left, top, and how much worse it is than the first, as if so large a share of it
# hid other objects.
def _touching(
    width: int, height: int, left: int, top: int, right: int, bottom: int
) -> list[tuple[float, float, float]]:
    middle, last = (left + right - width) // 2, right - width
    return [
        (middle, top - height, 0.0),
        (left, top - height, 0.1),
        (last, top - height, 0.2),
        (left, top, 0.4),
        (right, top, 0.5),
        (left - width, top, 0.5),
        (left, bottom, 0.5),
        (middle, bottom, 0.6),
        (last, bottom, 0.7),
    ]


def _away(
    width: int, height: int, left: int, top: int, right: int, bottom: int
) -> list[tuple[float, float, float]]:
    columns = ((left + right - width) // 2, left, right - width, right)
    return [
        (x, y, cost)
        for away in range(1, FARTHEST + 1)
        for y, cost in (
            (top - (away + 1) * height, 0.1 * away),
            (bottom + away * height, 0.1 * away + 0.2),
        )
        for x in columns
    ]


def _overlaps(one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    """(K, M): pixels that rectangles (K, 4) share with others (M, 4)."""
    first = np.maximum(one[:, None, :2], other[None, :, :2])
    last = np.minimum(one[:, None, 2:], other[None, :, 2:])
    return np.maximum(last - first, 0).prod(2)


def _write(
    picture: NDArray[np.uint8],
    text: str,
    bar: NDArray[np.int64],
    part: NDArray[np.int64],
    background: tuple[int, int, int],
) -> None:
    left, top, right, bottom = bar.tolist()
    if (part[:2] > bar[2:]).any() or (bar[:2] > part[2:]).any():  # they do not touch
        there = (int(part[0] + part[2]) // 2, int(part[1] if bottom <= part[1] else part[3]))
        here = min(max(there[0], left), right - 1), bottom if bottom <= part[1] else top
        cv2.line(picture, here, there, background, 1, cv2.LINE_AA)
    cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), background, -1)
    _put(picture, text, (left, top), bottom - top, ink_on(background))


def ink_on(background: tuple[int, int, int]) -> tuple[int, int, int]:
    """RGB of text that can be read on a colour: black or white."""
    bright = np.dot(background, (0.299, 0.587, 0.114)) > 140
    return (0, 0, 0) if bright else (255, 255, 255)


def _put(
    picture: NDArray[np.uint8],
    text: str,
    corner: tuple[int, int],
    height: int,
    ink: tuple[int, int, int],
) -> None:
    scale = _scale(picture)
    below = cv2.getTextSize(text, FONT, scale, 1)[1]
    origin = corner[0] + 1, corner[1] + height - below + 1
    cv2.putText(picture, text, origin, FONT, scale, ink, 1, cv2.LINE_AA)


def _bar_size(picture: NDArray[np.uint8], text: str) -> tuple[int, int]:
    """(width, height) in pixels."""
    (width, height), below = cv2.getTextSize(text, FONT, _scale(picture), 1)
    return width + 2, height + below + 1


def _scale(picture: NDArray[np.uint8]) -> float:
    return max(0.35, picture.shape[0] / 2400)
