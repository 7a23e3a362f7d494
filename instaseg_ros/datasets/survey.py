"""Surveys a dataset: tries every file, counts objects, and draws a sheet of pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from instaseg_ros.datasets.border import named
from instaseg_ros.datasets.reading import read_any
from instaseg_ros.errors import InputError
from instaseg_ros.recordings.image_files import IMAGE_SUFFIXES
from instaseg_ros.samples import Dataset, Sample
from instaseg_ros.tables import text_table
from instaseg_ros.visualization import COLORS, contact_sheet, paint
from instaseg_ros.visualization.names import boxes_of, write_names

CELL_WIDTH_PX = 480
OPACITY = 0.5
GREY = 128


class Content(NamedTuple):
    """The content of one sample.

    size: (H, W); class_ids, object_px: (N,) int64, for its objects; ignored_px: ignored pixels;
    crowd_px: pixels of objects that are not told apart.
    """

    size: tuple[int, int]
    class_ids: NDArray[np.int64]
    object_px: NDArray[np.int64]
    ignored_px: int
    crowd_px: int


def content(sample: Sample) -> Content:
    """Count the content of one sample."""
    height, width = sample.labels.shape
    sizes = np.bincount(sample.labels.ravel(), minlength=1 << 16)
    ignored, crowd = (
        0 if marked is None else int(np.count_nonzero(marked))
        for marked in (sample.ignore, sample.crowd)
    )
    return Content((height, width), sample.class_ids, sizes[sample.ids], ignored, crowd)


def survey(dataset: Dataset, indices: Sequence[int]) -> tuple[list[Content], list[str]]:
    """The content of readable samples, and the fault of each file of the others."""

    def of(index: int) -> Content | list[str]:
        try:
            return content(dataset[index])
        except InputError as error:
            return [str(error), *_broken_images(dataset.files(index))]

    with ThreadPoolExecutor() as pool:
        read = pool.map(of, indices)
        everything = [*tqdm(read, "reading", len(indices), leave=False, unit="image", disable=None)]
    contents = [one for one in everything if isinstance(one, Content)]
    broken = [said for one in everything if not isinstance(one, Content) for said in one]
    return contents, list(dict.fromkeys(broken))  # each once


def _broken_images(files: Iterable[Path]) -> Iterable[str]:
    """Errors of all broken images, as reading a sample ends at its first broken file."""
    for file in files:
        if file.suffix.lower() in IMAGE_SUFFIXES:
            try:
                with named(str(file)):
                    read_any(file)
            except InputError as error:
                yield str(error)


def table(contents: Sequence[Content], class_names: Sequence[str], min_pixels: int) -> str:
    """A table of sizes, ignored pixels, and per class: objects, those of at least `min_pixels`,
    images that show one, and quantiles of the objects' pixels."""
    sizes, counts = np.unique([one.size for one in contents], axis=0, return_counts=True)
    named = [f"{h} x {w} ({n})" for (h, w), n in zip(sizes, counts, strict=True)]
    if len(named) > 4:
        low, high = sizes.min(0), sizes.max(0)
        named = [f"{low[0]} to {high[0]} x {low[1]} to {high[1]}, {len(sizes)} different"]
    pixels = sum(h * w for h, w in (one.size for one in contents))
    ignored = sum(one.ignored_px for one in contents) / pixels
    crowd = sum(one.crowd_px for one in contents) / pixels
    class_ids = np.concatenate([one.class_ids for one in contents])
    object_px = np.concatenate([one.object_px for one in contents])
    shown = np.concatenate([np.unique(one.class_ids) for one in contents])
    levels = (5, 25, 50, 75, 95)
    rows = []
    for class_id, name in enumerate(class_names):
        own = object_px[class_ids == class_id]
        large, images = (own >= min_pixels).sum(), (shown == class_id).sum()
        none = [None] * len(levels)
        quantiles = np.quantile(own, np.array(levels) / 100) if len(own) else none
        rows.append((name, len(own), large, images, *quantiles))
    first, *others = (f"{level} %" for level in levels)
    headings = ("class", "objects", f">= {min_pixels} px", "images", f"pixels: {first}", *others)
    classes = text_table(headings, rows, ("", "d", "d", "d", *(".0f" for _ in levels)))
    return (
        f"height x width {', '.join(named)}\n"
        f"ignored {ignored:.2%}, crowds {crowd:.2%} of all pixels\n{classes}"
    )


def sheet(dataset: Dataset, indices: Iterable[int], columns: int) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB contact sheet: the samples with each object tinted by its id and, if
    there is room, named by its class; ignored pixels greyish, crowds whitish."""
    pictures = [_picture(dataset[index], dataset.class_names) for index in indices]
    return contact_sheet(pictures, columns)


def _picture(sample: Sample, class_names: Sequence[str]) -> NDArray[np.uint8]:
    height, width = sample.labels.shape
    size = CELL_WIDTH_PX, max(1, round(height * CELL_WIDTH_PX / width))
    shrink = cv2.INTER_AREA if width > CELL_WIDTH_PX else cv2.INTER_NEAREST
    image = np.asarray(cv2.resize(sample.frame.image, size, interpolation=shrink), np.uint8)
    labels = np.asarray(cv2.resize(sample.labels, size, interpolation=cv2.INTER_NEAREST), np.uint16)
    for marked, grey in ((sample.ignore, GREY), (sample.crowd, 255)):
        if marked is not None:
            seen = cv2.resize((marked > 0).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
            where = seen > 0
            image[where] = image[where] // 2 + np.uint8(grey // 2)
    picture = paint(image, labels, OPACITY)
    if len(class_names) > 1:
        boxes = boxes_of(labels, sample.ids)
        names = [class_names[class_id] for class_id in sample.class_ids]
        room = boxes[:, 2] - boxes[:, 0] > 12 * np.array([len(name) for name in names])
        texts = [name for name, fits in zip(names, room, strict=True) if fits]
        ids = sample.ids[room]
        write_names(picture, labels, ids, boxes[room], texts, COLORS[ids])
    return picture
