"""Compiled loops that put the instances of all classes into one label image.

An instance's rank is its place among all of the image, best score first, from 1; 0: none.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
from __future__ import annotations

from instaseg_ros.grouping.compiled import kernel


@kernel("void(int32[::1], uint16[::1], int64[::1])")
def count_members(owner, ranks, sizes):
    """Add a class's pixels to the sizes (K + 1,) of their instances, indexed by rank."""
    for k in range(owner.shape[0]):
        sizes[ranks[owner[k]]] += 1


@kernel("void(int32[::1], int32[::1], uint16[::1], int64[::1], int32[::1])")
def place_members(pixels, owner, ranks, places, members):
    """Write a class's pixels into `members`, each to the next place (K + 1,) of its instance."""
    for k in range(pixels.shape[0]):
        rank = ranks[owner[k]]
        members[places[rank]] = pixels[k]
        places[rank] += 1


@kernel("void(int32[::1], int64[::1], float64, uint16[::1])")
def paint(members, ends, min_new_fraction, labels):
    """Best instance first, each on the pixels that no better one has, if those are more than
    `min_new_fraction` of its own. labels: (H * W,); ends: (K + 1,) of its members, by rank."""
    for rank in range(1, ends.shape[0]):
        own = members[ends[rank - 1] : ends[rank]]
        new = 0
        for pixel in own:
            new += labels[pixel] == 0
        if new > 0 and new / own.shape[0] > min_new_fraction:
            for pixel in own:
                if labels[pixel] == 0:
                    labels[pixel] = rank


@kernel("void(int64[::1], int64, int32[::1], int32[::1], uint16[::1], uint16[::1], int64[:,::1])")
def measure(row_starts, width, pixels, owner, ranks, labels, boxes):
    """Widen boxes (K + 1, 4), indexed by rank, to the pixels that one class kept in the end."""
    for y in range(row_starts.shape[0] - 1):
        k, end = row_starts[y], row_starts[y + 1]
        while k < end:
            rank = ranks[owner[k]]
            if rank == 0 or labels[pixels[k]] != rank:
                k += 1
                continue
            first = pixels[k] - y * width
            while k < end and ranks[owner[k]] == rank and labels[pixels[k]] == rank:
                k += 1
            box = boxes[rank]
            box[0] = min(box[0], first)
            box[1] = min(box[1], y)
            box[2] = max(box[2], pixels[k - 1] - y * width + 1)
            box[3] = max(box[3], y + 1)


@kernel("void(uint16[::1], uint16[::1])")
def renumber(labels, numbers):
    """Replace each label by its new number, in place."""
    for k in range(labels.shape[0]):
        labels[k] = numbers[labels[k]]
