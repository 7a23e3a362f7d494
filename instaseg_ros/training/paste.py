"""Whole objects of other images, pasted into views (Ghiasi et al. 2021, "Simple Copy-Paste")."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from instaseg_ros.config import TrainConfig
from instaseg_ros.datasets import Dataset, Sample
from instaseg_ros.errors import ConfigError
from instaseg_ros.training.augment import shrunk
from instaseg_ros.training.objects import belong_together

Box = NDArray[np.float64]  # (4,) left, top, right, bottom; the last column and row exclusive

SIZES = 0.8, 1.25  # of a pasted object, times its own
LEAST_SEEN = 0.25  # share of its pixels that an object must keep to stay one
FEWEST = 100  # objects: a rarer class is pasted as seldom as one of so many, not the same all along
TRIES = 64  # objects that may be drawn until enough find a place in the view
PLACES = 16  # that are looked at for ground like its own
MARGIN = 4  # pixels of its image around a cutout
SOFT_PX = 0.7  # deviation of the smoothing of its edge


class Cutout(NamedTuple):
    """An object and those that come along, cut out of their image; places are pixels of this part.

    image: (h, w, 3) uint8. number: (h, w) uint8, 1..N the objects, 0 elsewhere. class_ids: (N,).
    semantic: (h, w) uint8 as of `Sample`, or None. middle, top: of the chosen object, the column of
    its middle and its first row.
    """

    image: NDArray[np.uint8]
    number: NDArray[np.uint8]
    class_ids: NDArray[np.int64]
    semantic: NDArray[np.uint8] | None
    middle: float
    top: int


class Place(NamedTuple):
    """Where the upper edge of an object comes to lie in an image: its middle, in pixels; and how
    much larger it is there than in its own, negative: mirrored."""

    x: float
    y: float
    scale: float


class Paste:
    """Puts objects of a dataset into views of it, `train.augment.paste` of them on average.

    - Every class is pasted as often, whatever its frequency, but for those of fewer than FEWEST
      objects. What its image does not show whole (`objects`) is not pasted.
    - Things lie on the same rows as in their own image, so that they keep a size that perspective
      allows; one that is drawn larger reaches further down, as what is nearer does. Of random
      columns the first is taken where its foot is on no object, and on what it stood on; where
      there is none, another object is drawn. With `augment.turn` there is no up and down, and it
      lies anywhere.
    - What touches the object and belongs together with it (`objects`) comes along: a bicycle with
      its rider.
    - It covers what is there: labels, groups, ignored ground, dense classes; but not what reaches
      further down, which is nearer (with `augment.turn` it lies above all). An object that keeps
      less than LEAST_SEEN of its pixels is ignored ground, or if it is new, left out.
    """

    def __init__(self, dataset: Dataset, objects: NDArray[np.void], config: TrainConfig) -> None:
        frequency = np.maximum(np.bincount(objects["class_id"]), FEWEST)
        self.dataset, self.augment = dataset, config.augment
        self.objects = objects[objects["whole"] & (objects["pixels"] >= config.min_object_px)]
        if not len(self.objects):
            raise ConfigError(
                f"train.augment.paste: {config.dataset} has no object of at least "
                f"{config.min_object_px} pixels (train.min_object_px) that its image shows whole; "
                "set it to 0"
            )
        weight = 1 / frequency[self.objects["class_id"]]
        self.cumulative = np.cumsum(weight / weight.sum())

    def __call__(
        self, view: Sample, source: Sample, matrix: NDArray[np.float64], rng: np.random.Generator
    ) -> Sample:
        """The view with objects in it. source: what it is a view of; matrix: (2, 3), from pixels of
        `source` to those of the view."""
        wanted = int(self.augment.paste + rng.random())
        window = _both(_whole(source.labels), _seen(view.labels.shape, _inverse(matrix)))
        seen = _seen(source.labels.shape, matrix)
        rows = np.searchsorted(self.cumulative, rng.random(TRIES if wanted else 0))
        for one in self.objects[np.minimum(rows, len(self.objects) - 1)]:
            place = self._place(one, source, window, rng)
            if place is None:
                continue
            cutout = cut_out(self.dataset[int(one["image"])], int(one["id"]))
            view = pasted(view, cutout, matrix @ _to_source(cutout, place), seen, self.augment.turn)
            wanted -= 1
            if not wanted:
                break
        return view

    def _place(
        self, one: np.void, source: Sample, window: Box, rng: np.random.Generator
    ) -> Place | None:
        """A place for an object in that part of `source`; None where there is none for it."""
        left, first, right, last = window
        height, width = source.labels.shape
        ratio = 1.0 if self.augment.turn else height / one["image_height"]
        scale = ratio * np.exp(rng.uniform(*np.log(SIZES)))
        tall = scale * (one["bottom"] - one["top"])
        mirrored = rng.random() < self.augment.flip
        x = rng.uniform(left, right, PLACES)
        if self.augment.turn:
            y = rng.uniform(first, last, PLACES) - tall / 2
        else:
            y = np.full(PLACES, ratio * one["top"])
        free = (first <= y + tall / 2) & (y + tall / 2 < last)
        foot = (y + tall + 1).astype(int).clip(0, height - 1), x.astype(int).clip(0, width - 1)
        free &= source.labels[foot] == 0
        if one["ground"] and source.semantic is not None and not self.augment.turn:
            free &= source.semantic[foot] == one["ground"]
        if not free.any():
            return None
        chosen = int(np.argmax(free))
        return Place(x[chosen], y[chosen], -scale if mirrored else scale)


def _to_source(cutout: Cutout, place: Place) -> NDArray[np.float64]:
    """(3, 3) matrix from pixels of a cutout to those of the image where it has that place."""
    across, down = place.scale, abs(place.scale)
    x, y = place.x - across * cutout.middle, place.y - down * cutout.top
    return np.array([[across, 0, x], [0, down, y], [0, 0, 1]])


def cut_out(sample: Sample, chosen: int) -> Cutout:
    """The object with the id `chosen`, and what comes along."""
    whole = _whole(sample.labels)
    box = _extent(sample.labels == chosen)
    group, around = [chosen], box
    for other in _touching(sample.labels, chosen, _both(whole, _wider(box, MARGIN))):
        extent = _extent(sample.labels == other)
        if _inside(extent, whole) and belong_together(box, extent):
            group.append(other)
            around = np.concatenate(
                [np.minimum(around[:2], extent[:2]), np.maximum(around[2:], extent[2:])]
            )
    around = _both(whole, _wider(around, MARGIN))
    part = _slices(around)
    group = sorted(group)[:255]
    numbers = np.zeros(1 << 16, np.uint8)
    numbers[group] = np.arange(1, len(group) + 1)
    left, top = int(around[0]), int(around[1])
    return Cutout(
        sample.frame.image[part],
        numbers[sample.labels[part]],
        sample.class_ids[np.searchsorted(sample.ids, group)],
        None if sample.semantic is None else sample.semantic[part],
        middle=(box[0] + box[2] - 1) / 2 - left,
        top=int(box[1]) - top,
    )


def pasted(
    view: Sample,
    cutout: Cutout,
    matrix: NDArray[np.float64],
    seen: Box,
    above_all: bool = False,
) -> Sample:
    """The view with a cutout in it. matrix: (2, 3), from pixels of the cutout to those of the view;
    seen: the part of the view that shows an image, beyond which nothing is pasted; above_all: it
    also covers what is nearer."""
    height, width = view.labels.shape
    number = cv2.warpAffine(cutout.number, matrix, (width, height), flags=cv2.INTER_NEAREST)
    inside = np.zeros(number.shape, bool)
    inside[_slices(_both(_whole(number), seen))] = True
    number *= inside
    full = np.bincount(number.ravel(), minlength=256)
    if not above_all:
        number[_lowest(view.labels)[view.labels] > number.any(1).nonzero()[0].max(initial=0)] = 0
    number[(np.bincount(number.ravel(), minlength=256) < LEAST_SEEN * full)[number]] = 0
    box = _extent(number > 0)
    if not _area(box):
        return view
    part = _slices(_both(_whole(number), _wider(box, MARGIN)))
    columns, rows = part[1].stop - part[1].start, part[0].stop - part[0].start
    moved = matrix - np.array([[0, 0, part[1].start], [0, 0, part[0].start]])

    def warp(values: NDArray[Any], how: int) -> NDArray[Any]:
        return cv2.warpAffine(values, moved, (columns, rows), flags=how)

    number = number[part]
    new = number > 0
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    image = warp(shrunk(cutout.image, scale), cv2.INTER_LINEAR).astype(np.float32)
    # Soft inwards alone: outwards there is a rim of the ground that the object comes from.
    share = cv2.GaussianBlur(new.astype(np.float32), (0, 0), SOFT_PX) * new
    below = view.frame.image[part]
    mixed = below + share[..., None] * (image - below)

    def with_part(plane: NDArray[Any], values: NDArray[Any] | int) -> NDArray[Any]:
        plane = plane.copy()
        plane[part] = np.where(new, values, plane[part])
        return plane

    before = np.bincount(view.labels.ravel(), minlength=1 << 16)
    free = np.setdiff1d(np.arange(1, len(view.ids) + 256), view.ids)
    ids = free[: len(cutout.class_ids)].astype(np.uint16)
    labels = with_part(view.labels, np.concatenate([[0], ids]).astype(np.uint16)[number])
    after = np.bincount(labels.ravel(), minlength=1 << 16)
    lost = (after > 0) & (after < LEAST_SEEN * before)
    lost[0] = False  # the ground is no object
    hidden = lost[labels]
    labels[hidden] = 0
    after[lost] = 0
    everything = np.concatenate([view.ids, ids])
    order = np.argsort(everything)
    order = order[after[everything[order]] > 0]
    image = view.frame.image.copy()
    image[part] = (mixed + 0.5).astype(np.uint8)
    ignore = hidden if view.ignore is None else hidden | with_part(view.ignore, 0)
    semantic = view.semantic
    if semantic is not None:
        known = cutout.semantic
        semantic = with_part(semantic, 0 if known is None else warp(known, cv2.INTER_NEAREST))
    return dataclasses.replace(
        view,
        frame=dataclasses.replace(view.frame, image=image),
        labels=labels,
        ids=everything[order],
        class_ids=np.concatenate([view.class_ids, cutout.class_ids])[order],
        ignore=ignore,
        crowd=None if view.crowd is None else with_part(view.crowd, 0),
        semantic=semantic,
    )


def _lowest(labels: NDArray[np.uint16]) -> NDArray[np.int64]:
    """(65536,) by label its last row; -1 of the ground."""
    lowest = np.full(1 << 16, -1)
    rows, columns = np.nonzero(labels)
    lowest[labels[rows, columns]] = rows  # the last one that is written stays
    return lowest


def _touching(labels: NDArray[np.uint16], chosen: int, near: Box) -> list[int]:
    """The other objects at most two pixels from the chosen one, all of which is well in `near`."""
    part = labels[_slices(near)]
    grown = cv2.dilate((part == chosen).astype(np.uint8), np.ones((5, 5), np.uint8))
    return sorted(set(part[grown > 0].tolist()) - {0, chosen})


def _seen(shape: tuple[int, ...], matrix: NDArray[np.float64]) -> Box:
    """What of another image an image (H, W) fills. matrix: (2, 3), from its pixels to those."""
    height, width = shape
    corners = np.array([[0, width, 0, width], [0, 0, height, height], [1] * 4])
    corners[:2] = corners[:2] - 0.5  # a pixel's number is its middle
    there = matrix @ corners + 0.5
    return np.concatenate([there.min(1), there.max(1)])


def _whole(image: NDArray[Any]) -> Box:
    height, width = image.shape
    return np.array([0, 0, width, height], np.float64)


def _inverse(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]


def _extent(mask: NDArray[np.bool_]) -> Box:
    """The box of a mask, of zeros if it is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return np.zeros(4)
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)


def _both(one: Box, other: Box) -> Box:
    """What two boxes share."""
    return np.concatenate([np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])])


def _wider(box: Box, margin: int) -> Box:
    return box + margin * np.array([-1, -1, 1, 1])


def _area(box: Box) -> float:
    return float(np.prod((box[2:] - box[:2]).clip(min=0)))


def _inside(box: Box, whole: Box) -> bool:
    """Whether a box does not reach the border of an image."""
    return bool((box[:2] > whole[:2]).all() and (box[2:] < whole[2:]).all())


def _slices(box: Box) -> tuple[slice, slice]:
    """Rows and columns."""
    left, top, right, bottom = np.rint(box).astype(int).tolist()
    return slice(top, bottom), slice(left, right)
