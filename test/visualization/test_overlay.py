"""Colours that last, and overlays that show the instances where they are."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
import written_recordings
from written_recordings import CLASS_NAMES, HEIGHT, WIDTH

from instaseg_ros.frames import Frame, Instances
from instaseg_ros.visualization import COLORS, color, contact_sheet, overlay, paint
from instaseg_ros.visualization.names import LEGEND, boxes_of

GREY = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)


def test_colors_stay():
    assert color(0) == (0, 0, 0)
    assert color(1) == tuple(COLORS[1]) == (180, 30, 75)
    assert color(65535) == tuple(COLORS[65535])


@pytest.mark.parametrize("height", [63, 64, 65, 130])  # of bands that are drawn at a time
def test_paint_tints_and_outlines_each_pixel(height):
    random = np.random.default_rng(height)
    labels = np.kron(random.integers(0, 4, (height, 5)), np.ones((1, 7))).astype(np.uint16)
    image = random.integers(0, 256, (*labels.shape, 3)).astype(np.uint8)
    padded = np.pad(labels, 1, mode="edge")
    around = padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]
    edge = np.any([labels != other for other in around], 0)[..., None]
    tinted = cv2.addWeighted(image, 0.5, COLORS[labels], 0.5, 0)
    expected = np.where(labels[..., None] == 0, image, np.where(edge, COLORS[labels], tinted))
    assert np.array_equal(paint(image, labels, 0.5), expected)


@pytest.mark.newest  # text is wider in earlier versions of OpenCV
def test_overlay_tints_outlines_and_leaves_the_rest():
    instances = written_recordings.two_instances(0)
    frame = Frame(GREY)
    picture = overlay(frame, instances, CLASS_NAMES, alpha=0.5)
    assert picture.dtype == np.uint8
    assert (frame.image == 90).all()  # untouched
    expected = np.rint((90 + np.array(color(7), float)) / 2)
    assert np.abs(picture[32, 37] - expected).max() <= 1  # inside
    assert tuple(picture[39, 37]) == color(7)  # the lower edge, opaque
    assert (picture[:8, 40:] == 90).all()  # far from both
    assert (picture[45:] == 90).all()


@pytest.mark.newest  # text is wider in earlier versions of OpenCV
def test_overlay_writes_names_above_boxes():
    with_names = overlay(Frame(GREY), written_recordings.two_instances(0), CLASS_NAMES, alpha=0.0)
    name_bar = with_names[26 - 5 : 25, 30:40].reshape(-1, 3)
    assert (name_bar == color(7)).all(1).any()


def test_overlay_writes_ids_when_asked():
    """The bars of the names are longer by them."""
    wide = np.full((HEIGHT, 2 * WIDTH, 3), 90, np.uint8)
    one = written_recordings.two_instances(0)
    labels = np.pad(one.labels, ((0, 0), (0, WIDTH)))
    pictures = [
        overlay(Frame(wide), dataclasses.replace(one, labels=labels), CLASS_NAMES, 0.0, with_ids)
        for with_ids in (False, True)
    ]
    lengths = [(picture != 90).any(2)[:25].any(0).nonzero()[0].max() for picture in pictures]
    assert lengths[1] > lengths[0] + 5


def test_overlay_without_objects_is_the_image():
    empty = Instances.empty(HEIGHT, WIDTH)
    assert np.array_equal(overlay(Frame(GREY), empty, CLASS_NAMES, 0.5), GREY)


def test_contact_sheet_is_in_reading_order():
    pictures = [np.full((4, 6, 3), value, np.uint8) for value in (10, 20, 30)]
    pictures.append(np.full((8, 12, 3), 40, np.uint8))  # scaled to the first one's size
    pictures.append(np.full((4, 6, 3), 50, np.uint8))
    sheet = contact_sheet(pictures, columns=2)
    assert sheet.shape == (12, 12, 3)
    assert sheet[1::4, 2::6, 0].tolist() == [[10, 20], [30, 40], [50, 0]]


def test_the_legend_counts_classes_and_crowds():
    """It is wider if an object has no name."""
    labels = np.zeros((400, 800), np.uint16)
    for k in range(150):
        y, x = 15 * (k // 30) + 150, 6 * (k % 30) + 300
        labels[y : y + 5, x : x + 5] = k + 1
    ids = np.arange(1, 151, dtype=np.uint16)
    many = Instances(
        labels=labels,
        ids=ids,
        class_ids=ids % 2,
        scores=np.full(150, 0.5, np.float32),
        boxes_xyxy=boxes_of(labels, ids),
        centers_xy=np.zeros((150, 2), np.float32),
        bandwidths=np.zeros((150, 2), np.float32),
    )
    frame = Frame(np.full((400, 800, 3), 90, np.uint8))
    few = many.rows(ids < 3)
    few = dataclasses.replace(few, labels=np.where(labels < 3, labels, 0).astype(np.uint16))
    widths = []
    for instances in (few, many):
        corner = overlay(frame, instances, CLASS_NAMES, 0.5)[360:, :290]
        widths.append((corner == LEGEND).all(2).any(0).sum())
    assert 20 < widths[0] < widths[1] - 30
