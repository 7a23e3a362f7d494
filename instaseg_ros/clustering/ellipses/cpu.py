"""Clusters on a CPU, compiled and in parallel, without visiting all pixels for each instance.

Foreground pixels are collected class by class and sorted by the grid cell of their embedding; seeds
are taken best first, and each examines only the cells that its ellipse touches. The result equals
that of `reference`, label for label.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray
from torch import Tensor

from instaseg_ros.clustering import MAX_INSTANCES, raster
from instaseg_ros.clustering.ellipses import MEMBERSHIP, Groups, cpu_kernels, foreground
from instaseg_ros.clustering.ellipses.cpu_kernels import CHUNK
from instaseg_ros.numba_cache import compile_all
from instaseg_ros.threads import buffer, each, shares

if TYPE_CHECKING:
    from instaseg_ros.config.options.spatial_embedding import DecodeConfig

CELL_PX = 8  # side of a grid cell, if embeddings are as dense as pixels
BLOCK_ROWS = 64  # image rows that one thread searches at a time, at most
PART_POINTS = 65536  # points that one thread evaluates at a time, at most

Float = NDArray[np.float32]
Formula = Callable[[Tensor, Tensor, Tensor, Tensor], None]


class Outputs(NamedTuple):
    """Raw network outputs of one image, and the positions of its pixels in embedding units."""

    offset: Float  # (2, H, W)
    bandwidth: Float  # (n_sigma, H, W)
    seed: Float  # (C, H, W)
    lattice_x: Float  # (W,) ascending from 0
    lattice_y: Float  # (H,) ascending from 0


class Map(NamedTuple):
    """The memory layout of a (C, H, W) array."""

    values: Float  # (n,)
    strides: tuple[int, ...]  # (3,) in values, along C, H, W


class Cells(NamedTuple):
    """The grid over the embedding space."""

    columns: int
    rows: int
    columns_per_unit: np.float32
    rows_per_unit: np.float32


class Points(NamedTuple):
    """The N foreground pixels of all classes: class by class, each in image order.

    Valid until this thread groups the next image, which reuses the memory.
    """

    row_starts: NDArray[np.int64]  # (C * H + 1,) row y of class c begins at [c * H + y]
    pixels: NDArray[np.int32]  # (N,) row-major index
    embedding: Float  # (2, N)
    scale: Float  # (n_sigma, N)
    score: Float  # (N,)
    places: NDArray[np.int32]  # (N,) cell of the embedding, then place in its class's cell order


class Claims(NamedTuple):
    """The K instances of all classes, class by class, best seed first."""

    counts: list[int]  # (C,) instances per class
    owner: NDArray[np.int32]  # (N,) in cell order: 1 + index in the class; 0: none
    seeds: NDArray[np.int32]  # (K,) indices of points
    scores: Float  # (K,) see `Groups`


def warm_up() -> None:
    """Compile the kernels, or load them from the cache, before the first image needs them."""
    compile_all()
    largest_distance()


def group(outputs: Outputs, least_logit: float, formula: Formula, config: DecodeConfig) -> Groups:
    """`reference.group` for the pixels whose raw seed output is at least `least_logit`.

    formula: the method's; turns raw offset (2, n), lattice position (2, n), raw bandwidth
    (n_sigma, n) and raw seed (n,) into embedding, scale and score, in place.
    """
    warm_up()
    row_starts, pixels = _find(outputs.seed, np.float32(least_logit), config.min_pixels)
    cells = _cells(outputs)
    points = _evaluate(outputs, row_starts, pixels, cells, formula)
    claims = _cluster(points, len(outputs.seed), cells, config)
    return _merge(points, claims, outputs.seed.shape[1:], config.min_new_fraction)


def _find(
    seed: Float, least_logit: np.float32, min_pixels: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The `row_starts` and `pixels` of the points; a class too small for an instance has none."""
    n_classes, height, width = seed.shape
    found = buffer("found", np.int32, seed.size)
    row_counts = buffer("row_counts", np.int64, n_classes, height)
    if seed.strides[2] != seed.itemsize:
        rows = buffer("seed", np.float32, *seed.shape)
        np.copyto(rows, seed)
        seed = rows
    values, (plane, pitch, _) = as_map(seed)
    blocks = shares(height, BLOCK_ROWS)
    each(
        lambda rows: foreground.find(
            values, plane, pitch, width, least_logit, *rows, found, row_counts
        ),
        blocks,
    )
    row_counts[row_counts.sum(1) <= min_pixels] = 0
    row_starts = buffer("row_starts", np.int64, n_classes * height + 1)
    row_starts[0] = 0
    np.cumsum(row_counts, out=row_starts[1:])
    pixels = buffer("pixels", np.int32, int(row_starts[-1]))
    for row in range(0, n_classes * height, height):
        for top, bottom in blocks:
            first, end = row_starts[row + top], row_starts[row + bottom]
            pixels[first:end] = found[(row + top) * width :][: end - first]
    return row_starts, pixels


def _cells(outputs: Outputs) -> Cells:
    columns, rows = (-(-side // CELL_PX) for side in outputs.seed.shape[:0:-1])
    width, height = outputs.lattice_x[-1], outputs.lattice_y[-1]
    return Cells(
        columns,
        rows,
        np.float32(columns / width if width else 0),
        np.float32(rows / height if height else 0),
    )


def _evaluate(
    outputs: Outputs,
    row_starts: NDArray[np.int64],
    pixels: NDArray[np.int32],
    cells: Cells,
    formula: Formula,
) -> Points:
    n_classes, height, _ = outputs.seed.shape
    n = len(pixels)
    embedding = buffer("embedding", np.float32, 2, n)
    scale = buffer("scale", np.float32, len(outputs.bandwidth), n)
    score = buffer("score", np.float32, n)
    places = buffer("places", np.int32, n)
    maps = [part for array in outputs[:3] for part in as_map(array)]

    def evaluate(first: int, end: int) -> None:
        lattice = buffer("lattice", np.float32, 2, end - first)  # belongs to the thread it runs in
        for c in range(n_classes):
            own_rows = row_starts[c * height : (c + 1) * height + 1]
            own = max(first, own_rows[0]), min(end, own_rows[-1])
            if own[0] < own[1]:
                foreground.gather(
                    *(*maps, c, *outputs[3:], own_rows, *own, pixels),
                    *(embedding, scale, score, lattice, first),
                )
        part = np.s_[..., first:end]
        raw = embedding[part], lattice, scale[part], score[part]
        formula(*map(torch.from_numpy, raw))
        rows = (*embedding[part], scale[0, first:end], scale[-1, first:end])
        cpu_kernels.find_cells(*rows, *cells, places[part])

    each(lambda part: evaluate(*part), shares(n, PART_POINTS))
    return Points(row_starts, pixels, embedding, scale, score, places)


def _cluster(points: Points, n_classes: int, cells: Cells, config: DecodeConfig) -> Claims:
    """`reference.cluster` for the points of each class."""
    row_starts, _, embedding, scale, score, places = points
    n = len(score)
    starts = row_starts[:: (len(row_starts) - 1) // n_classes]  # (C + 1,)
    owner, accepted = buffer("owner", np.int32, n), buffer("accepted", np.int32, n)
    agreement = buffer("agreement", np.float64, n)
    keys, least_key = score.view(np.int32), np.float32(config.seed_threshold).view(np.int32)
    counts = [0] * n_classes

    def cluster(c: int) -> None:
        own = np.s_[starts[c] : starts[c + 1]]
        size = int(starts[c + 1] - starts[c])
        x, y = buffer("x", np.float32, size), buffer("y", np.float32, size)
        cell_starts = buffer("cell_starts", np.int32, cells.rows * cells.columns + 2)
        cpu_kernels.sort_points(*embedding[:, own], places[own], cell_starts, x, y)
        counts[c] = cpu_kernels.grow(
            *(keys[own], least_key, places[own], scale[0, own], scale[-1, own], x, y, cell_starts),
            *(*cells, largest_distance()),
            *(config.min_pixels, config.min_new_fraction, config.first_come),
            tuple(buffer(f"tree{k}", np.int32, -(-size // CHUNK**k)) for k in (1, 2, 3)),
            *(buffer("free", np.bool_, size), owner[own], accepted[own], agreement[own]),
        )

    sizes = np.diff(starts)
    each(cluster, [c for c in np.argsort(-sizes) if sizes[c]])
    slots = np.concatenate([np.arange(a, a + n) for a, n in zip(starts, counts, strict=False)])
    seeds = np.repeat(starts[:-1], counts) + accepted[slots]
    scores = score[seeds]
    if config.agreement:
        scores = (scores * agreement[slots]).astype(np.float32)
    return Claims(counts, owner, seeds, scores)


def _merge(
    points: Points, claims: Claims, size: tuple[int, int], min_new_fraction: float
) -> Groups:
    """Merge all classes into one label image."""
    counts, _, seeds, scores = claims
    class_ids = np.repeat(np.arange(len(counts)), counts)
    in_class = np.arange(len(seeds)) - np.repeat(np.cumsum(counts) - counts, counts)
    best_first = np.argsort(-points.score[seeds], kind="stable")[:MAX_INSTANCES]
    ranks = np.zeros((len(counts), max(counts) + 1), np.uint16)  # by class and owner
    ranks[class_ids[best_first], in_class[best_first] + 1] = np.arange(1, len(best_first) + 1)
    labels, boxes = _paint(points, claims.owner, ranks, len(best_first), size, min_new_fraction)
    alive = boxes[:, 2] > 0
    if not alive.all():
        numbers = np.zeros(len(alive) + 1, np.uint16)
        numbers[1:][alive] = np.arange(1, alive.sum() + 1)
        raster.renumber(labels, numbers)
    kept = best_first[alive]
    best = seeds[kept]
    return Groups(
        labels=labels,
        class_ids=class_ids[kept],
        scores=scores[kept],
        boxes_xyxy=boxes[alive].astype(np.float32),
        centers=points.embedding[:, best].T,
        scales=np.broadcast_to(points.scale[:, best], (2, len(best))).T,
    )


def _paint(
    points: Points,
    owner: NDArray[np.int32],
    ranks: NDArray[np.uint16],
    n_instances: int,
    size: tuple[int, int],
    min_new_fraction: float,
) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    """Draw the label image, by rank, and the box (K, 4) of each rank; [..., 2] = 0: rejected.

    ranks: (C, max owner + 1) by class and owner.
    """
    row_starts, pixels, *_, places = points
    labels = np.empty(size, np.uint16)
    rank = buffer("rank", np.uint16, len(pixels))
    bands = [(band, *rows) for band, rows in enumerate(shares(size[0], size[0]))]  # one per thread
    claimed, won = np.zeros((2, len(bands), n_instances + 1), np.int64)
    boxes = np.empty((len(bands), n_instances + 1, 4), np.int64)

    def measure(band: int, top: int, bottom: int) -> None:
        won[band] = 0
        boxes[band] = size[1], size[0], 0, 0
        of_band = top, bottom, won[band], boxes[band]
        raster.measure(row_starts, pixels, rank, labels, len(ranks), *of_band)

    def paint(band: int, top: int, bottom: int) -> None:
        of_band = top, bottom, labels, rank, claimed[band]
        raster.paint(row_starts, pixels, places, owner, ranks, *of_band)
        measure(band, top, bottom)

    each(lambda band: paint(*band), bands)
    sizes, new = claimed.sum(0), won.sum(0)
    if ((new > 0) & (new <= min_new_fraction * sizes)).any():  # their pixels may save others
        members = buffer("members", np.int32, len(pixels))
        raster.paint_in_turn(pixels, rank, np.cumsum(sizes), members, min_new_fraction, labels)
        each(lambda band: measure(*band), bands)
    return labels, np.concatenate([boxes[..., :2].min(0), boxes[..., 2:].max(0)], 1)[1:]


@functools.cache
def largest_distance() -> np.float32:
    """The largest float32 d for which phi = exp(-d), as computed by torch, makes a member."""
    near = np.float32(-math.log(MEMBERSHIP)).view(np.int32)
    distance = torch.arange(int(near) - 64, int(near) + 64, dtype=torch.int32).view(torch.float32)
    return np.float32(distance[torch.exp(-distance) > MEMBERSHIP].max().item())


def as_map(array: Float) -> Map:
    """The memory of the array (C, H, W), as a view."""
    strides = [stride // array.itemsize for stride in array.strides]
    extent = 1 + sum((n - 1) * s for n, s in zip(array.shape, strides, strict=True))
    return Map(as_strided(array, (extent,), (array.itemsize,)), tuple(strides))
