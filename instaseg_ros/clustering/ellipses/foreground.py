"""Collects the foreground pixels of an image, class by class, in compiled loops."""

# mypy: allow-untyped-defs, allow-incomplete-defs
from __future__ import annotations

import numba

from instaseg_ros.numba_cache import kernel

CHUNK = 64  # pixels that are tested together


@kernel("void(float32[::1], int64, int64, int64, float32, int64, int64, int32[::1], int64[:,::1])")
def find(seed, plane, pitch, width, least_logit, first_row, end_row, found, row_counts):
    """Find the pixels of some rows that reach the logit in each class's seed map.

    seed: the value of pixel (x, y) for class c is at c * plane + y * pitch + x.
    found: out (C * H * W,), row-major indices; those of class c from (c * H + first_row) * W on.
    row_counts: out (C, H).
    """
    height = row_counts.shape[1]
    for c in range(row_counts.shape[0]):
        k = (c * height + first_row) * width
        for y in range(first_row, end_row):
            row = seed[c * plane + y * pitch : c * plane + y * pitch + width]
            row_start = k
            for left in range(0, width, CHUNK):
                chunk = row[left : left + CHUNK]
                pixel = y * width + left
                hits = 0
                for j in range(chunk.shape[0]):
                    hits += chunk[j] >= least_logit
                if hits == chunk.shape[0]:
                    for j in range(hits):
                        found[k + j] = pixel + j
                    k += hits
                elif hits > 0:
                    end, j = k + hits, 0
                    while k < end:
                        found[k] = pixel + j  # overwritten by the next one unless it is a hit
                        k += chunk[j] >= least_logit
                        j += 1
            row_counts[c, y] = k - row_start


@kernel(
    "void(float32[::1], UniTuple(int64, 3), float32[::1], UniTuple(int64, 3), float32[::1],"
    " UniTuple(int64, 3), int64, float32[::1], float32[::1], int64[::1], int64, int64,"
    " int32[::1], float32[:,::1], float32[:,::1], float32[::1], float32[:,::1], int64)"
)
def gather(
    offset,  # pixel (x, y) of channel c at c * plane + y * pitch + x * step
    offset_strides,  # plane, pitch, step
    bandwidth,
    bandwidth_strides,
    seed,
    seed_strides,
    class_id,
    lattice_x,  # (W,)
    lattice_y,  # (H,)
    row_starts,  # (H + 1,) of the class's points
    first,
    end,
    pixels,  # (N,) row-major index
    offsets,  # out: (2, N)
    bandwidths,  # out: (n_sigma, N)
    seeds,  # out: (N,)
    lattice,  # out: of points from `lattice_first` on
    lattice_first,
):
    """Collect the raw outputs of the points first to end, all of one class, run by run."""
    width = lattice_x.shape[0]
    y = pixels[first] // width
    while first < end:
        row_end = min(row_starts[y + 1], end)
        while first < row_end:
            k, ahead = first, pixels[first] - first
            if pixels[row_end - 1] - (row_end - 1) == ahead:  # the rest of the row is one run
                first = row_end
            while first < row_end and pixels[first] - first == ahead:
                first += 1
            x = pixels[k] - y * width
            for c in range(2):
                _copy(offset, offset_strides, c, y, x, offsets[c, k:first])
            for c in range(bandwidths.shape[0]):
                _copy(bandwidth, bandwidth_strides, c, y, x, bandwidths[c, k:first])
            _copy(seed, seed_strides, class_id, y, x, seeds[k:first])
            of_run = slice(k - lattice_first, first - lattice_first)
            lattice[0, of_run] = lattice_x[x : x + first - k]
            lattice[1, of_run] = lattice_y[y]
        y += 1


@numba.njit
def _copy(values, strides, c, y, x, out):
    """Copy n values, from c, y, x on in their row, to out (n,)."""
    plane, pitch, step = strides
    at = c * plane + y * pitch + x * step
    if step == 1:
        row = values[at : at + out.shape[0]]
        for k in range(out.shape[0]):
            out[k] = row[k]
    else:
        for k in range(out.shape[0]):
            out[k] = values[at + k * step]
