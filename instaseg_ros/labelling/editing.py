"""Edits the instances of one frame, with undo and redo without end."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from instaseg_ros.errors import InstasegError
from instaseg_ros.labelling.regions import Path, Region, stroke

MOST_ID = 65_535
PROPOSAL, CLICK, BRUSH, GIVEN = "proposal", "click", "brush", "given"  # who made a mask


class EditError(InstasegError):
    """An edit that cannot be made, in words for the person who asked for it."""


@dataclass(frozen=True, slots=True)
class Object:
    """An instance: its class, and who made its mask last. GIVEN: it was there before."""

    class_id: int
    made_by: str


Objects = Mapping[int, Object]  # by label value


@dataclass(frozen=True, slots=True)
class _Step:
    """One change: the bytes in its box before and after, packed, and all objects."""

    box: tuple[slice, slice]
    shape: tuple[int, int]
    pixels: tuple[bytes, bytes]
    objects: tuple[Objects, Objects]


class Drawing:
    """The instances of a frame while a person edits them.

    labels: (H, W) uint16, 0 background. ignore: (H, W) bool. objects: those that have pixels, by
    label value. Labels and ignored pixels exclude each other wherever an edit was made. first_id:
    new objects have at least this label value.
    Every edit is one step for `undo`; one that changes nothing is none.
    """

    def __init__(
        self,
        labels: NDArray[np.uint16],
        objects: Objects,
        ignore: NDArray[np.bool_] | None = None,
        first_id: int = 1,
    ) -> None:
        self.labels = labels
        self.ignore = np.zeros(labels.shape, bool) if ignore is None else ignore
        counts = np.bincount(labels.ravel())
        self._sizes = {int(i): int(counts[i]) for i in np.flatnonzero(counts) if i}
        self.objects: Objects = {i: one for i, one in objects.items() if i in self._sizes}
        self._first_id = first_id
        self._steps: list[_Step] = []
        self._done = 0  # steps that are not undone
        self._packed: tuple[tuple[int, int], bytes] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.labels.shape[0], self.labels.shape[1]

    @property
    def can_undo(self) -> bool:
        return self._done > 0

    @property
    def can_redo(self) -> bool:
        return self._done < len(self._steps)

    def new_id(self) -> int:
        """A label value that no object has. Raises EditError if all are used."""
        number = max([self._first_id - 1, *self.objects]) + 1
        if number <= MOST_ID:
            return number
        free = set(range(1, MOST_ID + 1)) - self.objects.keys()
        if not free:
            raise EditError(f"the frame has {MOST_ID} objects, and its label image holds no more")
        return min(free)

    def add(
        self,
        region: Region | None,
        made_by: str,
        into: int = 0,
        class_id: int = 0,
        over: bool = False,
    ) -> int:
        """Give pixels to the object `into`, or to a new one of a class, and return its label value.

        over: also pixels of other objects.
        """
        if into:
            self._known(into)
        if region is None:
            raise EditError("there is nothing to add here")
        number = into or self.new_id()
        here = self.labels[region.box]
        gained = region.mask & (here != number if over else here == 0)
        if not gained.any():
            raise EditError("all of these pixels have an owner already")
        made = Object(self.objects[into].class_id if into else class_id, made_by)
        self._change(region.box, self._painted(gained, number), {number: made})
        return number

    def take(self, region: Region | None, made_by: str, number: int = 0) -> None:
        """Take pixels from an object, or from every object and from what is ignored."""
        if number:
            self._known(number)
        if region is None:
            raise EditError("there is nothing to take away here")
        here = self.labels[region.box]
        lost = region.mask & (here == number if number else here > 0)
        changed = {
            int(i): replace(self.objects[int(i)], made_by=made_by)
            for i in np.unique(here[lost])
            if int(i) in self.objects
        }

        def erase(labels: NDArray[np.uint16], ignore: NDArray[np.bool_]) -> None:
            labels[lost] = 0
            if not number:
                ignore[region.mask] = False

        self._change(region.box, erase, changed)

    def set_ignore(self, region: Region | None) -> None:
        """Ignore pixels; they belong to no object then."""
        if region is None:
            raise EditError("there is nothing to ignore here")

        def mark(labels: NDArray[np.uint16], ignore: NDArray[np.bool_]) -> None:
            labels[region.mask] = 0
            ignore[region.mask] = True

        self._change(region.box, mark, {})

    def cut_or_join(self, path: Path) -> tuple[int, ...]:
        """A stroke from one object into another joins all that it passes; any other cuts the
        object that it passes most in two. Returns the objects that are left of them."""
        line = stroke(path, 0, self.size)
        if line is None:
            raise EditError("the stroke is outside the image")
        height, width = self.size
        ends = [
            int(self.labels[int(y), int(x)]) if 0 <= y < height and 0 <= x < width else 0
            for x, y in (path[0], path[-1])
        ]
        passed = self.labels[line.box][line.mask]
        ids, counts = np.unique(passed[passed > 0], return_counts=True)
        if not len(ids):
            raise EditError("the stroke passes no object")
        if all(ends) and ends[0] != ends[1]:
            return (self.join(ends[0], *(int(i) for i in ids)),)
        return self.cut(int(ids[counts.argmax()]), path)

    def join(self, number: int, *others: int) -> int:
        """Give the pixels of other objects to one, which keeps its class."""
        own = self._known(number)
        rest = [other for other in others if other != number]
        for other in rest:
            self._known(other)
        if not rest:
            raise EditError("one object alone cannot be joined")

        def paint(labels: NDArray[np.uint16], _: NDArray[np.bool_]) -> None:
            labels[np.isin(labels, rest)] = number

        box = self._box_of(np.isin(self.labels, rest))
        self._change(box, paint, {number: replace(own, made_by=BRUSH)})
        return number

    def cut(self, number: int, path: Path) -> tuple[int, ...]:
        """Cut an object in two or more along a stroke; the largest part keeps its label value.

        Parts that were apart before, and that the stroke does not separate, stay with that one.
        """
        own = self._known(number)
        mask = self.labels == number
        whole = Region.of(mask)
        line = stroke(path, 1, self.size)  # three pixels wide: no part passes diagonally
        assert whole is not None
        knife = np.zeros(self.size, bool)
        if line is not None:
            knife[line.box] = line.mask
        inside, knife = whole.mask.astype(np.uint8), knife[whole.box]
        before = cv2.connectedComponents(inside, connectivity=4)[1]
        rest = inside * ~knife
        count, parts = cv2.connectedComponents(rest, connectivity=4)
        sizes = np.bincount(parts.ravel(), minlength=count)[1:]
        came_from = [int(before[parts == part][0]) for part in range(1, count)]
        pieces = [p for p in range(1, count) if came_from.count(came_from[p - 1]) > 1]
        if len(pieces) < 2:
            raise EditError("the stroke cuts no object in two: draw it from edge to edge")
        # Pixels under the knife go to the nearest part.
        _, nearest = cv2.distanceTransformWithLabels(
            (rest == 0).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
        )
        part_of = np.zeros(nearest.max() + 1, np.int32)
        part_of[nearest[rest > 0]] = parts[rest > 0]
        owner = part_of[nearest]
        largest = max(pieces, key=lambda part: sizes[part - 1])
        new = {}
        free = self.new_id()
        numbers = np.full(count, number, np.uint16)
        for part in pieces:
            if part != largest:
                while free in self.objects or free in new:
                    free += 1
                if free > MOST_ID:
                    raise EditError(f"a label image holds no more than {MOST_ID} objects")
                numbers[part] = free
                new[free] = replace(own, made_by=BRUSH)

        def paint(labels: NDArray[np.uint16], _: NDArray[np.bool_]) -> None:
            labels[whole.mask] = numbers[owner[whole.mask]]

        self._change(whole.box, paint, {number: replace(own, made_by=BRUSH), **new})
        return (number, *new)

    def remove(self, number: int) -> None:
        """Remove an object."""
        self._known(number)
        self.take(Region.of(self.labels == number), BRUSH, number)

    def set_class(self, number: int, class_id: int) -> None:
        """Give an object another class; its mask stays whose it was."""
        made = replace(self._known(number), class_id=class_id)
        self._change((slice(0, 0), slice(0, 0)), lambda *_: None, {number: made})

    def replace(self, labels: NDArray[np.uint16], objects: Objects) -> None:
        """Put other instances in the place of all."""

        def paint(own: NDArray[np.uint16], ignore: NDArray[np.bool_]) -> None:
            own[...] = labels
            ignore[labels > 0] = False

        self._change((slice(0, self.size[0]), slice(0, self.size[1])), paint, objects)

    def pack(self) -> None:
        """Take little memory until `unpack`, before which nothing else may be called."""
        if not self._packed:
            self._packed = self.size, _packed(self.labels, self.ignore)
            self.labels, self.ignore = np.zeros((0, 0), np.uint16), np.zeros((0, 0), bool)

    def unpack(self) -> None:
        """Be as before `pack`."""
        if self._packed:
            size, pixels = self._packed
            labels, ignore = _unpacked(pixels, size)
            self.labels, self.ignore, self._packed = labels.copy(), ignore.copy(), None

    def copy(self) -> Drawing:
        """The same instances, without the steps that led to them."""
        if self._packed:
            size, pixels = self._packed
            labels, ignore = _unpacked(pixels, size)
        else:
            labels, ignore = self.labels, self.ignore
        return Drawing(labels.copy(), self.objects, ignore.copy())

    def packed_copy(self) -> Drawing:
        """A copy that takes little memory."""
        copied = self.copy()
        copied.pack()
        return copied

    def undo(self) -> tuple[slice, slice]:
        """Take the last step back, and return its box. Raises EditError without one."""
        if not self.can_undo:
            raise EditError("nothing to undo")
        self._done -= 1
        return self._restore(self._steps[self._done], 0)

    def redo(self) -> tuple[slice, slice]:
        """Do the last step that was undone again, and return its box."""
        if not self.can_redo:
            raise EditError("nothing to redo")
        self._done += 1
        return self._restore(self._steps[self._done - 1], 1)

    def last_box(self) -> tuple[slice, slice]:
        """Where the last step was made."""
        return self._steps[self._done - 1].box if self._done else (slice(0, 0), slice(0, 0))

    def _known(self, number: int) -> Object:
        if number not in self.objects:
            raise EditError(f"there is no object {number}")
        return self.objects[number]

    def _painted(
        self, gained: NDArray[np.bool_], number: int
    ) -> Callable[[NDArray[np.uint16], NDArray[np.bool_]], None]:
        def paint(labels: NDArray[np.uint16], ignore: NDArray[np.bool_]) -> None:
            labels[gained] = number
            ignore[gained] = False

        return paint

    def _box_of(self, mask: NDArray[np.bool_]) -> tuple[slice, slice]:
        region = Region.of(mask)
        assert region is not None
        return region.box

    def _change(
        self,
        box: tuple[slice, slice],
        paint: Callable[[NDArray[np.uint16], NDArray[np.bool_]], None],
        changed: Objects,
    ) -> None:
        """Apply `paint` to the pixels in a box, as a step; objects left without pixels go."""
        labels, ignore = self.labels[box], self.ignore[box]
        before, was = labels.copy(), ignore.copy()
        objects = self.objects
        paint(labels, ignore)
        self._count(before, labels)
        after = {i: one for i, one in {**objects, **changed}.items() if i in self._sizes}
        same = np.array_equal(before, labels) and np.array_equal(was, ignore)
        if same and after == objects:
            return
        if same:  # a class alone, or who made it
            box = slice(0, 0), slice(0, 0)
            labels, ignore = labels[:0, :0], ignore[:0, :0]
            before, was = labels, ignore
        self.objects = after
        pixels = _packed(before, was), _packed(labels, ignore)
        shape = labels.shape[0], labels.shape[1]
        self._steps[self._done :] = [_Step(box, shape, pixels, (objects, after))]
        self._done += 1

    def _restore(self, step: _Step, side: int) -> tuple[slice, slice]:
        labels, ignore = _unpacked(step.pixels[side], step.shape)
        self._count(self.labels[step.box], labels)
        self.labels[step.box], self.ignore[step.box] = labels, ignore
        self.objects = step.objects[side]
        return step.box

    def _count(self, before: NDArray[np.uint16], after: NDArray[np.uint16]) -> None:
        """Keep the number of pixels of each object."""
        lost, won = (np.bincount(part.ravel(), minlength=1) for part in (before, after))
        for number in (set(np.flatnonzero(lost)) | set(np.flatnonzero(won))) - {0}:
            i = int(number)
            size = self._sizes.get(i, 0)
            size += (int(won[i]) if i < len(won) else 0) - (int(lost[i]) if i < len(lost) else 0)
            if size:
                self._sizes[i] = size
            else:
                self._sizes.pop(i, None)


def _packed(labels: NDArray[np.uint16], ignore: NDArray[np.bool_]) -> bytes:
    return zlib.compress(labels.tobytes() + ignore.tobytes(), 1)


def _unpacked(
    pixels: bytes, shape: tuple[int, int]
) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    both, count = zlib.decompress(pixels), shape[0] * shape[1]
    labels = np.frombuffer(both, np.uint16, count).reshape(shape)
    return labels, np.frombuffer(both, bool, count, 2 * count).reshape(shape)
