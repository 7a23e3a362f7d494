"""The compiled loops behind `grouping.cpu`.

Float32 throughout, in torch's order of operations and without contraction (numba keeps IEEE
semantics unless told otherwise), so that they decide every pixel as the oracle does.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
from __future__ import annotations

import numba
import numpy as np

from instaseg_ros.grouping.compiled import kernel

_ONE_BITS = 0x3F800000  # 1.0 as float32
_BUCKET_SHIFT = 17  # leaves the exponent and six bits below it
_FIRST_BUCKET = (0x33800000 >> _BUCKET_SHIFT) - 1  # 0x33800000: 2^-24, the least 1 - score but 0
BUCKETS = (_ONE_BITS >> _BUCKET_SHIFT) - _FIRST_BUCKET + 1


@kernel("void(float32[:,:,::1], float32, int64, int64, int64[:,::1])")
def count_rows(seed, least_logit, first_row, end_row, row_counts):
    """row_counts (C, H): how many pixels of the row reach the logit in the class's seed map."""
    for y in range(first_row, end_row):
        for c in range(seed.shape[0]):
            row = seed[c, y]
            count = 0
            for x in range(row.shape[0]):
                count += row[x] >= least_logit
            row_counts[c, y] = count


@kernel(
    "void(float32[:,::1], float32[:,:,::1], float32[:,:,::1], float32[::1], float32[::1], float32,"
    " int64[::1], int64, int64, int32[::1], float32[:,::1], float32[:,::1], float32[:,::1],"
    " float32[::1])",
    "void(float32[:,::1], float32[:,:,:], float32[:,:,:], float32[::1], float32[::1], float32,"
    " int64[::1], int64, int64, int32[::1], float32[:,::1], float32[:,::1], float32[:,::1],"
    " float32[::1])",
)
def gather(
    seed,  # (H, W)
    offset,  # (2, H, W)
    bandwidth,  # (n_sigma, H, W)
    lattice_x,  # (W,)
    lattice_y,  # (H,)
    least_logit,
    row_starts,  # (H + 1,)
    first_row,
    end_row,
    pixels,  # out: (N,) row-major index
    offsets,  # out: (2, N)
    grid,  # out: (2, N)
    bandwidths,  # out: (n_sigma, N)
    seeds,  # out: (N,)
):
    """Collect the raw outputs of a class's pixels in some rows, in image order, run by run."""
    width = seed.shape[1]
    for y in range(first_row, end_row):
        k, end = row_starts[y], row_starts[y + 1]
        row = seed[y]
        x = 0
        while k < end:
            while not row[x] >= least_logit:  # NaN too
                x += 1
            first = x
            while x < width and row[x] >= least_logit:
                x += 1
            for j in range(x - first):
                pixels[k + j] = y * width + first + j
                grid[0, k + j] = lattice_x[first + j]
                grid[1, k + j] = lattice_y[y]
                seeds[k + j] = row[first + j]
            for c in range(2):
                _copy(offset[c, y, first:x], offsets[c, k:])
            for c in range(bandwidth.shape[0]):
                _copy(bandwidth[c, y, first:x], bandwidths[c, k:])
            k += x - first


@numba.njit
def _copy(source, target):
    for k in range(source.shape[0]):
        target[k] = source[k]


@numba.njit(inline="always")
def _cell(value, per_unit, last):
    """The cell of a coordinate, monotone in it; what lies outside counts to the border cells."""
    at = value * per_unit
    at = at if at > np.float32(0.0) else np.float32(0.0)  # NaN too
    at = at if at < last else last
    return np.int32(at)


@kernel(
    "void(float32[:,::1], float32[:,::1], int32, int32, float32, float32,"
    " int32[::1], int32[::1], float32[::1], float32[::1])"
)
def sort_points(
    embedding,  # (2, N)
    scale,  # (n_sigma, N)
    columns,
    rows,
    columns_per_unit,
    rows_per_unit,
    cell_starts,  # out: (rows * columns + 2,)
    positions,  # out: (N,) place of a point in cell order
    x,  # out: (N,) embeddings in cell order
    y,
):
    """Sort points by the cell of their embedding, stably; those with a NaN come after all cells."""
    last_column, last_row = np.float32(columns - 1), np.float32(rows - 1)
    n_cells = np.int32(rows * columns)
    from_x, from_y, scale_x, scale_y = embedding[0], embedding[1], scale[0], scale[-1]
    for k in range(positions.shape[0]):
        cell = _cell(from_y[k], rows_per_unit, last_row) * columns
        cell += _cell(from_x[k], columns_per_unit, last_column)
        total = from_x[k] + from_y[k] + (scale_x[k] + scale_y[k])  # none is -inf: NaN if one is
        positions[k] = cell if total == total else n_cells
    _count(positions, cell_starts)
    for k in range(positions.shape[0]):
        place = cell_starts[positions[k]]
        cell_starts[positions[k]] = place + 1
        positions[k] = place
        x[place] = from_x[k]
        y[place] = from_y[k]
    _unshift(cell_starts)


@kernel("void(float32[::1], float32, int32[::1], int32[::1], int32[::1])")
def sort_seeds(score, threshold, buckets, bucket_starts, order):
    """Sort points by the bucket of their score, best first, stably; below the threshold: last.

    A bucket is a 64th of an octave of 1 - score: narrow near 1, where scores crowd.
    buckets: scratch (N,); bucket_starts: out (BUCKETS + 2,); order: out (N,) indices of points.
    """
    missing = buckets.view(np.float32)
    for k in range(score.shape[0]):
        missing[k] = np.float32(1.0) - score[k]
    for k in range(score.shape[0]):
        bucket = (buckets[k] >> _BUCKET_SHIFT) - _FIRST_BUCKET
        bucket = bucket if bucket > 0 else 0
        buckets[k] = bucket if score[k] >= threshold else BUCKETS
    _count(buckets, bucket_starts)
    for k in range(score.shape[0]):
        place = bucket_starts[buckets[k]]
        bucket_starts[buckets[k]] = place + 1
        order[place] = k
    _unshift(bucket_starts)


@numba.njit
def _count(bins, starts):
    """starts (n_bins + 1,): how many points are in the bins before each one."""
    starts[:] = 0
    for k in range(bins.shape[0]):
        starts[bins[k] + 1] += 1
    for k in range(1, starts.shape[0]):
        starts[k] += starts[k - 1]


@numba.njit
def _unshift(starts):
    """Undo what placing did: each start has moved on to the next bin's."""
    for k in range(starts.shape[0] - 1, 0, -1):
        starts[k] = starts[k - 1]
    starts[0] = 0


@numba.njit(inline="always")
def _is_member(x, y, ellipse):
    """Whether a point's distance from the seed is small enough, in the oracle's arithmetic."""
    seed_x, seed_y, scale_x, scale_y, largest_distance = ellipse
    dx, dy = x - seed_x, y - seed_y
    return dx * dx * scale_x + dy * dy * scale_y <= largest_distance


@numba.njit
def _take(x, y, free, ellipse):
    """Free no member any more. Returns how many members there are and how many were free."""
    size = new = 0
    for j in range(x.shape[0]):
        member = _is_member(x[j], y[j], ellipse)
        size += member
        new += member & free[j]
        free[j] &= not member
    return size, new


@numba.njit
def _mark(x, y, owner, ellipse, number):
    for j in range(x.shape[0]):
        owner[j] = number if _is_member(x[j], y[j], ellipse) else owner[j]


@numba.njit
def _span(center, scale, largest_distance, per_unit, cells):
    """First and end cell that an ellipse touches along one axis."""
    # A little wider than it is, so that rounding leaves nobody out.
    reach = np.float32(np.sqrt(largest_distance / scale) * 1.001)
    last = np.float32(cells - 1)
    return _cell(center - reach, per_unit, last), _cell(center + reach, per_unit, last) + 1


@kernel(
    "int64(int32[::1], int32[::1], float32[::1], int64[::1], int32[::1], float32[:,::1],"
    " float32[::1], float32[::1], int32[::1], int32, int32, float32, float32, float32,"
    " int64, float64, boolean[::1], int32[::1], int32[::1])"
)
def grow(
    bucket_starts,  # of seeds
    order,  # (N,) seeds by bucket
    score,  # (N,)
    queue,  # scratch: (N,)
    positions,  # (N,)
    scale,  # (n_sigma, N)
    x,  # (N,) embeddings in cell order
    y,
    cell_starts,
    columns,
    rows,
    columns_per_unit,
    rows_per_unit,
    largest_distance,
    min_pixels,
    min_new_fraction,
    free,  # scratch: (N,) in cell order, true: in no proposal yet
    owner,  # out: (N,) in cell order, 1 + the last accepted proposal that took the point
    accepted,  # out: (N,) seeds of the accepted proposals
):
    """The published loop, each proposal looking only at the cells its ellipse touches.

    Returns the number of accepted proposals.
    """
    bits = score.view(np.int32)
    free[:] = True
    owner[:] = 0
    n_points = n_free = cell_starts[rows * columns]
    n_accepted = 0
    for bucket in range(BUCKETS):
        waiting = 0
        for seed in order[bucket_starts[bucket] : bucket_starts[bucket + 1]]:
            at = positions[seed]
            if at < n_points and free[at]:
                queue[waiting] = ((_ONE_BITS - np.int64(bits[seed])) << 32) | seed
                waiting += 1
        queue[:waiting].sort()  # best first, in image order on ties
        for key in queue[:waiting]:
            if n_free <= min_pixels:
                return n_accepted
            seed = key & 0xFFFFFFFF
            at = positions[seed]
            if not free[at]:
                continue
            free[at] = False
            ellipse = (x[at], y[at], scale[0, seed], scale[-1, seed], largest_distance)
            left, right = _span(x[at], ellipse[2], largest_distance, columns_per_unit, columns)
            top, bottom = _span(y[at], ellipse[3], largest_distance, rows_per_unit, rows)
            size = new = 0
            for row in range(top * columns, bottom * columns, columns):
                a, b = cell_starts[row + left], cell_starts[row + right]
                in_row = _take(x[a:b], y[a:b], free[a:b], ellipse)
                size += in_row[0]
                new += in_row[1]
            n_free -= 1 + new
            if not (size > min_pixels and new / size > min_new_fraction):
                continue
            accepted[n_accepted] = seed
            n_accepted += 1
            for row in range(top * columns, bottom * columns, columns):
                a, b = cell_starts[row + left], cell_starts[row + right]
                _mark(x[a:b], y[a:b], owner[a:b], ellipse, n_accepted)
    return n_accepted


@kernel("void(int32[::1], int32[::1], int32[::1])")
def to_image_order(positions, cell_order, image_order):
    """Bring a value per point from cell order to image order."""
    for k in range(positions.shape[0]):
        image_order[k] = cell_order[positions[k]]
