"""Mean shift on a CPU, compiled; equals `mean_shift.reference`, label for label."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.clustering.ellipses.cpu import as_map
from instaseg_ros.clustering.mean_shift import cpu_kernels as kernels
from instaseg_ros.clustering.mean_shift.cpu_kernels import BLOCK
from instaseg_ros.numba_cache import compile_all
from instaseg_ros.threads import buffer, each, shares

if TYPE_CHECKING:
    from instaseg_ros.config.options.discriminative import DecodeConfig

BAND_ROWS = 64  # image rows that one thread processes at a time, at most

Float = NDArray[np.float32]


class Foreground(NamedTuple):
    """The N object pixels of an image, class by class, each in image order.

    starts: (C + 1,) int64, where each class begins. pixels: (N,) int32, row-major index. scores:
    (N,) float32, the probability of the class. points: (D, N) float32, the embedding, on the
    lattice.
    """

    starts: NDArray[np.int64]
    pixels: NDArray[np.int32]
    scores: Float
    points: Float


def foreground(semantic: Float, embedding: Float, threshold: float) -> Foreground:
    """Pixels whose most likely class is an object's, with a probability above the threshold.

    semantic: raw (C + 1, H, W), background first. embedding: (D, H, W).
    """
    compile_all()
    n_classes, height, width = semantic.shape
    semantic, embedding = (_with_whole_rows(array) for array in (semantic, embedding))
    classes = buffer("classes", np.uint16, height, width)
    score = buffer("class_score", np.float32, height, width)
    counts = np.empty((n_classes, height), np.int32)
    bands = shares(height, BAND_ROWS)
    first = *as_map(semantic), np.float32(threshold)
    each(lambda rows: kernels.find(*first, *rows, classes, score, counts), bands)
    counts[0] = 0
    starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    cursors = starts[:-1].reshape(n_classes, height).copy()
    found = Foreground(
        starts[height::height],
        np.empty(starts[-1], np.int32),
        np.empty(starts[-1], np.float32),
        np.empty((len(embedding), starts[-1]), np.float32),
    )
    second = classes, score, *as_map(embedding), cursors
    each(lambda rows: kernels.collect(*second, *rows, *found[1:]), bands)
    return found


def cluster(
    points: Float, scores: Float, bandwidth: float, reach: float, config: DecodeConfig
) -> tuple[NDArray[np.int32], Float]:
    """`reference.cluster` for points on the lattice: `owner` (N,) and `means` (K, D)."""
    compile_all()
    n_dims, n = points.shape
    n_blocks = -(-n // BLOCK)
    if not n:
        return np.zeros(0, np.int32), np.zeros((0, n_dims), np.float32)
    blocks = buffer("shift_blocks", np.float32, n_blocks, n_dims, BLOCK)
    keys = buffer("shift_keys", np.int64, n_blocks, BLOCK)
    boxes = buffer("shift_boxes", np.float32, n_blocks, 2, n_dims)
    slots = buffer("shift_slots", np.int32, n)
    owner = buffer("shift_owner", np.int32, n_blocks, BLOCK)
    means = buffer("shift_means", np.float32, n // (config.min_pixels + 1) + 1, n_dims)
    kernels.place(points, scores, np.float32(bandwidth / 2), blocks, keys, boxes, slots)
    count = kernels.grow(
        *(blocks, keys, boxes, np.float32(config.seed_threshold).view(np.int32)),
        *(np.float32(bandwidth**2), np.float32(reach**2)),
        *(config.min_pixels, config.min_new_fraction, owner, means),
    )
    return owner.ravel()[slots], means[:count].copy()


def _with_whole_rows(array: Float) -> Float:
    return array if array.strides[2] == array.itemsize else np.ascontiguousarray(array)
