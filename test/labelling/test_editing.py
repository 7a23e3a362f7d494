"""Edits of a frame: what they do, and that anything can be undone to the last byte."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instaseg_ros.labelling.editing import (
    BRUSH,
    CLICK,
    GIVEN,
    PROPOSAL,
    Drawing,
    EditError,
    Object,
)
from instaseg_ros.labelling.regions import Region, component_at, polygon, stroke

SIZE = 24, 32


def rectangle(top: int, left: int, bottom: int, right: int) -> Region:
    return Region(top, left, np.ones((bottom - top, right - left), bool))


def drawing() -> Drawing:
    """Two rectangles, 1 of class 0 and 4 of class 1, and a row that is ignored."""
    labels = np.zeros(SIZE, np.uint16)
    labels[2:10, 2:12], labels[2:10, 16:28] = 1, 4
    ignore = np.zeros(SIZE, bool)
    ignore[20] = True
    return Drawing(labels, {1: Object(0, PROPOSAL), 4: Object(1, GIVEN)}, ignore)


def assert_agrees(one: Drawing) -> None:
    """Label image and objects name the same instances, and no object is ignored."""
    assert set(np.unique(one.labels)) - {0} == set(one.objects)
    assert not (one.ignore & (one.labels > 0)).any()


def test_new_objects_take_free_pixels_and_unused_numbers() -> None:
    one = drawing()
    number = one.add(rectangle(0, 0, 20, 20), CLICK, class_id=1)
    assert number == 5 and one.objects[5] == Object(1, CLICK)
    assert np.count_nonzero(one.labels == 1) == 80  # of others nothing
    one.add(rectangle(0, 10, 24, 20), BRUSH, into=5, over=True)
    assert (one.labels[:, 10:20] == 5).all() and one.objects[5].made_by == BRUSH
    assert not one.ignore[20, 10:20].any() and one.ignore[20, 20:].all()
    assert_agrees(one)
    with pytest.raises(EditError, match="have an owner"):
        one.add(rectangle(2, 20, 4, 22), CLICK)
    assert Drawing(one.labels, one.objects, first_id=900).new_id() == 900


def test_an_object_without_pixels_is_gone() -> None:
    one = drawing()
    one.take(rectangle(0, 0, 24, 14), BRUSH, 1)
    assert set(one.objects) == {4}
    one.remove(4)
    assert not one.objects and not one.labels.any()
    one.undo()
    one.undo()
    assert one.objects == drawing().objects
    with pytest.raises(EditError, match="no object 3"):
        one.remove(3)


def test_a_stroke_cuts_what_it_crosses() -> None:
    one = drawing()
    kept, new = one.cut_or_join([(8.5, 0.5), (8.5, 12.5)])
    assert kept == 1 and one.objects[new] == Object(0, BRUSH)
    left, right = (one.labels[2:10] == i for i in (1, new))
    assert np.flatnonzero(left.any(0)).max() < np.flatnonzero(right.any(0)).min()
    assert np.count_nonzero(left) + np.count_nonzero(right) == 80
    assert_agrees(one)
    with pytest.raises(EditError, match="from edge to edge"):
        drawing().cut_or_join([(4.5, 4.5), (6.5, 4.5)])
    with pytest.raises(EditError, match="passes no object"):
        drawing().cut_or_join([(1.5, 15.5), (30.5, 15.5)])


def test_parts_that_were_apart_stay_one_object() -> None:
    labels = np.zeros(SIZE, np.uint16)
    labels[2:8, 2:20], labels[12:14, 2:4] = 7, 7
    one = Drawing(labels, {7: Object(0, GIVEN)})
    kept, new = one.cut(7, [(6.5, 0.5), (6.5, 9.5)])
    assert (one.labels[12:14, 2:4] == kept).all()  # far from the stroke: with the largest part
    assert len(one.objects) == 2 and (one.labels[2:8, 2:5] == new).all()


def test_a_stroke_from_one_object_into_another_joins() -> None:
    one = drawing()
    assert one.cut_or_join([(4.5, 5.5), (20.5, 5.5)]) == (1,)
    assert set(one.objects) == {1} and one.objects[1] == Object(0, BRUSH)
    assert np.count_nonzero(one.labels) == 80 + 96
    with pytest.raises(EditError, match="alone"):
        one.join(1)


def test_what_is_ignored_is_no_object() -> None:
    one = drawing()
    one.set_ignore(rectangle(0, 0, 24, 14))
    assert set(one.objects) == {4} and one.ignore[:, :14].all()
    one.take(rectangle(0, 0, 24, 14), BRUSH)
    assert not one.ignore[:, :14].any()
    assert_agrees(one)


def test_what_changes_nothing_is_no_step() -> None:
    one = drawing()
    one.take(rectangle(12, 0, 14, 14), BRUSH)
    one.set_class(1, 0)
    assert not one.can_undo
    with pytest.raises(EditError, match="nothing to undo"):
        one.undo()
    with pytest.raises(EditError, match="nothing to redo"):
        one.redo()
    one.set_class(1, 1)
    one.undo()
    assert one.objects[1] == Object(0, PROPOSAL) and one.can_redo
    one.set_class(4, 0)  # another future
    assert not one.can_redo


def test_regions_end_at_the_image() -> None:
    disc = stroke([(0.5, 0.5)], 3, SIZE)
    assert disc is not None and (disc.top, disc.left, disc.mask.shape) == (0, 0, (4, 4))
    assert stroke([(-90, 2), (-80, 2)], 3, SIZE) is None
    assert polygon([(500, 2), (600, 2), (500, 9)], SIZE) is None
    whole = polygon([(-9e5, -9e5), (9e5, -9e5), (9e5, 9e5), (-9e5, 9e5)], SIZE)
    assert whole is not None and whole.mask.shape == SIZE and whole.mask.all()
    mask = np.zeros(SIZE, bool)
    mask[2:4, 2:4] = mask[8, 8] = True
    part = component_at(mask, 3.7, 2.2)
    assert part is not None and part.mask.sum() == 4 and (part.top, part.left) == (2, 2)
    assert component_at(mask, 20, 20) is None and component_at(mask, -1, 99) is None


OPS = ("add", "over", "take", "all", "ignore", "stroke", "class", "remove", "undo", "redo")
points = st.lists(st.tuples(st.floats(-5, 40), st.floats(-5, 30)), min_size=1, max_size=4)
numbers = st.integers(0, 9)
edits = st.lists(
    st.tuples(
        st.sampled_from(OPS),
        points,
        numbers,
    ),
    max_size=12,
)


def apply(one: Drawing, op: str, path: list[tuple[float, float]], number: int) -> None:
    region = stroke(path, 2, one.size)
    match op:
        case "add":
            one.add(region, CLICK, 0, number)
        case "over":
            one.add(region, BRUSH, number, over=True)
        case "take":
            one.take(region, BRUSH, number)
        case "all":
            one.take(polygon(path, one.size), BRUSH)
        case "ignore":
            one.set_ignore(region)
        case "stroke":
            one.cut_or_join(path)
        case "class":
            one.set_class(number, 2)
        case "remove":
            one.remove(number)
        case "undo":
            one.undo()
        case "redo":
            one.redo()


def everything(one: Drawing) -> tuple[bytes, bytes, dict[int, Object]]:
    return one.labels.tobytes(), one.ignore.tobytes(), dict(one.objects)


@given(edits)
def test_anything_is_undone_and_redone_to_the_byte(given_edits: list) -> None:
    one = drawing()
    seen = [everything(one)]  # of each step that stands
    for op, path, number in given_edits:
        before, could = everything(one), (one.can_undo, one.can_redo)
        try:
            apply(one, op, path, number)
        except EditError:
            assert everything(one) == before and (one.can_undo, one.can_redo) == could
        assert_agrees(one)
        one.pack()
        one.unpack()
    last = everything(one)
    undone = 0
    while one.can_undo:
        one.undo()
        assert_agrees(one)
        undone += 1
    assert everything(one) == seen[0]
    for _ in range(undone):
        one.redo()
    assert everything(one) == last
