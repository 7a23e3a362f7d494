"""Groups pixels whose embeddings lie in the ellipse around a seed (Neven et al. 2019).

`reference` states the published loop in plain torch, and the others are tested against it; `cpu` is
the default on a CPU, `gpu` on a GPU. All return `Groups`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MEMBERSHIP = 0.5  # a pixel belongs to an instance if its phi is above this
DISTANCE_UNIT = 2.0**-20  # distances are summed as multiples of it, so that order does not matter


class Groups(NamedTuple):
    """The instances of one image in the order in which they took their pixels: best seed score
    first, ties in order of class, then of seed.

    labels: (H, W) uint16; 0 = background, k = instance k of the arrays, counted from 1.
    class_ids: (K,) int64.
    scores: (K,) float32 in [0, 1], the seed's score; with `agreement` (ours) times the geometric
        mean of phi over all members of the instance, including those that others took.
    boxes_xyxy: (K, 4) float32, pixels of the label image; right and lower edges exclusive.
    centers: (K, 2) float32, the seed's embedding, x and y, in embedding units.
    scales: (K, 2) float32, the seed's inverse bandwidth along x and y.
    """

    labels: NDArray[np.uint16]
    class_ids: NDArray[np.int64]
    scores: NDArray[np.float32]
    boxes_xyxy: NDArray[np.float32]
    centers: NDArray[np.float32]
    scales: NDArray[np.float32]
