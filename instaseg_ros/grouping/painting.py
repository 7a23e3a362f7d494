"""Compiled loops that put the instances of all classes into one label image.

An instance's rank is its place among all of the image, best score first, from 1; 0: none.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
from __future__ import annotations

from instaseg_ros.grouping.compiled import kernel


@kernel(
    "void(int32[::1], float32[::1], int32[::1], uint16[::1], boolean, float32[::1], uint16[::1])"
)
def paint(pixels, score, owner, ranks, contested, best, labels):
    """Write one class into the label image (H * W,); on a pixel that an earlier class has, only a
    higher score wins. `best` (H * W,) holds the scores of what is painted, if `contested`."""
    for k in range(pixels.shape[0]):
        rank = ranks[owner[k]]
        if rank == 0:
            continue
        pixel = pixels[k]
        if contested:
            if labels[pixel] != 0 and not score[k] > best[pixel]:
                continue
            best[pixel] = score[k]
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
