"""Instances from per-pixel boxes (Wu, Shen, van den Hengel 2016), compiled.

Each pixel votes, for the classes it may be of, into the cell of an image-wide grid that holds the
centre of its box. The fullest cell of a class is a hypothesis; it suppresses, and so collects, the
cells whose mean box overlaps its own. Votes are added as integers, so that their order does not
matter, and the result is that of `plain_voting`, label for label.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
from __future__ import annotations

from typing import TYPE_CHECKING

import numba
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from instaseg_ros.grouping import MAX_INSTANCES, painting
from instaseg_ros.grouping.compiled import compile_all, kernel
from instaseg_ros.grouping.labelled import labelled_instances
from instaseg_ros.grouping.workers import buffer, each
from instaseg_ros.types import Instances

if TYPE_CHECKING:
    from instaseg_ros.config import DecodeConfig

CELL_PX = 4  # side of a cell of the vote map
CANDIDATES = 2  # a pixel may be of so many classes, its most probable ones
MIN_IOU = 0.4  # a hypothesis collects the boxes that overlap its own more than this
MAX_HYPOTHESES = 4096  # of a class: bounds the time on what an untrained network says

PARTS_PX = 16  # boxes are counted in sixteenths of a pixel
LARGEST_PX = 16384  # side of a box
PARTS_SCORE = 1 << 16
PARTS_IOU = 1 << 15
SIDE = CELL_PX * PARTS_PX
BLOCK_PIXELS = 1 << 15  # that one thread looks at at a time

# Columns of the vote map: pixels, and sums over them of score and score-weighted box.
PIXELS, SCORE, X, Y, HEIGHT, WIDTH = range(6)


def group(scores: Tensor, boxes: Tensor, config: DecodeConfig) -> Instances:
    """The instances of one image.

    scores: (C + 1, H, W) float32 in [0, 1], the background's first.
    boxes: (4, H, W) float32, centre x, y, height, width in pixels.

    A pixel is of the classes among its two most probable channels that are more probable than
    `foreground_threshold`, if its box is finite and centred inside the image. The score of a
    hypothesis is the mean over its pixels of score times the overlap of their cell's box with the
    hypothesis's; it lives with at least `seed_threshold` and more than `min_pixels`. Best first,
    hypotheses of all classes then get the pixels that no better one has, if these are more than
    `min_new_fraction` of their own.
    """
    compile_all()
    n_classes, height, width = len(scores) - 1, *scores.shape[1:]
    flat = scores.flatten(1).numpy(), boxes.flatten(1).numpy()
    least = np.float32(config.foreground_threshold)
    starts, pixels = _collect(*flat, (height, width), least)
    columns, rows = -(-width // CELL_PX), -(-height // CELL_PX)
    number = buffer("numbers", np.int32, len(pixels))  # of a candidate's hypothesis, from 1
    found: list[NDArray[np.int64]] = [np.zeros((0, 2), np.int64)] * n_classes

    def hypotheses(c: int) -> None:
        own = slice(starts[c], starts[c + 1])
        votes = buffer("votes", np.int64, rows * columns, 6)
        cells = buffer("vote_cells", np.int32, len(pixels[own]))
        _vote(flat[0][c + 1], flat[1], pixels[own], columns, cells, votes)
        found[c] = np.empty((MAX_HYPOTHESES, 2), np.int64)
        count = _suppress(votes, columns, cells, config.min_pixels, found[c], number[own])
        found[c] = found[c][:count]

    each(hypotheses, [c for c in range(n_classes) if starts[c] < starts[c + 1]])
    counts = [len(part) for part in found]
    class_ids = np.repeat(np.arange(n_classes), counts)
    sizes, totals = np.concatenate(found).T
    quality = totals / (sizes * float(PARTS_SCORE * PARTS_IOU))
    alive = np.flatnonzero((sizes > config.min_pixels) & (quality >= config.seed_threshold))
    best_first = alive[np.argsort(-quality[alive], kind="stable")][:MAX_INSTANCES]

    ranks = np.zeros(len(sizes) + 1, np.uint16)
    ranks[best_first + 1] = np.arange(1, len(best_first) + 1)
    firsts = np.cumsum(counts) - counts  # hypotheses before a class's
    rank = buffer("rank", np.uint16, len(pixels))
    _rank(number, np.asarray(starts), firsts, ranks, rank)
    ends = np.cumsum(np.bincount(rank, minlength=len(best_first) + 1))
    labels = np.empty((height, width), np.uint16)
    members = buffer("members", np.int32, len(pixels))
    painting.paint_in_turn(pixels, rank, ends, members, config.min_new_fraction, labels)
    return labelled_instances(
        labels, class_ids[best_first], quality[best_first].astype(np.float32), config.min_pixels
    )


def _collect(
    scores: NDArray[np.float32],  # (C + 1, N)
    boxes: NDArray[np.float32],  # (4, N)
    size: tuple[int, int],
    least: np.float32,
) -> tuple[list[int], NDArray[np.int32]]:
    """Pixels that may be of a class, class by class, in image order: where each class starts
    (C + 1,), and row-major indices."""
    n_pixels = scores.shape[1]
    classes = buffer("candidates", np.int32, CANDIDATES, n_pixels)
    blocks = range(0, n_pixels, BLOCK_PIXELS)
    counts = np.zeros((len(blocks), len(scores)), np.int64)  # of background: not of any

    def look(first: int) -> None:
        end = min(first + BLOCK_PIXELS, n_pixels)
        _candidates(scores, boxes, *size, least, first, end, classes, counts[first // BLOCK_PIXELS])

    each(look, blocks)
    ends = np.cumsum(counts.sum(0)[1:])
    starts = [0, *ends.tolist()]
    pixels = buffer("pixels", np.int32, starts[-1])
    # Where each block writes those of each class.
    places = np.array(starts[:-1]) + np.cumsum(counts[:, 1:], 0) - counts[:, 1:]
    each(
        lambda first: _sort(
            classes,
            first,
            min(first + BLOCK_PIXELS, n_pixels),
            places[first // BLOCK_PIXELS],
            pixels,
        ),
        blocks,
    )
    return starts, pixels


@kernel(
    "void(float32[:,::1], float32[:,::1], int64, int64, float32, int64, int64, int32[:,::1],"
    " int64[::1])"
)
def _candidates(scores, boxes, height, width, least, first, end, classes, counts):
    """classes: out (2, N): channels that a pixel may be of, 0: none; counts: plus those by
    channel."""
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
def _sort(classes, first, end, places, pixels):
    for p in range(first, end):
        for k in range(CANDIDATES):
            c = classes[k, p] - 1
            if c >= 0:
                pixels[places[c]] = p
                places[c] += 1


@kernel("void(float32[::1], float32[:,::1], int32[::1], int64, int32[::1], int64[:,::1])")
def _vote(score, boxes, pixels, columns, cells, votes):
    """cells: out, of each pixel; votes: out (cells, 6)."""
    votes[:] = 0
    for k in range(pixels.shape[0]):
        p = pixels[k]
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
    """Hypotheses of a class, the fullest cell first; returns how many.

    found: out (MAX_HYPOTHESES, 2): pixels of each, and sum over them of score times overlap.
    number: out, the hypothesis of each pixel that voted, from 1; 0: none.
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

    Boxes that overlap by MIN_IOU are centred within a known distance, so few cells are looked at.
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


@kernel("void(int32[::1], int64[::1], int64[::1], uint16[::1], uint16[::1])")
def _rank(number, starts, firsts, ranks, rank):
    """rank: out, of each candidate, from the number of its hypothesis within its class.

    ranks: by hypothesis of all classes, from 1; 0: dead.
    """
    for c in range(firsts.shape[0]):
        for k in range(starts[c], starts[c + 1]):
            rank[k] = ranks[firsts[c] + number[k]] if number[k] else 0
