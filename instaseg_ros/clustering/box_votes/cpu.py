"""Finds instances from per-pixel boxes (Wu, Shen, van den Hengel 2016), in compiled loops.

For each of its possible classes, a pixel votes into the cell of an image-wide grid that contains
the centre of its box. The fullest cell of a class is a hypothesis; it suppresses, and so collects,
the cells whose mean box overlaps its own. Votes are added as integers, so that their order does not
matter and the result equals that of `reference`, label for label.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from instaseg_ros.clustering import MAX_INSTANCES, raster
from instaseg_ros.clustering.label_image import labelled_instances
from instaseg_ros.frames import Instances
from instaseg_ros.numba_cache import compile_all, kernel
from instaseg_ros.threads import buffer, each

if TYPE_CHECKING:
    from instaseg_ros.config.options.box_regression import DecodeConfig

CELL_PX = 4  # side of a cell of the vote map
CANDIDATES = 2  # possible classes per pixel, its most probable ones
MIN_IOU = 0.4  # a hypothesis collects boxes whose IoU with its own is above this
MAX_HYPOTHESES = 4096  # per class: bounds the time spent on outputs of an untrained network

PARTS_PX = 16  # boxes are in sixteenths of a pixel
LARGEST_PX = 16384  # side of a box
PARTS_SCORE = 1 << 16
PARTS_IOU = 1 << 15
SIDE = CELL_PX * PARTS_PX
BLOCK = 1 << 15  # points that one thread processes at a time

# Columns of the vote map: pixel count, and sums of the pixels' scores and score-weighted boxes.
PIXELS, SCORE, X, Y, HEIGHT, WIDTH = range(6)


class Points(NamedTuple):
    """The N pixels of an image that may belong to an object, in image order.

    pixels: (N,) int64, row-major index.
    scores: (C + 1, N) float32 in [0, 1], the background's first.
    boxes: (4, N) float32, centre x, y, height, width in pixels.
    size: height and width of the image.
    """

    pixels: Tensor
    scores: Tensor
    boxes: Tensor
    size: tuple[int, int]


class Hypotheses(NamedTuple):
    """The hypotheses of each class, from its candidate pixels, class by class."""

    starts: NDArray[np.int64]  # (C + 1,) first candidate of each class
    candidates: NDArray[np.int32]  # (M,) indices of points
    number: NDArray[np.int32]  # (M,) a candidate's hypothesis within its class, from 1; 0: none
    sums: list[NDArray[np.int64]]  # C of (K, 2): pixels, and their sum of score times overlap


def group(points: Points, config: DecodeConfig) -> Instances:
    """The instances of one image.

    A pixel votes for those of its two most probable classes that are more probable than
    `foreground_threshold`, if its box is centred inside the image. A hypothesis's score is the mean
    over its pixels of score times the overlap of their cell's box with the hypothesis's; it needs
    at least `seed_threshold` and more than `min_pixels`. Best first, hypotheses of all classes then
    get the pixels that no better one has, if these are more than `min_new_fraction` of their own.
    """
    compile_all()
    scores, boxes = points.scores.numpy(), points.boxes.numpy()
    columns, rows = (-(-side // CELL_PX) for side in points.size[::-1])
    starts, candidates = _collect(scores, boxes, points.size, config.foreground_threshold)
    number = buffer("vote_numbers", np.int32, len(candidates))
    sums: list[NDArray[np.int64]] = [np.zeros((0, 2), np.int64) for _ in starts[1:]]

    def find(c: int) -> None:
        own = slice(starts[c], starts[c + 1])
        votes = buffer("votes", np.int64, rows * columns, 6)
        cells = buffer("vote_cells", np.int32, starts[c + 1] - starts[c])
        _vote(scores[c + 1], boxes, candidates[own], columns, cells, votes)
        sums[c] = np.empty((MAX_HYPOTHESES, 2), np.int64)
        count = _suppress(votes, columns, cells, config.min_pixels, sums[c], number[own])
        sums[c] = sums[c][:count]

    each(find, [c for c in range(len(sums)) if starts[c] < starts[c + 1]])
    return _merge(points, Hypotheses(starts, candidates, number, sums), config)


def _merge(points: Points, hypotheses: Hypotheses, config: DecodeConfig) -> Instances:
    """Merge all classes into one label image."""
    starts, candidates, number, sums = hypotheses
    counts = [len(part) for part in sums]
    class_ids = np.repeat(np.arange(len(counts)), counts)
    sizes, totals = np.concatenate(sums).T
    scores = totals / (sizes * float(PARTS_SCORE * PARTS_IOU))
    alive = np.flatnonzero((sizes > config.min_pixels) & (scores >= config.seed_threshold))
    best_first = alive[np.argsort(-scores[alive], kind="stable")][:MAX_INSTANCES]
    ranks = np.zeros(len(sizes) + 1, np.uint16)
    ranks[best_first + 1] = np.arange(1, len(best_first) + 1)

    rank = buffer("vote_ranks", np.uint16, len(candidates))
    places = buffer("vote_places", np.int32, len(candidates))
    before = np.cumsum(counts) - counts  # hypotheses of earlier classes
    _rank(points.pixels.numpy(), candidates, number, starts, before, ranks, places, rank)
    ends = np.cumsum(np.bincount(rank, minlength=len(best_first) + 1))
    members = buffer("vote_members", np.int32, len(candidates))
    labels = np.empty(points.size, np.uint16)
    raster.paint_in_turn(places, rank, ends, members, config.min_new_fraction, labels)
    return labelled_instances(
        labels,
        class_ids[best_first],
        scores[best_first].astype(np.float32),
        config.min_pixels,
        config.min_score,
    )


def _collect(
    scores: NDArray[np.float32], boxes: NDArray[np.float32], size: tuple[int, int], least: float
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Collect each class's candidate points, class by class, in image order: where each class
    starts (C + 1,), and indices of points."""
    n = scores.shape[1]
    classes = buffer("vote_classes", np.int32, CANDIDATES, n)
    blocks = [(k, k * BLOCK, min((k + 1) * BLOCK, n)) for k in range(-(-n // BLOCK))]
    counts = np.zeros((len(blocks), len(scores)), np.int64)

    def look(k: int, first: int, end: int) -> None:
        _candidates(scores, boxes, *size, np.float32(least), first, end, classes, counts[k])

    each(lambda block: look(*block), blocks)
    counts = counts[:, 1:]
    starts = np.concatenate([[0], np.cumsum(counts.sum(0))])
    places = starts[:-1] + np.cumsum(counts, 0) - counts  # where a block's candidates of a class go
    found = buffer("vote_candidates", np.int32, starts[-1])
    each(lambda block: _sort(classes, *block[1:], places[block[0]], found), blocks)
    return starts, found


@kernel(
    "void(float32[:,::1], float32[:,::1], int64, int64, float32, int64, int64, int32[:,::1],"
    " int64[::1])"
)
def _candidates(scores, boxes, height, width, least, first, end, classes, counts):
    """Find the possible classes of points. classes: out (2, N): channels, 0: none; counts (C + 1,):
    incremented by the points of each channel."""
    for p in range(first, end):
        best, second = np.float32(-1), np.float32(-1)
        channel, runner_up = 0, 0
        for k in range(scores.shape[0]):
            score = scores[k, p]
            if score > best:
                second, runner_up = best, channel
                best, channel = score, k
            elif score > second:
                second, runner_up = score, k
        x, y, h, w = boxes[0, p], boxes[1, p], boxes[2, p], boxes[3, p]
        usable = 0 <= x < width and 0 <= y < height
        usable &= 1 / PARTS_PX <= h <= LARGEST_PX and 1 / PARTS_PX <= w <= LARGEST_PX
        classes[0, p] = channel if usable and best > least else 0
        classes[1, p] = runner_up if usable and second > least else 0
        counts[classes[0, p]] += 1
        counts[classes[1, p]] += 1


@kernel("void(int32[:,::1], int64, int64, int64[::1], int32[::1])")
def _sort(classes, first, end, places, found):
    for p in range(first, end):
        for k in range(CANDIDATES):
            c = classes[k, p] - 1
            if c >= 0:
                found[places[c]] = p
                places[c] += 1


@kernel("void(float32[::1], float32[:,::1], int32[::1], int64, int32[::1], int64[:,::1])")
def _vote(score, boxes, candidates, columns, cells, votes):
    """Add votes to cells. cells: out, the cell of each candidate; votes: out (cells, 6)."""
    votes[:] = 0
    for k in range(candidates.shape[0]):
        p = candidates[k]
        weight = np.int64(np.rint(score[p] * np.float32(PARTS_SCORE)))
        x, y = np.int64(boxes[0, p] * PARTS_PX), np.int64(boxes[1, p] * PARTS_PX)
        cell = y // SIDE * columns + x // SIDE
        cells[k] = cell
        vote = votes[cell]
        vote[PIXELS] += 1
        vote[SCORE] += weight
        vote[X] += weight * x
        vote[Y] += weight * y
        vote[HEIGHT] += weight * np.int64(boxes[2, p] * PARTS_PX)
        vote[WIDTH] += weight * np.int64(boxes[3, p] * PARTS_PX)


@kernel("int64(int64[:,::1], int64, int32[::1], int64, int64[:,::1], int32[::1])")
def _suppress(votes, columns, cells, min_pixels, found, number):
    """Find the hypotheses of a class, fullest cell first; returns their number.

    found: out (MAX_HYPOTHESES, 2): the pixels of each, and their sum of score times overlap.
    number: out, the hypothesis of each candidate, from 1; 0: none.
    """
    n_cells = votes.shape[0]
    edges = np.empty((n_cells, 5))  # left, top, right, bottom, area of the mean box of a cell
    owner = np.zeros(n_cells, np.int32)
    occupied = np.empty(n_cells, np.int64)
    n, left_over = 0, 0
    for cell in range(n_cells):
        if votes[cell, SCORE] > 0:
            _mean_box(votes[cell], edges[cell])
            occupied[n] = cell
            left_over += votes[cell, PIXELS]
            n += 1
    occupied = occupied[:n]
    count = 0
    for k in np.argsort(-votes[occupied, SCORE], kind="mergesort"):
        if left_over <= min_pixels or count == found.shape[0]:
            break
        best = occupied[k]
        if owner[best] == 0:
            count += 1
            left_over -= _collect_cells(votes, edges, columns, best, count, owner, found[count - 1])
    for k in range(cells.shape[0]):
        number[k] = owner[cells[k]]
    return count


@numba.njit
def _mean_box(vote, edges):
    total = float(vote[SCORE])
    x, y = float(vote[X]) / total, float(vote[Y]) / total
    half_height, half_width = float(vote[HEIGHT]) / total / 2, float(vote[WIDTH]) / total / 2
    edges[0], edges[1] = x - half_width, y - half_height
    edges[2], edges[3] = x + half_width, y + half_height
    edges[4] = 4 * half_height * half_width


@numba.njit
def _collect_cells(votes, edges, columns, best, number, owner, sums):
    """Give the hypothesis the free cells that overlap it; returns their pixels.

    Boxes that overlap by MIN_IOU have centres within a known distance, so few cells are examined.
    """
    left, top, right, bottom, area = edges[best]
    reach = max(1 - MIN_IOU, (1 / MIN_IOU - 1) / 2)
    x, y = best % columns, best // columns
    across = int((right - left) * reach / SIDE) + 2
    down = int((bottom - top) * reach / SIDE) + 2
    sums[:] = 0
    for row in range(max(y - down, 0), min(y + down + 1, votes.shape[0] // columns)):
        for cell in range(
            row * columns + max(x - across, 0), row * columns + min(x + across + 1, columns)
        ):
            if votes[cell, SCORE] > 0 and owner[cell] == 0:
                other = edges[cell]
                w = min(right, other[2]) - max(left, other[0])
                h = min(bottom, other[3]) - max(top, other[1])
                common = max(w, 0.0) * max(h, 0.0)
                iou = common / (area + other[4] - common)
                if iou > MIN_IOU:
                    owner[cell] = number
                    sums[0] += votes[cell, PIXELS]
                    sums[1] += votes[cell, SCORE] * np.int64(np.rint(iou * PARTS_IOU))
    return sums[0]


@kernel(
    "void(int64[::1], int32[::1], int32[::1], int64[::1], int64[::1], uint16[::1], int32[::1],"
    " uint16[::1])"
)
def _rank(pixels, candidates, number, starts, before, ranks, places, rank):
    """Look up ranks. places, rank: out, each candidate's pixel and the rank of its hypothesis.

    number: of the hypothesis within its class, from 1; 0: none. ranks: for the hypotheses of all
    classes, from 1; 0: rejected.
    """
    for c in range(before.shape[0]):
        for k in range(starts[c], starts[c + 1]):
            places[k] = pixels[candidates[k]]
            rank[k] = ranks[before[c] + number[k]] if number[k] else 0
