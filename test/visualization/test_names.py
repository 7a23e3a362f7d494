"""Names stand beside the largest part of their object, and never on each other."""

from __future__ import annotations

import numpy as np
import pytest

from instaseg_ros.visualization.names import MOST, boxes_of, largest_part, write_legend, write_names

GREY = 90


def written(labels: np.ndarray, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The picture, and which objects were named; their colours are (0, 0, id)."""
    picture = np.full((*labels.shape, 3), GREY, np.uint8)
    ids = np.arange(1, len(texts) + 1, dtype=np.uint16)
    colors = np.zeros((len(ids), 3), np.uint8)
    colors[:, 2] = ids
    boxes = boxes_of(labels, ids)
    return picture, write_names(picture, labels, ids, boxes, texts, colors)


def bar(picture: np.ndarray, label: int) -> tuple[int, int, int, int]:
    """The box around the pixels of a bar's colour."""
    y, x = np.nonzero((picture == (0, 0, label)).all(2))
    return x.min(), y.min(), x.max() + 1, y.max() + 1


def test_a_stray_fragment_does_not_take_the_name() -> None:
    labels = np.zeros((200, 400), np.uint16)
    labels[100:160, 200:300] = 1
    labels[20:24, 10:14] = 1
    assert largest_part(labels, 1, boxes_of(labels, np.array([1], np.uint16))[0]) == pytest.approx(
        (200, 100, 300, 160), abs=4
    )
    picture, named = written(labels, ["car"])
    left, _, right, bottom = bar(picture, 1)
    assert named.all() and abs((left + right) // 2 - 250) <= 4 and abs(bottom - 100) <= 4


def test_a_box_without_the_object_is_the_part() -> None:
    box = np.array([3, 4, 9, 8], np.float32)
    assert largest_part(np.zeros((20, 20), np.uint16), 1, box) == (3, 4, 9, 8)


def test_names_of_a_row_do_not_overlap() -> None:
    labels = np.zeros((300, 400), np.uint16)
    for k in range(20):
        labels[150:160, 100 + 8 * k : 106 + 8 * k] = k + 1
    picture, named = written(labels, ["car 0.93"] * 20)
    assert named.sum() >= 15
    hidden = [np.zeros(labels.shape, bool) for _ in range(20)]
    for k in np.flatnonzero(named):
        left, top, right, bottom = _body(picture, k + 1)
        hidden[k][top:bottom, left:right] = True
    assert max(np.sum(hidden, 0).flat) == 1


def _body(picture: np.ndarray, label: int) -> tuple[int, int, int, int]:
    """The bar without the line that leads to it: the rows that are mostly of its colour."""
    own = (picture == (0, 0, label)).all(2)
    rows = np.flatnonzero(own.sum(1) > 15)
    x = np.flatnonzero(own[rows[0]])
    return x.min(), rows[0], x.max() + 1, rows[-1] + 1


@pytest.mark.newest  # text is wider in earlier versions of OpenCV
def test_where_there_is_no_room_an_object_has_no_name() -> None:
    labels = np.zeros((12, 60), np.uint16)
    labels[2:6, 2:20], labels[7:11, 2:20] = 1, 2
    _, named = written(labels, ["car 0.93"] * 2)
    assert named.sum() == 1
    assert not written(labels, ["a name that is wider than the picture"] * 2)[1].any()
    assert written(labels, [])[1].shape == (0,)


def test_only_the_largest_are_named() -> None:
    labels = np.zeros((600, 1200), np.uint16)
    for k in range(MOST + 20):
        y, x = 50 * (k // 12) + 30, 100 * (k % 12) + 10
        labels[y : y + 10, x : x + (10 if k < 20 else 15)] = k + 1
    named = written(labels, ["car"] * (MOST + 20))[1]
    assert named[20:].all() and not named[:20].any()


def test_names_avoid_what_is_taken() -> None:
    labels = np.zeros((100, 200), np.uint16)
    labels[60:90, 50:120] = 1
    picture = np.full((100, 200, 3), GREY, np.uint8)
    ids, colors = np.array([1], np.uint16), np.array([[0, 0, 1]], np.uint8)
    boxes = boxes_of(labels, ids)
    write_names(picture, labels, ids, boxes, ["car"], colors, [(0, 0, 200, 60)])
    assert bar(picture, 1)[1] >= 60


def test_a_legend_needs_room() -> None:
    small, large = np.full((20, 40, 3), GREY, np.uint8), np.full((300, 400, 3), GREY, np.uint8)
    write_legend(small, ["12 car"])
    write_legend(large, ["12 car", "3 person"])
    write_legend(large, [])
    assert (small == GREY).all()
    changed = (large != GREY).any(2)
    assert changed[-2:, :40].all() and not changed[:-60].any() and not changed[:, 120:].any()
