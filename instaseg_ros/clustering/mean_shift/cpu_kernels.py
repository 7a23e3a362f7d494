"""Compiled loops of `mean_shift.cpu`.

The N points of a class are stored in blocks of BLOCK, sorted by the cell of their embedding. The
bounding box of each block's embeddings is tested first. The test is exact, as rounded differences,
squares and sums are monotone in the true ones.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
from __future__ import annotations

import numba
import numpy as np

from instaseg_ros.clustering.mean_shift.reference import (
    FAILURES,
    ITERATIONS,
    LATTICE,
    LIMIT,
    TOLERANCE,
)
from instaseg_ros.numba_cache import kernel

BLOCK = 64
CELLS = 16  # along each of the first three dimensions; then they repeat
PER_UNIT = np.float32(1 / LATTICE)
LEAST_MOVE = np.float32(TOLERANCE**2)


@kernel(
    "void(float32[::1], UniTuple(int64, 3), float32, int64, int64, uint16[:,::1], float32[:,::1],"
    " int32[:,::1])"
)
def find(semantic, strides, threshold, first_row, end_row, classes, score, counts):
    """Find the pixels of some rows whose most likely class is an object's, with a probability above
    the threshold.

    semantic: the raw output of pixel (x, y) in channel c is at c * plane + y * pitch + x, plane and
    pitch being the first two strides. Out: classes (H, W), channel of a pixel found, 0 for others;
    score (H, W), its probability; counts (C + 1, H).
    """
    plane, pitch, _ = strides
    n_classes, width = len(counts), classes.shape[1]
    top, best = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.int32)
    for y in range(first_row, end_row):
        counts[:, y] = 0
        for left in range(0, width, BLOCK):
            n, at = min(BLOCK, width - left), y * pitch + left
            for j in range(n):
                top[j], best[j] = semantic[at + j], 0
            for c in range(1, n_classes):
                row = semantic[c * plane + at : c * plane + at + n]
                for j in range(n):
                    best[j] = c if row[j] > top[j] else best[j]
                    top[j] = row[j] if row[j] > top[j] else top[j]
            for j in range(n):
                classes[y, left + j] = 0
                if best[j] > 0:
                    total = 0.0
                    for c in range(n_classes):
                        total += np.exp(np.float64(semantic[c * plane + at + j] - top[j]))
                    sure = np.float32(1 / total)
                    if sure > threshold:
                        classes[y, left + j], score[y, left + j] = best[j], sure
                        counts[best[j], y] += 1


@kernel(
    "void(uint16[:,::1], float32[:,::1], float32[::1], UniTuple(int64, 3), int64[:,::1], int64,"
    " int64, int32[::1], float32[::1], float32[:,::1])"
)
def collect(classes, score, embedding, strides, ends, first_row, end_row, pixels, scores, points):
    """Collect the pixels that `find` found in some rows, by class, from ends[class, row] on.

    ends: advanced by the pixels written. embedding: laid out like `semantic` in `find`. Out: pixels
    (N,) row-major index, scores (N,), points (D, N), on the lattice.
    """
    plane, pitch, _ = strides
    width = classes.shape[1]
    for y in range(first_row, end_row):
        for x in range(width):
            c = classes[y, x]
            if c:
                k = ends[c, y]
                pixels[k], scores[k] = y * width + x, score[y, x]
                for d in range(len(points)):
                    points[d, k] = _on_lattice(embedding[d * plane + y * pitch + x])
                ends[c, y] = k + 1


@numba.njit
def _on_lattice(value):
    value = np.float32(0) if np.isnan(value) else value
    value = min(max(value, np.float32(-LIMIT)), np.float32(LIMIT))
    return np.float32(np.rint(value * PER_UNIT)) / PER_UNIT


@kernel(
    "void(float32[:,:], float32[::1], float32, float32[:,:,::1], int64[:,::1], float32[:,:,::1],"
    " int32[::1])"
)
def place(points, score, cell, blocks, keys, boxes, slots):
    """Sort points (D, N) into blocks by the cells (of width `cell`) of their first dimensions.

    Out: blocks (B, D, BLOCK); keys (B, BLOCK), larger for more certain and, on ties, earlier
    points; boxes (B, 2, D), minimum and maximum of each block; slots (N,), a point's place in the
    blocks.
    """
    n_dims, n = points.shape
    slots[:] = 0
    for d in range(min(3, n_dims)):
        for k in range(n):
            own = np.int32(np.floor(points[d, k] / cell)) & (CELLS - 1)
            slots[k] = slots[k] * CELLS + own
    ends = np.zeros(CELLS**3, np.int32)
    for k in range(n):
        ends[slots[k]] += 1
    total = np.int32(0)
    for c in range(len(ends)):
        total, ends[c] = total + ends[c], total
    for k in range(n):
        slot = ends[slots[k]]
        ends[slots[k]] += 1
        slots[k] = slot
    blocks[-1], keys[-1] = np.inf, 0  # partly empty
    bits, flat = score.view(np.int32), keys.reshape(-1)
    for k in range(n):
        flat[slots[k]] = (np.int64(bits[k]) << 32) | (0xFFFFFFFF - k)
    for d in range(n_dims):
        for k in range(n):
            blocks[slots[k] // BLOCK, d, slots[k] % BLOCK] = points[d, k]
    for b in range(len(blocks)):
        size = min(BLOCK, n - b * BLOCK)
        for d in range(n_dims):
            low = high = blocks[b, d, 0]
            for j in range(1, size):
                low, high = min(low, blocks[b, d, j]), max(high, blocks[b, d, j])
            boxes[b, 0, d], boxes[b, 1, d] = low, high


@kernel(
    "int64(float32[:,:,::1], int64[:,::1], float32[:,:,::1], int32, float32, float32, int64,"
    " float64, int32[:,::1], float32[:,::1])"
)
def grow(
    blocks, keys, boxes, least_key, square, reach_square, min_pixels, min_new_fraction, owner, means
):
    """`reference.cluster`, compiled. Returns the number of clusters.

    keys: of free points, 0 for others; consumed. least_key: least score of a start, as int32 bits.
    square, reach_square: squares of bandwidth and reach. Out: owner (B, BLOCK), means (K, D).
    """
    n_blocks, n_dims = blocks.shape[:2]
    best = np.empty(n_blocks, np.int64)  # best key of each block
    for b in range(n_blocks):
        best[b] = keys[b, _largest(keys[b])]
    owner[:] = 0
    touched = np.empty(n_blocks, np.int32)
    mean, distance = np.empty(n_dims, np.float32), np.empty(BLOCK, np.float32)
    count = failures = 0
    while failures < FAILURES:
        first = _largest(best)
        if best[first] == 0 or best[first] >> 32 < least_key:
            break
        start = _largest(keys[first])
        mean[:] = blocks[first, :, start]
        _shift(blocks, keys, boxes, best, square, mean, distance)
        n_touched, size, new = 0, 0, 0
        for b in range(n_blocks):
            if _box_distance(boxes[b], mean, square) <= square:
                touched[n_touched] = b
                n_touched += 1
                _distances(blocks[b], mean, distance)
                for j in range(BLOCK):
                    size += distance[j] <= square
                    new += distance[j] <= square and keys[b, j] != 0
        kept = new > min_pixels and new > min_new_fraction * size
        failures = 0 if kept else failures + 1
        if kept:
            means[count] = mean
            count += 1
        for t in range(n_touched):
            b = touched[t]
            _distances(blocks[b], mean, distance)
            for j in range(BLOCK):
                if distance[j] <= square and keys[b, j] != 0:
                    keys[b, j] = 0
                    if kept:
                        owner[b, j] = count
            best[b] = keys[b, _largest(keys[b])]
        keys[first, start] = 0  # the mean may have moved away from it
        best[first] = keys[first, _largest(keys[first])]
    _adopt(blocks, boxes, owner, means[:count], reach_square, distance)
    return count


@numba.njit
def _shift(blocks, keys, boxes, best, square, mean, distance):
    """Move the mean, in place."""
    total, after = np.empty(len(mean), np.float64), np.empty_like(mean)
    for _ in range(ITERATIONS):
        total[:] = 0
        size = 0
        for b in range(len(blocks)):
            if best[b] == 0 or _box_distance(boxes[b], mean, square) > square:
                continue
            _distances(blocks[b], mean, distance)
            for j in range(BLOCK):
                if distance[j] <= square and keys[b, j] != 0:
                    size += 1
                    for d in range(len(mean)):
                        total[d] += blocks[b, d, j]
        if size == 0:
            break
        moved = np.float32(0)
        for d in range(len(mean)):
            after[d] = total[d] / size
            moved += (after[d] - mean[d]) * (after[d] - mean[d])
            mean[d] = after[d]
        if moved <= LEAST_MOVE:
            break


@numba.njit
def _adopt(blocks, boxes, owner, means, reach_square, distance):
    """Give points without an owner to the nearest mean."""
    nearest = np.full(owner.shape, reach_square, np.float32)
    for k in range(len(means)):
        for b in range(len(blocks)):
            if _box_distance(boxes[b], means[k], reach_square) > reach_square:
                continue
            _distances(blocks[b], means[k], distance)
            for j in range(BLOCK):
                if owner[b, j] <= 0 and distance[j] < nearest[b, j]:
                    nearest[b, j] = distance[j]
                    owner[b, j] = -1 - k  # a better one may come
    for b in range(len(blocks)):
        for j in range(BLOCK):
            owner[b, j] = abs(owner[b, j])


@numba.njit
def _largest(values):
    """The index of the largest value, the first on ties."""
    at = 0
    for k in range(1, len(values)):
        if values[k] > values[at]:
            at = k
    return at


@numba.njit
def _distances(block, mean, out):
    """Squared distances of a block's points from the mean, summed in the order of dimensions."""
    for j in range(BLOCK):
        out[j] = 0
    for d in range(len(mean)):
        middle = mean[d]
        for j in range(BLOCK):
            difference = block[d, j] - middle
            out[j] += difference * difference


@numba.njit
def _box_distance(box, mean, enough):
    """Squared distance of the mean from the box, or any value above `enough` if it is greater."""
    total = np.float32(0)
    for d in range(len(mean)):
        gap = max(box[0, d] - mean[d], mean[d] - box[1, d], np.float32(0))
        total += gap * gap
        if total > enough:
            break
    return total
