"""The default clustering on a CPU: compiled, parallel, and never all pixels per instance.

Foreground pixels are collected class by class and sorted by the cell of their embedding in a grid;
seeds are taken best first, and each looks only at the cells that its ellipse touches. The result is
the oracle's, label for label.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from instaseg_ros.grouping import MAX_INSTANCES, MEMBERSHIP, Groups, kernels, painting
from instaseg_ros.grouping.compiled import compile_all

if TYPE_CHECKING:
    from instaseg_ros.config import DecodeConfig

CELL_PX = 8  # side of a grid cell, as long as embeddings lie as dense as pixels
BLOCK_ROWS = 64  # image rows that one thread takes at a time

Float = NDArray[np.float32]
Formula = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]

_local = threading.local()


class Outputs(NamedTuple):
    """Raw network outputs of one image, and where its pixels lie in the space of embeddings."""

    offset: Float  # (2, H, W)
    bandwidth: Float  # (n_sigma, H, W)
    seed: Float  # (C, H, W)
    lattice_x: Float  # (W,) from 0 up
    lattice_y: Float  # (H,) from 0 up


class Cells(NamedTuple):
    """The grid over the space of embeddings."""

    columns: int
    rows: int
    columns_per_unit: np.float32
    rows_per_unit: np.float32


class Points(NamedTuple):
    """The N foreground pixels of one class, in image order.

    Valid until this thread groups the next image: the memory is used again.
    """

    row_starts: NDArray[np.int64]  # (H + 1,) where each image row begins among them
    pixels: NDArray[np.int32]  # (N,) row-major index
    embedding: Float  # (2, N)
    scale: Float  # (n_sigma, N)
    score: Float  # (N,)


class Claims(NamedTuple):
    """What one class makes of its points: K instances, best seed first."""

    points: Points
    owner: NDArray[np.int32]  # (N,) 1 + index of the instance; 0: none
    scores: Float  # (K,)
    centers: Float  # (K, 2)
    scales: Float  # (K, 2)


def warm_up() -> None:
    """Compile the kernels, or load them from numba's cache, before the first image needs them."""
    compile_all()
    largest_distance()


def group(outputs: Outputs, least_logit: float, formula: Formula, config: DecodeConfig) -> Groups:
    """`oracle.group` of the pixels whose raw seed output is at least `least_logit`.

    formula: the method's; takes raw offset (2, n), lattice position (2, n), raw bandwidth
    (n_sigma, n) and raw seed (n,) to embedding (2, n), scale (n_sigma, n) and score (n,), all new.
    """
    warm_up()
    outputs = outputs._replace(seed=np.ascontiguousarray(outputs.seed))
    n_classes, height, width = outputs.seed.shape
    least = np.float32(least_logit)
    row_counts = _buffer("row_counts", np.int64, n_classes, height)
    _each_block(height, lambda *rows: kernels.count_rows(outputs.seed, least, *rows, row_counts))
    claims = []
    for class_id in range(n_classes):
        points = _points(class_id, outputs, row_counts[class_id], least, formula)
        claims.append(_cluster(class_id, points, _cells(outputs), config))
    return _merge(claims, height, width, config.min_new_fraction)


def _cells(outputs: Outputs) -> Cells:
    columns, rows = (-(-side // CELL_PX) for side in outputs.seed.shape[:0:-1])
    width, height = outputs.lattice_x[-1], outputs.lattice_y[-1]
    return Cells(
        columns,
        rows,
        np.float32(columns / width if width else 0),
        np.float32(rows / height if height else 0),
    )


def _points(
    class_id: int,
    outputs: Outputs,
    row_counts: NDArray[np.int64],
    least_logit: np.float32,
    formula: Formula,
) -> Points:
    offset, bandwidth, seed, *lattice = outputs
    row_starts = _buffer(f"row_starts{class_id}", np.int64, len(row_counts) + 1)
    row_starts[0] = 0
    np.cumsum(row_counts, out=row_starts[1:])
    n = int(row_starts[-1])
    pixels = _buffer(f"pixels{class_id}", np.int32, n)
    raw = (
        _buffer("offset", np.float32, 2, n),
        _buffer("lattice", np.float32, 2, n),
        _buffer("bandwidth", np.float32, len(bandwidth), n),
        _buffer("seed", np.float32, n),
    )
    maps = (seed[class_id], offset, bandwidth, *lattice, least_logit, row_starts)
    _each_block(len(row_counts), lambda *rows: kernels.gather(*maps, *rows, pixels, *raw))
    values = (tensor.numpy() for tensor in formula(*map(torch.from_numpy, raw)))
    return Points(row_starts, pixels, *values)


def _cluster(class_id: int, points: Points, cells: Cells, config: DecodeConfig) -> Claims:
    """`oracle.cluster` of the points of one class."""
    *_, embedding, scale, score = points
    n = len(score)
    cell_starts = _buffer("cell_starts", np.int32, cells.rows * cells.columns + 2)
    positions = _buffer("positions", np.int32, n)
    x, y = _buffer("x", np.float32, n), _buffer("y", np.float32, n)
    bucket_starts = _buffer("bucket_starts", np.int32, kernels.BUCKETS + 2)
    order, by_cell = _buffer("order", np.int32, n), _buffer("by_cell", np.int32, n)
    threshold = np.float32(config.seed_threshold)
    _each(
        lambda sort: sort(),
        (
            lambda: kernels.sort_points(embedding, scale, *cells, cell_starts, positions, x, y),
            lambda: kernels.sort_seeds(score, threshold, by_cell, bucket_starts, order),
        ),
    )
    accepted = _buffer("accepted", np.int32, n)
    owner = _buffer(f"owner{class_id}", np.int32, n)
    n_accepted = kernels.grow(
        *(bucket_starts, order, score, _buffer("queue", np.int64, n)),
        *(positions, scale, x, y, cell_starts, *cells, largest_distance()),
        *(config.min_pixels, config.min_new_fraction),
        *(_buffer("free", np.bool_, n), by_cell, accepted),
    )
    kernels.to_image_order(positions, by_cell, owner)
    seeds = accepted[:n_accepted]
    scales = np.broadcast_to(scale[:, seeds], (2, n_accepted)).T
    return Claims(points, owner, score[seeds], embedding[:, seeds].T, scales)


def _merge(claims: Sequence[Claims], height: int, width: int, min_new_fraction: float) -> Groups:
    """One label image of all classes."""
    counts = [len(c.scores) for c in claims]
    scores = np.concatenate([c.scores for c in claims])
    best_first = np.argsort(-scores, kind="stable")[:MAX_INSTANCES]
    ranks = np.zeros(len(scores), np.uint16)
    ranks[best_first] = np.arange(1, len(best_first) + 1)
    per_class = [  # with the rank 0 of no instance
        (c, np.concatenate([np.zeros(1, np.uint16), own]))
        for c, own in zip(claims, np.split(ranks, np.cumsum(counts)[:-1]), strict=True)
    ]
    sizes = np.zeros(len(best_first) + 1, np.int64)
    for (_, owner, *_), own in per_class:
        painting.count_members(owner, own, sizes)
    ends = np.cumsum(sizes)
    members = _buffer("members", np.int32, int(ends[-1]))
    places = ends - sizes
    for (points, owner, *_), own in per_class:
        painting.place_members(points.pixels, owner, own, places, members)
    labels = np.zeros(height * width, np.uint16)
    painting.paint(members, ends, min_new_fraction, labels)
    boxes = np.tile(np.array([width, height, 0, 0]), (len(best_first) + 1, 1))
    for (points, owner, *_), own in per_class:
        painting.measure(points.row_starts, width, points.pixels, owner, own, labels, boxes)
    alive = boxes[1:, 2] > 0
    if not alive.all():
        numbers = np.zeros(len(boxes), np.uint16)
        numbers[1:][alive] = np.arange(1, alive.sum() + 1)
        painting.renumber(labels, numbers)
    kept = best_first[alive]
    return Groups(
        labels=labels.reshape(height, width),
        class_ids=np.repeat(np.arange(len(claims)), counts)[kept],
        scores=scores[kept],
        boxes_xyxy=boxes[1:][alive].astype(np.float32),
        centers=np.concatenate([c.centers for c in claims])[kept],
        scales=np.concatenate([c.scales for c in claims])[kept],
    )


@functools.cache
def largest_distance() -> np.float32:
    """The largest float32 d whose phi = exp(-d), as torch computes it, makes a member."""
    near = np.float32(-math.log(MEMBERSHIP)).view(np.int32)
    distance = torch.arange(int(near) - 64, int(near) + 64, dtype=torch.int32).view(torch.float32)
    return np.float32(distance[torch.exp(-distance) > MEMBERSHIP].max().item())


def _each_block(rows: int, function: Callable[[int, int], None]) -> None:
    """Call the function on ranges of rows that cover all rows."""
    blocks = [(y, min(y + BLOCK_ROWS, rows)) for y in range(0, rows, BLOCK_ROWS)]
    _each(lambda block: function(*block), blocks)


def _each(function: Callable[[Any], None], items: Sequence[Any]) -> None:
    """Call the function on every item, in as many threads as torch may use."""
    threads = torch.get_num_threads()
    if threads == 1 or len(items) == 1:
        for item in items:
            function(item)
    else:
        list(_pool(threads).map(function, items))  # raises what a call raised


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="grouping")


def _buffer(name: str, dtype: Any, *shape: int) -> NDArray[Any]:
    """An uninitialised array out of this thread's memory of that name, kept between images."""
    size = math.prod(shape)
    kept = getattr(_local, name, None)
    if kept is None or kept.size < size:
        kept = np.empty(size + size // 4, dtype)
        setattr(_local, name, kept)
    return kept[:size].reshape(shape)
