"""Finds where instances are in space, from the label image and depth.

A mask's edge lies partly on what is behind or in front of the object, and depth is smeared there.
So depth and centroid come from the pixels well inside the mask. The depth is their median, and
those count whose depth is near it: within `SPREAD` times the median deviation, as inverse depth, in
which planes are linear and a stereo camera's noise is even; and in any case within the size that
the object covers, as objects are about as deep as they are large; and whatever goes on from there
without a gap, such as the side of a lorry. The box is around all pixels of the mask whose depth
counts.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.frames import Instances, Locations
from instaseg_ros.numba_cache import compile_all, kernel

SPREAD = 5.0  # times the median deviation, which is 0.67 of normal noise's standard deviation
MARGIN_PX = 2  # between the pixels well inside a mask and its edge
LEAST_INSIDE = 0.25  # of an instance's pixels; with fewer inside, the margin is smaller
BOX_SHARE = 0.98  # of the visible points along each axis that are inside the box

# Depths are counted in bins that double 14 times from 1/16 m on, 128 in each octave: the upper bits
# of a float32.
_SHIFT = 16
NEAREST_M, FARTHEST_M = 1 / 16, 1000.0
_FIRST = int(np.float32(NEAREST_M).view(np.int32)) >> _SHIFT
_BINS = 14 * 128
_EDGES = np.array((np.arange(_BINS + 1) + _FIRST) << _SHIFT, np.int32).view(np.float32)
MOST_PIXELS = 1024  # of an instance that are looked at, evenly spread
GAP = 4  # bins without a pixel, 2 % of the distance: what lies beyond is something else
_CELLS = 128  # of each axis' histogram, for the box


def locate(
    instances: Instances,
    depth: NDArray[np.float32],
    rays: NDArray[np.float32],
    min_pixels: int = 20,
) -> Locations:
    """Where the instances are. Those with fewer than `min_pixels` pixels of known depth are left
    out.

    depth: (H, W) float32, metres along the optical axis, 0 where unknown; less than 1/16 m or more
    than 1 km counts as unknown. rays: (H, W, 2) float32,
    x / z and y / z of what each pixel sees (`rays.sight`).
    """
    compile_all()
    labels = np.require(instances.labels, np.uint16, ["C", "W"])  # as the kernels are declared
    depth = np.require(depth, np.float32, ["C", "W"])
    count = len(instances)
    row_of = np.full(1 << 16, -1, np.int32)
    row_of[instances.ids] = np.arange(count)
    ends = np.zeros(count, np.int64)
    _count(labels, depth, row_of, ends)
    known = ends.copy()
    np.cumsum(ends, out=ends)
    pixels = np.empty(int(known.sum()), np.int32)
    _sort(labels, depth, row_of, ends, pixels)
    used = np.zeros(count, np.int64)
    medians, ranges = np.zeros(count), np.zeros((count, 2))
    means, spreads, boxes = np.zeros((count, 3)), np.zeros((count, 3, 3)), np.zeros((count, 2, 3))
    area = _pixel_area(rays)
    _measure(
        labels, depth, rays, pixels, ends, known, max(min_pixels, 1), area, _EDGES,
        used, medians, ranges, means, spreads, boxes,
    )  # fmt: skip
    kept = used >= max(min_pixels, 1)
    return Locations(
        ids=instances.ids[kept],
        rows=np.flatnonzero(kept),
        distances_m=medians[kept].astype(np.float32),
        centroids=means[kept],
        covariances=spreads[kept],
        box_centers=boxes[kept].mean(1),
        box_sizes=boxes[kept, 1] - boxes[kept, 0],
        ranges_m=ranges[kept],
        depth_pixels=used[kept],
    )


def object_points(
    instances: Instances,
    locations: Locations,
    depth: NDArray[np.float32],
    rays: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
    """The visible points of the located instances, (N, 3) metres in the camera's optical frame, and
    the id (N,) of the instance of each; row by row of the image."""
    ranges = np.zeros((1 << 16, 2), np.float32)
    ranges[locations.ids] = locations.ranges_m
    y, x = np.nonzero(instances.labels)
    ids, z = instances.labels[y, x], depth[y, x]
    near, far = ranges[ids].T
    counts = (z > 0) & (near <= z) & (z <= far)  # background has no range
    y, x, z = y[counts], x[counts], z[counts]
    points = np.column_stack([rays[y, x] * z[:, None], z])
    return points.astype(np.float32, copy=False), ids[counts]


def _pixel_area(rays: NDArray[np.float32]) -> float:
    """Mean area that a pixel covers at 1 m, in square metres."""
    height, width = rays.shape[:2]
    across, down = rays[-1, -1].astype(float) - rays[0, 0]
    return abs(across * down) / max(1, (width - 1) * (height - 1))


@kernel("void(uint16[:,::1], float32[:,::1], int32[::1], int64[::1])")
def _count(labels, depth, row_of, counts):
    """Count the pixels of known depth of each instance."""
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            label = labels[y, x]
            if label and NEAREST_M < depth[y, x] < FARTHEST_M and row_of[label] >= 0:
                counts[row_of[label]] += 1


@kernel("void(uint16[:,::1], float32[:,::1], int32[::1], int64[::1], int32[::1])")
def _sort(labels, depth, row_of, ends, pixels):
    """Write the numbers of these pixels, instance by instance, from each one's end back to its
    start, which `ends` holds afterwards."""
    width = labels.shape[1]
    for y in range(labels.shape[0] - 1, -1, -1):
        for x in range(width - 1, -1, -1):
            label = labels[y, x]
            if label and NEAREST_M < depth[y, x] < FARTHEST_M and row_of[label] >= 0:
                row = row_of[label]
                ends[row] -= 1
                pixels[ends[row]] = y * width + x


@kernel("boolean(uint16[::1], int64, int64, int64)")
def _is_inside(labels, width, pixel, margin):
    """Whether the next `margin` pixels to the left, right, above and below have the pixel's label.
    Beside the image's sides are the ends of the next rows, which seldom have."""
    own, last = labels[pixel], labels.shape[0] - 1
    for k in range(1, margin + 1):
        if not (
            labels[max(pixel - k * width, 0)] == own
            and labels[min(pixel + k * width, last)] == own
            and labels[max(pixel - k, 0)] == own
            and labels[min(pixel + k, last)] == own
        ):
            return False
    return True


@kernel("int64(uint16[::1], int64, int32[::1])")
def _inside_first(labels, width, pixels):
    """Move an instance's pixels well inside its mask to the front, and return their number."""
    for margin in range(MARGIN_PX, 0, -1):
        inside = 0
        for k in range(pixels.shape[0]):
            if _is_inside(labels, width, pixels[k], margin):
                pixels[inside], pixels[k] = pixels[k], pixels[inside]
                inside += 1
        if inside >= LEAST_INSIDE * pixels.shape[0]:
            return inside
    return pixels.shape[0]


@kernel("int64(int64[::1], float64)")
def _bin_at(counts, wanted):
    """The bin in which the cumulated counts reach `wanted`."""
    total = 0
    for k in range(counts.shape[0]):
        total += counts[k]
        if total >= wanted:
            return k
    return counts.shape[0] - 1


@kernel("float64(int64[::1], float64, float64, float64)")
def _quantile(counts, share, low, cell):
    """The value below which a share of the counts lies; bins begin at `low` and are `cell` wide."""
    wanted = share * counts.sum()
    k = _bin_at(counts, wanted)
    before = counts[:k].sum()
    return low + cell * (k + (wanted - before) / max(counts[k], 1))


@kernel("float64(int64[::1], int64, float32[::1], float64)")
def _deviation(counts, middle, edges, wanted):
    """How far from the middle bin, in inverse depth, the nearest `wanted` counts reach."""
    centre = 1 / (0.5 * (edges[middle] + edges[middle + 1]))
    low, high, total = middle, middle, counts[middle]
    reach = max(centre - 1 / edges[middle + 1], 1 / edges[middle] - centre) / 2
    while total < wanted and (low > 0 or high < counts.shape[0] - 1):
        nearer = 1 / edges[low] - centre if low > 0 else np.inf
        farther = centre - 1 / edges[high + 1] if high < counts.shape[0] - 1 else np.inf
        if nearer < farther:
            low -= 1
            total += counts[low]
            reach = 1 / (0.5 * (edges[low] + edges[low + 1])) - centre
        else:
            high += 1
            total += counts[high]
            reach = centre - 1 / (0.5 * (edges[high] + edges[high + 1]))
    return reach


@kernel("void(float32[::1], int32[::1], float32[::1], float64, int64[::1], float64[::1])")
def _depths(depth, pixels, edges, size_px, counts, found):
    """Find the median depth of some pixels, and the nearest and farthest that count as the
    object's, which is as large as `size_px` at 1 m (found (3,)). counts: scratch (bins,)."""
    first, last = edges.view(np.int32)[0] >> _SHIFT, counts.shape[0] - 1
    bits = depth.view(np.int32)
    counts[:] = 0
    for pixel in pixels:
        counts[min(max((bits[pixel] >> _SHIFT) - first, 0), last)] += 1
    half = 0.5 * pixels.shape[0]
    middle = _bin_at(counts, half)
    total = 0.0
    for pixel in pixels:
        if (bits[pixel] >> _SHIFT) - first == middle:
            total += depth[pixel]
    median = total / counts[middle]
    reach = SPREAD * _deviation(counts, middle, edges, half)
    size = median * size_px
    found[0] = median
    found[1] = min(1 / (1 / median + reach), median - size)
    found[2] = max(1 / max(1 / median - reach, 1e-6), median + size)
    for side in (-1, 1):
        gap, k = 0, middle
        while gap < GAP and 0 <= k <= last:
            gap = 0 if counts[k] else gap + 1
            if not gap:
                found[1], found[2] = min(found[1], edges[k]), max(found[2], edges[k + 1])
            k += side


@kernel("void(float32[:,::1], int64, int64[:,::1], float64[::1], float64[:,::1], float64[:,::1])")
def _describe(points, inside, cells, mean, spread, box):
    """Mean (3,) of the first `inside` of the points (N, 3), covariance (3, 3) of all, and the lower
    and upper corner (2, 3) of the box around BOX_SHARE of them along each axis.

    cells: scratch (3, bins).
    """
    n, last = points.shape[0], cells.shape[1] - 1
    x0, y0, z0 = points[0, 0], points[0, 1], points[0, 2]
    sx = sy = sz = xx = xy = xz = yy = yz = zz = 0.0
    low_x = high_x = low_y = high_y = low_z = high_z = 0.0
    for k in range(n):
        x, y, z = points[k, 0] - x0, points[k, 1] - y0, points[k, 2] - z0
        sx, sy, sz = sx + x, sy + y, sz + z
        xx, xy, xz = xx + x * x, xy + x * y, xz + x * z
        yy, yz, zz = yy + y * y, yz + y * z, zz + z * z
        low_x, high_x = min(low_x, x), max(high_x, x)
        low_y, high_y = min(low_y, y), max(high_y, y)
        low_z, high_z = min(low_z, z), max(high_z, z)
        if k == inside - 1:
            mean[0], mean[1], mean[2] = x0 + sx / inside, y0 + sy / inside, z0 + sz / inside
    sx, sy, sz = sx / n, sy / n, sz / n
    spread[0, 0], spread[1, 1], spread[2, 2] = xx / n - sx * sx, yy / n - sy * sy, zz / n - sz * sz
    spread[0, 1] = spread[1, 0] = xy / n - sx * sy
    spread[0, 2] = spread[2, 0] = xz / n - sx * sz
    spread[1, 2] = spread[2, 1] = yz / n - sy * sz
    cell_x = max((high_x - low_x) / cells.shape[1], 1e-6)
    cell_y = max((high_y - low_y) / cells.shape[1], 1e-6)
    cell_z = max((high_z - low_z) / cells.shape[1], 1e-6)
    low_x, low_y, low_z = low_x + x0, low_y + y0, low_z + z0
    cells[:] = 0
    for k in range(n):
        cells[0, min(max(int((points[k, 0] - low_x) / cell_x), 0), last)] += 1
        cells[1, min(max(int((points[k, 1] - low_y) / cell_y), 0), last)] += 1
        cells[2, min(max(int((points[k, 2] - low_z) / cell_z), 0), last)] += 1
    for side in range(2):
        share = 0.5 * (1 - BOX_SHARE) if side == 0 else 0.5 * (1 + BOX_SHARE)
        box[side, 0] = _quantile(cells[0], share, low_x, cell_x)
        box[side, 1] = _quantile(cells[1], share, low_y, cell_y)
        box[side, 2] = _quantile(cells[2], share, low_z, cell_z)


@kernel(
    "void(uint16[:,::1], float32[:,::1], float32[:,:,::1], int32[::1], int64[::1],"
    " int64[::1], int64, float64, float32[::1], int64[::1], float64[::1], float64[:,::1],"
    " float64[:,::1], float64[:,:,::1], float64[:,:,::1])"
)
def _measure(
    labels, depth, rays, pixels, starts, known, min_pixels, pixel_area,
    edges, used, medians, ranges, means, spreads, boxes,
):  # fmt: skip
    """Measure each instance of at least `min_pixels` pixels of known depth, by MOST_PIXELS of
    them."""
    names, values, sight = labels.reshape(-1), depth.reshape(-1), rays.reshape(-1, 2)
    chosen, points = np.empty(MOST_PIXELS, np.int32), np.empty((MOST_PIXELS, 3), np.float32)
    counts, cells = np.empty(_BINS, np.int64), np.empty((3, _CELLS), np.int64)
    found = np.empty(3)
    for row in range(known.shape[0]):
        if known[row] < min_pixels:
            continue
        taken = min(known[row], MOST_PIXELS)
        for k in range(taken):
            chosen[k] = pixels[starts[row] + k * known[row] // taken]
        some = chosen[:taken]
        inside = _inside_first(names, labels.shape[1], some)
        size_px = np.sqrt(known[row] * pixel_area)
        _depths(values, some[:inside], edges, size_px, counts, found)
        medians[row], ranges[row, 0], ranges[row, 1] = found[0], found[1], found[2]
        n = n_inside = 0
        for k in range(taken):
            pixel = some[k]
            z = values[pixel]
            if found[1] <= z <= found[2]:
                points[n, 0], points[n, 1], points[n, 2] = (
                    sight[pixel, 0] * z,
                    sight[pixel, 1] * z,
                    z,
                )
                n += 1
            if k < inside:
                n_inside = n
        used[row] = n * known[row] // taken
        if used[row] >= min_pixels:
            _describe(points[:n], n_inside, cells, means[row], spreads[row], boxes[row])
