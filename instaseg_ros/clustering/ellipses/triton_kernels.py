"""Triton kernels of `triton_session`: sort points by cell, and grow them into instances.

The raw outputs are read in any float type and layout, and only the seed maps in full: a *point* is
a foreground pixel of one class, and the method's formulas apply to points only. Blocks of pixels
without points are skipped; *busy* marks the others.

Points are stored by the cell of a 64 x 128 grid in which their embedding lies, cell by cell along
each grid row, so that the cells an ellipse touches are a few contiguous ranges. Each grid row
begins at a multiple of RUN points; a *run* of RUN points is the unit of work, and the best free
point of each is known.

A point's *key* orders points as the loop takes them: the score's bits on top, the complement of the
pixel index below, so a greater key means a better score, then an earlier pixel. 0: no longer free.

Keep `enable_fp_fusion` off: then membership is decided in the float32 arithmetic of `reference`.

`*_b`, `_c`, `_y`, `_x`: strides, in values, of an output (B, c, H, W).
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, no-check-untyped-defs
from __future__ import annotations

import triton
import triton.language as tl

from instaseg_ros.clustering.ellipses import DISTANCE_UNIT

UNIT = tl.constexpr(DISTANCE_UNIT)
PER_UNIT = tl.constexpr(1 / DISTANCE_UNIT)  # a power of two: multiplying is exact, dividing is not


@triton.jit
def tanh(x):
    """tanh from exp, to a few units in the last place: Triton's interpreter has none."""
    size = tl.abs(x)
    large = 1.0 - 2.0 / (tl.exp(2.0 * size) + 1.0)
    square = x * x  # the polynomial is fitted to tanh on [0, 0.6]
    series = 0.02079457975924015 + square * -0.0058938972651958466
    series = 0.13331915438175201 + square * (-0.05378328263759613 + square * series)
    small = x + x * (square * (-0.33333298563957214 + square * series))
    return tl.where(size < 0.6, small, tl.where(x < 0.0, -large, large))


@triton.jit
def inverse_bandwidth(raw, gain):
    return tl.exp((raw * gain).to(tl.float64)).to(tl.float32)


@triton.jit
def seed_score(raw):
    """In float64, as in `spatial_embedding.seed_score`: equal outputs tie on CPU and GPU alike."""
    return (1.0 / (1.0 + tl.exp(-raw.to(tl.float64)))).to(tl.float32)


@triton.jit
def _raw(output, mask):
    """Values of an output, in float32; NaN where masked out."""
    return tl.load(output, mask=mask, other=float("nan")).to(tl.float32)


@triton.jit
def _n_classes_at(seed, seed_c, inside, n_classes, least_logit):
    """The number of classes of which each pixel is a point. seed: where its raw outputs begin."""
    n = tl.zeros(inside.shape, tl.int32)
    for class_id in range(n_classes):
        n += (_raw(seed + class_id * seed_c, inside) >= least_logit).to(tl.int32)
    return n


@triton.jit
def _embedded(
    offset, offset_c, bandwidth, bandwidth_c, lattice_x, lattice_y, mask, SIGMA: tl.constexpr
):
    """Whether pixels may be points (no output is NaN), and x and y of their embeddings.

    All arguments except the strides point at the pixels' own values.
    """
    x = tanh(_raw(offset, mask)) + tl.load(lattice_x, mask=mask, other=0.0)
    y = tanh(_raw(offset + offset_c, mask)) + tl.load(lattice_y, mask=mask, other=0.0)
    first = _raw(bandwidth, mask)
    last = _raw(bandwidth + (SIGMA - 1) * bandwidth_c, mask)
    usable = mask & (x == x) & (y == y) & (first == first) & (last == last)
    return usable, x, y


@triton.jit
def _ellipse(
    offset, offset_c, bandwidth, bandwidth_c, lattice_x, lattice_y, gain, mask,
    SIGMA: tl.constexpr,
):  # fmt: skip
    """Centre x, y and inverse bandwidth along x, y of seeds; arguments as for `_embedded`."""
    _, x, y = _embedded(offset, offset_c, bandwidth, bandwidth_c, lattice_x, lattice_y, mask, SIGMA)
    scale_x = inverse_bandwidth(_raw(bandwidth, mask), gain)
    scale_y = inverse_bandwidth(_raw(bandwidth + (SIGMA - 1) * bandwidth_c, mask), gain)
    return x, y, scale_x, scale_y


@triton.jit
def _cell(value, per_unit, cells: tl.constexpr):
    """The cell of a coordinate, monotone in it; outside values belong to the border cells."""
    at = value * per_unit
    at = tl.where(at > 0.0, at, 0.0)  # NaN too
    return tl.where(at < cells - 1.0, at, cells - 1.0).to(tl.int32)


@triton.jit
def _distance(x, y, center_x, center_y, scale_x, scale_y):
    dx = x - center_x
    dy = y - center_y
    return dx * dx * scale_x + dy * dy * scale_y


@triton.jit
def count(
    offset, offset_b, offset_c, offset_y, offset_x,  # (B, 2, H, W) raw
    bandwidth, bandwidth_b, bandwidth_c, bandwidth_y, bandwidth_x,  # (B, SIGMA, H, W) raw
    seed, seed_b, seed_c, seed_y, seed_x,  # (B, C, H, W) raw
    lattice_x,  # (W,) float32
    lattice_y,  # (H,) float32
    busy,  # out: (B, P / BLOCK) int32, whether each block of pixels has points
    counts,  # (B, C, ROWS * COLUMNS) int32, initially 0: out: the points of each cell
    n_pixels, width, n_classes, least_logit, columns_per_unit, rows_per_unit,
    SIGMA: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    image = tl.program_id(1).to(tl.int64)
    inside = at < n_pixels
    row = at // width
    column = at % width
    offset += image * offset_b + row * offset_y + column * offset_x
    bandwidth += image * bandwidth_b + row * bandwidth_y + column * bandwidth_x
    seed += image * seed_b + row * seed_y + column * seed_x
    n = _n_classes_at(seed, seed_c, inside, n_classes, least_logit)
    most = tl.max(n)
    tl.store(busy + image * tl.num_programs(0) + tl.program_id(0), most)
    if most > 0:
        usable, x, y = _embedded(
            offset,
            offset_c,
            bandwidth,
            bandwidth_c,
            lattice_x + column,
            lattice_y + row,
            n > 0,
            SIGMA,
        )
        cell = _cell(y, rows_per_unit, ROWS) * COLUMNS + _cell(x, columns_per_unit, COLUMNS)
        for class_id in range(n_classes):
            is_point = usable & (_raw(seed + class_id * seed_c, inside) >= least_logit)
            own = counts + (image * n_classes + class_id) * ROWS * COLUMNS
            tl.atomic_add(own + cell, 1, mask=is_point, sem="relaxed")


@triton.jit
def scan(
    counts,
    starts,  # out: (B, C, ROWS * COLUMNS) int32, where each cell begins
    row_ends,  # out: (B, C, ROWS) int32, where the points of a grid row end
    class_ends,  # out: (B, C) int32, where the runs of a class end
    keys,  # (B, capacity) int64: set to 0 in the gaps between grid rows
    xs,  # (B, capacity) float32: set to NaN there, which is in no ellipse
    n_classes, capacity,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, RUN: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(0).to(tl.int64)
    row = tl.arange(0, ROWS)
    cells = row[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    base = 0
    for class_id in range(n_classes):
        own = (image * n_classes + class_id) * ROWS
        n = tl.load(counts + own * COLUMNS + cells)
        in_row = tl.sum(n, 1)
        padded = (in_row + RUN - 1) // RUN * RUN
        row_start = base + tl.cumsum(padded, 0) - padded
        tl.store(starts + own * COLUMNS + cells, row_start[:, None] + tl.cumsum(n, 1) - n)
        tl.store(row_ends + own + row, row_start + in_row)
        gap = (row_start + in_row)[:, None] + tl.arange(0, RUN)[None, :]
        is_gap = (gap < (row_start + padded)[:, None]) & (gap < capacity)
        tl.store(keys + image * capacity + gap, tl.zeros_like(gap).to(tl.int64), mask=is_gap)
        tl.store(xs + image * capacity + gap, gap.to(tl.float32) + float("nan"), mask=is_gap)
        base += tl.sum(padded)
        tl.store(class_ends + image * n_classes + class_id, base)


@triton.jit
def place(
    offset, offset_b, offset_c, offset_y, offset_x,
    bandwidth, bandwidth_b, bandwidth_c, bandwidth_y, bandwidth_x,
    seed, seed_b, seed_c, seed_y, seed_x,
    lattice_x, lattice_y, busy,
    counts,  # places left in each cell; counted down to 0
    starts,
    keys, xs, ys,  # out: (B, capacity)
    n_pixels, width, n_classes, least_logit, columns_per_unit, rows_per_unit, capacity,
    SIGMA: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Put points into their cells. Their order within a cell is arbitrary and does not matter."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    image = tl.program_id(1).to(tl.int64)
    inside = at < n_pixels
    row = at // width
    column = at % width
    offset += image * offset_b + row * offset_y + column * offset_x
    bandwidth += image * bandwidth_b + row * bandwidth_y + column * bandwidth_x
    seed += image * seed_b + row * seed_y + column * seed_x
    if tl.load(busy + image * tl.num_programs(0) + tl.program_id(0)) > 0:
        n = _n_classes_at(seed, seed_c, inside, n_classes, least_logit)
        usable, x, y = _embedded(
            offset,
            offset_c,
            bandwidth,
            bandwidth_c,
            lattice_x + column,
            lattice_y + row,
            n > 0,
            SIGMA,
        )
        cell = _cell(y, rows_per_unit, ROWS) * COLUMNS + _cell(x, columns_per_unit, COLUMNS)
        for class_id in range(n_classes):
            raw = _raw(seed + class_id * seed_c, inside)
            is_point = usable & (raw >= least_logit)
            if tl.max(is_point.to(tl.int32)) > 0:
                own = (image * n_classes + class_id) * ROWS * COLUMNS
                left = tl.atomic_add(counts + own + cell, -1, mask=is_point, sem="relaxed")
                position = tl.load(starts + own + cell, mask=is_point, other=0) + left - 1
                fits = is_point & (position < capacity)
                score = seed_score(raw).to(tl.int32, bitcast=True).to(tl.int64)
                key = (score << 32) | (0xFFFFFFFF - at.to(tl.int64))
                tl.store(keys + image * capacity + position, key, mask=fits)
                tl.store(xs + image * capacity + position, x, mask=fits)
                tl.store(ys + image * capacity + position, y, mask=fits)


@triton.jit
def crown(
    keys,
    class_ends,
    best,  # out: (B, capacity / RUN) int64, the greatest key of each run
    n_classes, capacity, RUN: tl.constexpr, RUNS: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(1).to(tl.int64)
    end = tl.minimum(tl.load(class_ends + image * n_classes + n_classes - 1), capacity) // RUN
    run = tl.program_id(0) * RUNS + tl.arange(0, RUNS)
    at = run[:, None] * RUN + tl.arange(0, RUN)[None, :]
    key = tl.load(keys + image * capacity + at, mask=run[:, None] < end, other=0)
    tl.store(best + image * (capacity // RUN) + run, tl.max(key, 1), mask=run < end)


@triton.jit
def _best_key(best, first, end, RUNS: tl.constexpr):
    greatest = tl.zeros([RUNS], tl.int64)
    for run in range(first, end, RUNS):
        at = run + tl.arange(0, RUNS)
        greatest = tl.maximum(greatest, tl.load(best + at, mask=at < end, other=0))
    return tl.max(greatest, 0)


@triton.jit(do_not_specialize=["min_pixels"])
def grow(
    offset, offset_b, offset_c, offset_y, offset_x,
    bandwidth, bandwidth_b, bandwidth_c, bandwidth_y, bandwidth_x,
    lattice_x, lattice_y, starts, row_ends, class_ends,
    keys,  # of the free points; set to 0 for members of a proposal
    xs, ys, best,
    accepted,  # out: (B, C, SLOTS) int64, keys of accepted seeds
    scores,  # out: (B, C, SLOTS) float32, scores of their instances
    n_accepted,  # out: (B, C) int32, may exceed SLOTS
    min_new_fraction,  # (1,) float64
    width, n_classes, capacity, gain, least_score, min_pixels, largest_distance,
    columns_per_unit, rows_per_unit,
    SIGMA: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, RUN: tl.constexpr,
    RUNS: tl.constexpr, BESTS: tl.constexpr, SLOTS: tl.constexpr, AGREEMENT: tl.constexpr,
):  # fmt: skip
    """Run the published loop, one program for each class of each image.

    A step takes the best free point, examines the runs that its ellipse touches, and updates the
    best points of these runs; so its cost does not depend on the number of pixels elsewhere.
    """
    class_id = tl.program_id(0)
    image = tl.program_id(1).to(tl.int64)
    own = image * n_classes + class_id
    offset += image * offset_b
    bandwidth += image * bandwidth_b
    keys += image * capacity
    xs += image * capacity
    ys += image * capacity
    best += image * (capacity // RUN)
    starts += own * ROWS * COLUMNS
    row = tl.arange(0, ROWS)
    ends = tl.load(row_ends + own * ROWS + row)
    n_free = tl.sum(ends - tl.load(starts + row * COLUMNS))
    first_run = tl.load(starts) // RUN
    end_run = tl.load(class_ends + own) // RUN
    if end_run * RUN > capacity:  # the host will see it and use the CPU
        n_free = 0
        end_run = first_run
    fraction = tl.load(min_new_fraction)
    least_key = tl.cast(least_score, tl.float32).to(tl.int32, bitcast=True).to(tl.int64) << 32
    n = 0
    seed = _best_key(best, first_run, end_run, BESTS)
    while (n_free > min_pixels) & (seed >= least_key):
        pixel = (0xFFFFFFFF - (seed & 0xFFFFFFFF)).to(tl.int32)
        y_px = pixel // width
        x_px = pixel % width
        center_x, center_y, scale_x, scale_y = _ellipse(
            offset + y_px * offset_y + x_px * offset_x, offset_c,
            bandwidth + y_px * bandwidth_y + x_px * bandwidth_x, bandwidth_c,
            lattice_x + x_px, lattice_y + y_px, gain, pixel >= 0, SIGMA,
        )  # fmt: skip
        # Slightly wider, so that rounding loses no member.
        reach_x = tl.sqrt(largest_distance / scale_x) * 1.001
        reach_y = tl.sqrt(largest_distance / scale_y) * 1.001
        left = _cell(center_x - reach_x, columns_per_unit, COLUMNS)
        right = _cell(center_x + reach_x, columns_per_unit, COLUMNS) + 1
        top = _cell(center_y - reach_y, rows_per_unit, ROWS)
        bottom = _cell(center_y + reach_y, rows_per_unit, ROWS) + 1

        # The runs of all touched grid rows, in turn.
        touched = (row >= top) & (row < bottom)
        a = tl.load(starts + row * COLUMNS + left, mask=touched, other=0)
        end = tl.where(touched, right, COLUMNS)
        b = tl.load(starts + row * COLUMNS + end, mask=end < COLUMNS, other=0)
        b = tl.where(touched & (end == COLUMNS), ends, b)
        first = a // RUN
        runs = tl.where(b > a, (b + RUN - 1) // RUN - first, 0)
        after = tl.cumsum(runs, 0)
        size = 0
        new = 0
        total = tl.zeros([], tl.int64)
        for start in range(0, tl.sum(runs), RUNS):
            number = start + tl.arange(0, RUNS)
            in_row = (number[:, None] >= (after - runs)[None, :]) & (
                number[:, None] < after[None, :]
            )
            run = tl.sum(tl.where(in_row, (first + runs - after)[None, :] + number[:, None], 0), 1)
            valid = tl.sum(in_row.to(tl.int32), 1) > 0
            at = run[:, None] * RUN + tl.arange(0, RUN)[None, :]
            x = tl.load(xs + at, mask=valid[:, None], other=float("nan"))
            y = tl.load(ys + at, mask=valid[:, None], other=float("nan"))
            key = tl.load(keys + at, mask=valid[:, None], other=0)
            distance = _distance(x, y, center_x, center_y, scale_x, scale_y)
            member = distance <= largest_distance
            key = tl.where(key == seed, 0, key)  # does not count as a new pixel
            size += tl.sum(member.to(tl.int32))
            units = tl.where(member, distance, 0.0) * PER_UNIT
            total += tl.sum(units.to(tl.int64))
            new += tl.sum((member & (key != 0)).to(tl.int32))
            key = tl.where(member, 0, key)
            tl.store(keys + at, key, mask=valid[:, None])
            tl.store(best + run, tl.max(key, 1), mask=valid)
        n_free -= 1 + new
        share = tl.cast(new, tl.float64) / tl.maximum(size, 1).to(tl.float64)
        if (size > min_pixels) & (share > fraction):
            score = (seed >> 32).to(tl.int32).to(tl.float32, bitcast=True)
            if AGREEMENT:
                score = (score * tl.exp(-total.to(tl.float64) * UNIT / size)).to(tl.float32)
            tl.store(accepted + own * SLOTS + n, seed, mask=n < SLOTS)
            tl.store(scores + own * SLOTS + n, score, mask=n < SLOTS)
            n += 1
        tl.debug_barrier()  # all threads have stored what all are about to load
        seed = _best_key(best, first_run, end_run, BESTS)
    tl.store(n_accepted + own, n)
