"""Draws results: the colours of ids, and instances over the camera image. Opens no window."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from instaseg_ros.frames import Frame, Instances
from instaseg_ros.visualization.names import legend_place, write_legend, write_names
from instaseg_ros.visualization.palette import by_label


def packed(colors: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """(65536,) uint32: colours (65536, 3) uint8 RGB by label value, as `paint` takes them."""
    return np.ascontiguousarray(np.insert(colors, 3, 255, axis=1)).view(np.uint32)[:, 0]


BAND_ROWS = 64  # drawn at a time: what lies between stays in the processor's cache
COLORS = by_label()  # (65536, 3) uint8 RGB by label value; background is black
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
    """(H, W, 3) uint8 RGB: the image with each instance tinted, outlined and named, and a legend
    of its classes.

    alpha: opacity of the tint in [0, 1]; outlines and names are always opaque. with_ids: add the id
    to the name, for objects that keep it from frame to frame. Where objects are crowded some have
    no name; the legend counts them. An only class stands in the legend alone.
    """
    picture = paint(frame.image, instances.labels, alpha)
    texts = []
    for class_id, label, score in zip(
        instances.class_ids, instances.ids, instances.scores, strict=True
    ):
        name = [class_names[class_id]] if len(class_names) > 1 else []
        texts.append(" ".join([*name, *([str(label)] if with_ids else []), f"{score:.2f}"]))
    longest = _legend(instances, class_names, np.zeros(len(instances), bool))
    place = legend_place(picture, longest)
    named = write_names(
        picture,
        instances.labels,
        instances.ids,
        instances.boxes_xyxy,
        texts,
        COLORS[instances.ids],
        [] if place is None else [place],
    )
    if place is not None:
        write_legend(picture, _legend(instances, class_names, named))
    return picture


def _legend(
    instances: Instances, class_names: Sequence[str], named: NDArray[np.bool_]
) -> list[str]:
    """A line for each class that is there."""
    lines = []
    for class_id in np.unique(instances.class_ids).tolist():
        own = instances.class_ids == class_id
        hidden = int((own & ~named).sum())
        rest = f" ({hidden} without name)" if hidden else ""
        lines.append(f"{own.sum()} {class_names[class_id]}{rest}")
    return lines


def paint(
    image: NDArray[np.uint8],
    labels: NDArray[np.uint16],
    alpha: float,
    palette: NDArray[np.uint32] | None = None,
) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB: the image with each label except 0 tinted and outlined in its colour.

    palette: `packed` colours by label value; None: those of `color`.
    """
    picture = image.copy()
    packed_colors = _PALETTE if palette is None else palette
    for top in range(0, len(labels), BAND_ROWS):
        rows = slice(top, top + BAND_ROWS)
        band = labels[rows]
        objects = (band > 0).view(np.uint8)
        if not objects.any():
            continue
        rgba = np.take(packed_colors, band).view(np.uint8).reshape(*band.shape, 4)
        colors = cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB)
        tinted = cv2.addWeighted(image[rows], 1 - alpha, colors, alpha, 0)
        cv2.copyTo(tinted, objects, picture[rows])
        above = min(top, 1)  # a row more on both sides, as outlines depend on neighbours
        edges = _inner_edges(labels[top - above : top + BAND_ROWS + 1])[above:][:BAND_ROWS]
        cv2.copyTo(colors, edges & objects, picture[rows])
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
