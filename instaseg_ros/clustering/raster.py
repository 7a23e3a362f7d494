"""Merges the instances of all classes into one label image, in compiled loops.

An instance's rank is its place among all instances of the image, best seed first, from 1; 0: none.
Points are stored class by class and row by row: row y of class c begins at row_starts[c * H + y].
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
from __future__ import annotations

from instaseg_ros.numba_cache import kernel


@kernel(
    "void(int64[::1], int32[::1], int32[::1], int32[::1], uint16[:,::1], int64, int64,"
    " uint16[:,::1], uint16[::1], int64[::1])"
)
def paint(
    row_starts,  # (C * H + 1,)
    pixels,  # (N,)
    places,  # (N,) place of a point's owner, within its class
    owner,  # (N,)
    ranks,  # (C, max owner + 1)
    first_row,
    end_row,
    labels,  # out: (H, W)
    rank,  # out: (N,) rank of a point's instance
    claimed,  # (K + 1,) by rank: incremented by the points of these rows
):
    """Give each pixel of some rows to the best instance that claims it."""
    height, width = labels.shape
    flat = labels.reshape(-1)
    flat[first_row * width : end_row * width] = 0
    for c in range(ranks.shape[0]):
        start = row_starts[c * height]
        k, end = row_starts[c * height + first_row], row_starts[c * height + end_row]
        while k < end:
            first, current = k, owner[start + places[k]]
            own = ranks[c, current]
            while k < end and owner[start + places[k]] == current:
                rank[k] = own
                label = flat[pixels[k]]
                if label == 0 or 0 < own < label:
                    flat[pixels[k]] = own
                k += 1
            claimed[own] += k - first


@kernel(
    "void(int64[::1], int32[::1], uint16[::1], uint16[:,::1], int64, int64, int64,"
    " int64[::1], int64[:,::1])"
)
def measure(row_starts, pixels, rank, labels, n_classes, first_row, end_row, won, boxes):
    """Count the pixels (K + 1,) that each instance got in some rows, and extend its box (K + 1, 4)
    to them."""
    height, width = labels.shape
    flat = labels.reshape(-1)
    for c in range(n_classes):
        for y in range(first_row, end_row):
            k, end = row_starts[c * height + y], row_starts[c * height + y + 1]
            while k < end:
                own = rank[k]
                if own == 0 or flat[pixels[k]] != own:
                    k += 1
                    continue
                first = k
                while k < end and rank[k] == own and flat[pixels[k]] == own:
                    k += 1
                won[own] += k - first
                box = boxes[own]
                box[0] = min(box[0], pixels[first] - y * width)
                box[1] = min(box[1], y)
                box[2] = max(box[2], pixels[k - 1] - y * width + 1)
                box[3] = max(box[3], y + 1)


@kernel("void(int32[::1], uint16[::1], int64[::1], int32[::1], float64, uint16[:,::1])")
def paint_in_turn(pixels, rank, ends, members, min_new_fraction, labels):
    """Paint instances best first, each on the pixels that no better one has, if those are more than
    `min_new_fraction` of its own.

    ends: (K + 1,) by rank, where an instance's members end. members: scratch (N,).
    """
    flat = labels.reshape(-1)
    flat[:] = 0
    for k in range(rank.shape[0] - 1, -1, -1):
        ends[rank[k]] -= 1
        members[ends[rank[k]]] = pixels[k]
    for own in range(1, ends.shape[0]):  # the ends have become starts
        end = ends[own + 1] if own + 1 < ends.shape[0] else rank.shape[0]
        mine = members[ends[own] : end]
        new = 0
        for pixel in mine:
            new += flat[pixel] == 0
        if new > 0 and new / mine.shape[0] > min_new_fraction:
            for pixel in mine:
                if flat[pixel] == 0:
                    flat[pixel] = own


@kernel("void(uint16[:,::1], uint16[::1])")
def renumber(labels, numbers):
    """Replace each label by its new number, in place."""
    flat = labels.reshape(-1)
    for k in range(flat.shape[0]):
        flat[k] = numbers[flat[k]]
