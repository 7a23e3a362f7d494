"""Draws results: the colours of ids, and instances over the camera image. Opens no window."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from instaseg_ros.frames import Frame, Instances


def _palette() -> NDArray[np.uint8]:
    """(65536, 3) uint8 RGB. Hues step by the golden ratio, so any run of ids is spread evenly over
    the circle; saturation and brightness step with other periods, so similar hues still differ.
    Start and steps were searched for the most distant colours (in CIELAB, the first 100 ids: 7 or
    more) that are not too dark for a street at night."""
    ids = np.arange(1 << 16)
    hsv = np.empty((1, len(ids), 3), np.float32)
    hsv[0, :, 0] = (0.65 + ids * 0.6180339887498949) % 1.0 * 360
    hsv[0, :, 1] = np.array([0.9, 0.6, 0.45])[ids % 3]
    hsv[0, :, 2] = np.array([0.85, 0.95, 0.75, 1.0])[ids % 4]
    rgb = np.rint(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0] * 255).astype(np.uint8)
    rgb[0] = 0
    return rgb


def packed(colors: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """(65536,) uint32: colours (65536, 3) uint8 RGB by label value, as `paint` takes them."""
    return np.ascontiguousarray(np.insert(colors, 3, 255, axis=1)).view(np.uint32)[:, 0]


COLORS = _palette()  # (65536, 3) uint8 RGB by label value; background is black
_PALETTE = packed(COLORS)


def color(label: int) -> tuple[int, int, int]:
    """RGB of a label value in [0, 65535]; always the same for the same value."""
    red, green, blue = COLORS[label].tolist()
    return red, green, blue


def overlay(
    frame: Frame,
    instances: Instances,
    class_names: Sequence[str],
    alpha: float,
    with_ids: bool = False,
) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB: the image with each instance tinted, outlined and named.

    alpha: opacity of the tint in [0, 1]; outlines and names are always opaque. with_ids: add the id
    to the name, for objects that keep it from frame to frame.
    """
    picture = paint(frame.image, instances.labels, alpha)
    for i in reversed(range(len(instances))):  # the most certain last, on top
        label = int(instances.ids[i])
        name = class_names[instances.class_ids[i]] + (f" {label}" if with_ids else "")
        text = f"{name} {instances.scores[i]:.2f}"
        left, top = (int(side) for side in instances.boxes_xyxy[i, :2])
        write_name(picture, text, (left, top), color(label))
    return picture


def paint(
    image: NDArray[np.uint8],
    labels: NDArray[np.uint16],
    alpha: float,
    palette: NDArray[np.uint32] | None = None,
) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB: the image with each label except 0 tinted and outlined in its colour.

    palette: `packed` colours by label value; None: those of `color`.
    """
    colored = (_PALETTE if palette is None else palette)[labels]
    rgba = colored.view(np.uint8).reshape(*labels.shape, 4)  # (H, W, 4)
    colors = cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB)
    tinted = cv2.addWeighted(image, 1 - alpha, colors, alpha, 0)
    objects = (labels > 0).view(np.uint8)
    picture = image.copy()
    cv2.copyTo(tinted, objects, picture)
    cv2.copyTo(colors, _inner_edges(labels) & objects, picture)
    return picture


def contact_sheet(images: Sequence[NDArray[np.uint8]], columns: int) -> NDArray[np.uint8]:
    """(rows * H, columns * W, 3) uint8: images in reading order, each scaled to fit the first one's
    size with its aspect ratio kept.

    images: at least one (H, W, 3) uint8; the space they leave free is black.
    """
    height, width = images[0].shape[:2]
    rows = -(-len(images) // columns)
    sheet = np.zeros((rows, height, columns, width, 3), np.uint8)
    for i, image in enumerate(images):
        scale = min(height / image.shape[0], width / image.shape[1])
        high, wide = (max(1, round(side * scale)) for side in image.shape[:2])
        scaled = cv2.resize(image, (wide, high), interpolation=cv2.INTER_AREA)
        sheet[i // columns, :high, i % columns, :wide] = scaled
    return sheet.reshape(rows * height, columns * width, 3)


def _inner_edges(labels: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """(H, W) uint8, 1 on each pixel with a 4-neighbour of another label value."""
    edges = np.zeros(labels.shape, np.uint8)
    across = (labels[:, 1:] != labels[:, :-1]).view(np.uint8)
    edges[:, 1:] |= across
    edges[:, :-1] |= across
    down = (labels[1:] != labels[:-1]).view(np.uint8)
    edges[1:] |= down
    edges[:-1] |= down
    return edges


def write_name(
    picture: NDArray[np.uint8],
    text: str,
    corner_xy: tuple[int, int],
    background: tuple[int, int, int],
) -> None:
    """Write `text` on a coloured bar above a box with this upper left corner (pixels), or inside
    the box at the image's upper edge."""
    scale = max(0.35, picture.shape[0] / 2400)
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    left, top = corner_xy
    left = max(0, min(left, picture.shape[1] - width))
    bottom = top if top >= height + below else top + height + below
    cv2.rectangle(picture, (left, bottom - height - below), (left + width, bottom), background, -1)
    bright = np.dot(background, (0.299, 0.587, 0.114)) > 140
    ink = (0, 0, 0) if bright else (255, 255, 255)
    origin = (left, bottom - below + 1)
    cv2.putText(picture, text, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, ink, 1, cv2.LINE_AA)
