"""Clusters the points of one class in compiled loops: points are sorted by the cell of their
embedding, then taken by the seeds, best first.

Float32 throughout, in torch's order of operations and without contraction (numba keeps IEEE
semantics unless told otherwise), so that every pixel is decided as in `reference`. Numba caches
compiled functions until their own file changes: functions they call are in the same file.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
from __future__ import annotations

import numba
import numpy as np

from instaseg_ros.clustering.ellipses import DISTANCE_UNIT
from instaseg_ros.numba_cache import kernel

CHUNK = 64  # scores that are summarised by their best
PER_UNIT = np.float32(1 / DISTANCE_UNIT)


@numba.njit(inline="always")
def _cell(value, per_unit, last):
    """The cell of a coordinate, monotone in it; outside values belong to the border cells."""
    at = value * per_unit
    at = at if at > np.float32(0.0) else np.float32(0.0)  # NaN too
    at = at if at < last else last
    return np.int32(at)


@kernel(
    "void(float32[::1], float32[::1], float32[::1], float32[::1],"
    " int32, int32, float32, float32, int32[::1])"
)
def find_cells(
    from_x,  # (n,) embeddings
    from_y,
    scale_x,  # (n,)
    scale_y,
    columns,
    rows,
    columns_per_unit,
    rows_per_unit,
    cells,  # out: (n,)
):
    """Find the cell of each embedding; points with a NaN come after all cells."""
    last_column, last_row = np.float32(columns - 1), np.float32(rows - 1)
    n_cells = np.int32(rows * columns)
    for k in range(cells.shape[0]):
        cell = _cell(from_y[k], rows_per_unit, last_row) * columns
        cell += _cell(from_x[k], columns_per_unit, last_column)
        total = from_x[k] + from_y[k] + (scale_x[k] + scale_y[k])  # NaN if one is, as none is -inf
        cells[k] = cell if total == total else n_cells


@kernel("void(float32[::1], float32[::1], int32[::1], int32[::1], float32[::1], float32[::1])")
def sort_points(
    from_x,  # (N,) embeddings
    from_y,
    places,  # in: (N,) a point's cell; out: its place in cell order
    cell_starts,  # out: (n_cells + 2,)
    x,  # out: (N,) embeddings in cell order
    y,
):
    """Sort points by their cell, stably."""
    cell_starts[:] = 0
    for k in range(places.shape[0]):
        cell_starts[places[k] + 1] += 1
    for cell in range(1, cell_starts.shape[0]):
        cell_starts[cell] += cell_starts[cell - 1]
    for k in range(places.shape[0]):
        cell = places[k]
        place = cell_starts[cell]
        cell_starts[cell] = place + 1
        places[k] = place
        x[place] = from_x[k]
        y[place] = from_y[k]
    for cell in range(cell_starts.shape[0] - 1, 0, -1):  # each start has moved on to the next one
        cell_starts[cell] = cell_starts[cell - 1]
    cell_starts[0] = 0


@numba.njit(inline="always")
def _distance(x, y, ellipse):
    """A point's distance from the seed, computed as in `reference`."""
    seed_x, seed_y, scale_x, scale_y, _ = ellipse
    dx, dy = x - seed_x, y - seed_y
    return dx * dx * scale_x + dy * dy * scale_y


@numba.njit
def _take(x, y, free, ellipse):
    """Take all members. Returns how many members there are, how many were free, and the sum of all
    their distances in DISTANCE_UNIT."""
    size = new = total = 0
    for j in range(x.shape[0]):
        distance = _distance(x[j], y[j], ellipse)
        member = distance <= ellipse[4]
        size += member
        new += member & free[j]
        free[j] &= not member
        total += np.int32((distance if member else np.float32(0.0)) * PER_UNIT)
    return size, new, total


@numba.njit
def _mark(x, y, owner, ellipse, number, first_come):
    for j in range(x.shape[0]):
        member = _distance(x[j], y[j], ellipse) <= ellipse[4]
        takes = member & ((owner[j] == 0) | (not first_come))
        owner[j] = number if takes else owner[j]


@numba.njit
def _span(center, scale, largest_distance, per_unit, cells):
    """The first and end cell that an ellipse touches along one axis."""
    # Slightly wider, so that rounding loses no member.
    reach = np.float32(np.sqrt(largest_distance / scale) * 1.001)
    last = np.float32(cells - 1)
    return _cell(center - reach, per_unit, last), _cell(center + reach, per_unit, last) + 1


@numba.njit
def _best(keys):
    """The largest of some int32 keys."""
    best = keys[0]
    for k in range(1, keys.shape[0]):
        best = max(best, keys[k])
    return best


@numba.njit
def _first(keys, wanted):
    """The index of the first key that equals the wanted one."""
    k = 0
    while keys[k] != wanted:
        k += 1
    return k


@numba.njit
def _summarise(keys, best):
    """Find the largest of each chunk of keys (n,). best: out (ceil(n / CHUNK),)."""
    for k in range(best.shape[0]):
        best[k] = _best(keys[k * CHUNK : (k + 1) * CHUNK])


@numba.njit
def _next_seed(keys, free, places, least_key, tree):
    """The free point with the largest key, the first on ties; -1 if it is below `least_key`.

    tree: the largest key of each chunk of points, of each chunk of those, and so on. Entries of
    points that are no longer free are corrected when their turn comes.
    """
    low, middle, high = tree
    while True:
        best = _best(high)
        if best < least_key:
            return -1
        in_high = _first(high, best)
        in_middle = in_high * CHUNK + _first(middle[in_high * CHUNK :], best)
        in_low = in_middle * CHUNK + _first(low[in_middle * CHUNK :], best)
        left = np.int32(-1)
        for k in range(in_low * CHUNK, min((in_low + 1) * CHUNK, keys.shape[0])):
            if keys[k] > left and free[places[k]]:
                left = keys[k]
                if left == best:
                    return k
        low[in_low] = left
        middle[in_middle] = _best(low[in_middle * CHUNK : (in_middle + 1) * CHUNK])
        high[in_high] = _best(middle[in_high * CHUNK : (in_high + 1) * CHUNK])


@kernel(
    "int64(int32[::1], int32, int32[::1], float32[::1], float32[::1],"
    " float32[::1], float32[::1], int32[::1], int32, int32, float32, float32, float32,"
    " int64, float64, boolean, UniTuple(int32[::1], 3), boolean[::1], int32[::1], int32[::1],"
    " float64[::1])"
)
def grow(
    keys,  # (N,) in image order, at least 0, in the same order as the scores
    least_key,  # of a seed, at least
    places,  # (N,) a point's place in cell order
    scale_x,  # (N,) in image order
    scale_y,
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
    first_come,
    tree,  # scratch: (ceil(N / CHUNK),), (ceil(N / CHUNK^2),), (ceil(N / CHUNK^3),)
    free,  # scratch: (N,) in cell order; true: not in a proposal yet
    owner,  # out: (N,) in cell order, 1 + the point's accepted proposal
    accepted,  # out: (N,) seeds of the accepted proposals
    agreement,  # out: (N,) geometric mean of their members' phi
):
    """Run the published loop, where each proposal examines only the cells its ellipse touches.

    Returns the number of accepted proposals.
    """
    n_free = cell_starts[rows * columns]
    free[:n_free] = True
    free[n_free:] = False  # with a NaN
    owner[:] = 0
    n_accepted = 0
    _summarise(keys, tree[0])
    _summarise(tree[0], tree[1])
    _summarise(tree[1], tree[2])
    while n_free > min_pixels:
        seed = _next_seed(keys, free, places, least_key, tree)
        if seed < 0:
            break
        at = places[seed]
        free[at] = False
        n_free -= 1
        if np.isinf(scale_x[seed]) or np.isinf(scale_y[seed]):
            continue  # has no members: the distance is infinite, or NaN where it would be 0
        ellipse = (x[at], y[at], scale_x[seed], scale_y[seed], largest_distance)
        left, right = _span(x[at], ellipse[2], largest_distance, columns_per_unit, columns)
        top, bottom = _span(y[at], ellipse[3], largest_distance, rows_per_unit, rows)
        size = new = total = 0
        for row in range(top * columns, bottom * columns, columns):
            a, b = cell_starts[row + left], cell_starts[row + right]
            in_row = _take(x[a:b], y[a:b], free[a:b], ellipse)
            size += in_row[0]
            new += in_row[1]
            total += in_row[2]
        n_free -= new
        if not (size > min_pixels and new / size > min_new_fraction):
            continue
        accepted[n_accepted] = seed
        agreement[n_accepted] = np.exp(-total * DISTANCE_UNIT / size)
        n_accepted += 1
        for row in range(top * columns, bottom * columns, columns):
            a, b = cell_starts[row + left], cell_starts[row + right]
            _mark(x[a:b], y[a:b], owner[a:b], ellipse, n_accepted, first_come)
    return n_accepted
