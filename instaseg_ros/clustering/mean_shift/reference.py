"""States mean shift over embeddings in plain torch, for any device; tests compare with it.

The rules are those of De Brabandere et al.'s clusterer, with our choices where theirs leave
something to chance or taste:

- A cluster starts at the most certain free pixel, the first in the image on ties, while that is
  certain enough. (Theirs: at a random one.)
- The mean of the free pixels within the bandwidth of the start is taken, then of those around that
  mean and so on, until it moves by at most TOLERANCE or after ITERATIONS.
- The cluster is the pixels within the bandwidth of the last mean, including taken ones. It is kept,
  and gets its free pixels, if these are more than `min_pixels` and more than `min_new_fraction` of
  it. All its pixels and the start are then taken, whether it is kept or not.
- The search ends after FAILURES rejected clusters in a row. (Theirs: in all; but a busy scene has
  as many specks.)
- Finally, pixels without a cluster go to the nearest mean nearer than `reach`. (Ours; theirs leave
  them out. They also erode and dilate each mask, which would remove thin objects: we do not.)

Embeddings are first rounded to LATTICE, far below TOLERANCE, so that their sums are exact in
float64 in any order, and the result is the same on every device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from instaseg_ros.config.options.discriminative import DecodeConfig

TOLERANCE = 1e-4
ITERATIONS = 100
FAILURES = 20
LATTICE = 2.0**-16
LIMIT = 64.0  # so that float32 represents the lattice, and float64 sums of 2^31 of its values


class Clusters(NamedTuple):
    """K clusters among N points.

    owner: (N,) int64, 1 + index of the point's cluster; 0: none.
    means: (K, D) float32, where the shifts ended.
    """

    owner: Tensor
    means: Tensor


def on_lattice(points: Tensor) -> Tensor:
    """Points clipped to LIMIT and rounded to LATTICE; NaN counts as 0."""
    return (points.nan_to_num(0.0).clamp(-LIMIT, LIMIT) / LATTICE).round() * LATTICE


def squared_distance(points: Tensor, center: Tensor) -> Tensor:
    """(N,) from (D, N) points to a center (D,), summed in order of the dimensions, on which float32
    sums depend."""
    total = torch.zeros_like(points[0])
    for row, middle in zip(points, center, strict=True):
        total += (row - middle).square()
    return total


def cluster(
    points: Tensor, score: Tensor, bandwidth: float, reach: float, config: DecodeConfig
) -> Clusters:
    """Cluster the pixels of one class by the rules above.

    points: (D, N) float32. score: (N,) float32 in [0, 1], a pixel's certainty.
    bandwidth, reach: in embedding units.
    """
    points = on_lattice(points)
    owner = torch.zeros(len(score), dtype=torch.int64, device=score.device)
    free = torch.ones_like(owner, dtype=torch.bool)
    means: list[Tensor] = []
    failures = 0
    while failures < FAILURES and free.any():
        start = torch.where(free, score, -1).argmax()
        if not score[start] >= config.seed_threshold:
            break
        mean = _shift(points[:, free], points[:, start], bandwidth)
        mask = squared_distance(points, mean) <= bandwidth**2
        new = mask & free
        n_new, size = int(new.sum()), int(mask.sum())
        if n_new > config.min_pixels and n_new > config.min_new_fraction * size:
            means.append(mean)
            owner[new] = len(means)
            failures = 0
        else:
            failures += 1
        free &= ~mask
        free[start] = False
    _adopt(points, owner, means, reach)
    return Clusters(owner, torch.stack(means) if means else points.new_zeros(0, len(points)))


def _shift(points: Tensor, mean: Tensor, bandwidth: float) -> Tensor:
    for _ in range(ITERATIONS):
        members = points[:, squared_distance(points, mean) <= bandwidth**2]
        if not members.shape[1]:
            break  # they lie at the edge of the rounded mean's bandwidth
        before, mean = mean, (members.double().sum(1) / members.shape[1]).float()
        if squared_distance(mean[:, None], before) <= TOLERANCE**2:
            break
    return mean


def _adopt(points: Tensor, owner: Tensor, means: list[Tensor], reach: float) -> None:
    homeless = torch.nonzero(owner == 0).squeeze(1)
    nearest = torch.full_like(points[0, homeless], reach**2)
    for number, mean in enumerate(means, 1):
        distance = squared_distance(points[:, homeless], mean)
        owner[homeless[distance < nearest]] = number
        nearest = torch.minimum(nearest, distance)
