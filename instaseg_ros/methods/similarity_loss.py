"""Computes the loss of metric learning (Fathi et al. 2017): samples pairs of pixels, and finds out
which of the masks grown from pixels are good."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, softplus

PIXELS = 10  # the paper's K: sampled from each instance, and from its surroundings
SURROUNDINGS_PX = 16
BACKGROUND_PIXELS = 100  # sampled from all other background
MAX_SAMPLES = 2048  # per image; with many instances, fewer than PIXELS each
SOFTENING = 1e-3  # added to squared distances, as 1 - sigma could be 0
GOOD_IOU = 0.5  # a mask that overlaps its object more than this is good
MAX_DISTANCES = 1 << 23  # in memory at once while masks grow: 32 MiB


def log_similarity(distance: Tensor) -> Tensor:
    """log sigma of squared distances d: sigma = 2 / (1 + exp(d))."""
    return math.log(2) - softplus(distance)


def log_dissimilarity(distance: Tensor) -> Tensor:
    """log(1 - sigma) = log tanh(d / 2) of squared distances d, softened where they are small."""
    distance = distance + SOFTENING
    return torch.log(-torch.expm1(-distance)) - softplus(-distance)


def similarity_loss(embedding: Tensor, group: Tensor, n_instances: int) -> Tensor:
    """- sum_pq w_pq log(sigma if p and q are in one instance, else 1 - sigma) of N pixels (eq. 2).

    embedding: (N, D); group: (N,) int64, 1..n_instances: an instance, others: background. w_pq is
    inversely proportional to the sizes of both groups, 0 if neither is an instance; all sum to 1.
    """
    weight = 1 / torch.bincount(group).to(embedding.dtype)[group]
    instance = (group > 0) & (group <= n_instances)
    weights = weight[:, None] * weight * (instance[:, None] | instance)
    distance = torch.cdist(embedding, embedding, compute_mode="donot_use_mm_for_euclid_dist")
    distance = distance.square()
    alike = group[:, None] == group
    logs = torch.where(alike, log_similarity(distance), log_dissimilarity(distance))
    return -(weights * logs).sum() / weights.sum().clamp(min=1e-6)


def sampling_groups(labels: Tensor, ignore: Tensor, n_instances: int) -> Tensor:
    """(H, W) int64: each pixel's group for sampling: 0 background, 1..K an instance, K + 1..2 K the
    surroundings of one, -1 none."""
    own = labels.masked_fill(ignore, 0)
    reach = 2 * SURROUNDINGS_PX + 1
    near = own[None].float()  # the largest label nearby: over rows, then over columns
    near = max_pool2d(near, (reach, 1), 1, (SURROUNDINGS_PX, 0))
    near = max_pool2d(near, (1, reach), 1, (0, SURROUNDINGS_PX))[0].long()
    around = torch.where(near > 0, near + n_instances, 0)
    return torch.where(own > 0, own, around).masked_fill(ignore, -1)


def sample(groups: Tensor, n_instances: int) -> tuple[Tensor, Tensor]:
    """Draw pixels from each of `sampling_groups`; returns their indices into H * W, and groups."""
    groups = groups.flatten()
    pixel = torch.nonzero(groups >= 0).squeeze(1)
    draw = torch.rand(len(pixel), dtype=torch.float64, device=groups.device)
    pixel = pixel[torch.argsort(groups[pixel] + draw)]  # by group, in random order within it
    group = groups[pixel]
    counts = torch.bincount(group, minlength=1)
    place = torch.arange(len(group), device=group.device) - (counts.cumsum(0) - counts)[group]
    of_each = max(2, min(PIXELS, MAX_SAMPLES // (2 * n_instances + 1)))
    kept = place < torch.where(group > 0, of_each, BACKGROUND_PIXELS)
    return pixel[kept], group[kept]


@torch.no_grad()
def good_masks(
    embedding: Tensor, seeds: Tensor, own: Tensor, counted: Tensor, limits: Tensor
) -> Tensor:
    """(T, S) bool: whether a seed's mask, for each of T limits, overlaps the seed's instance with
    an IoU above GOOD_IOU.

    embedding: (D, N); seeds: (S,) pixels; own: (N,) a pixel's instance, 0 for none; counted: (N,)
    bool; limits: (T,) squared distances, descending.
    """
    embedding = embedding - embedding.mean(1, keepdim=True)  # smaller numbers lose less to rounding
    square = embedding.square().sum(0)
    sizes = torch.bincount(own)
    good = [torch.zeros(len(limits), 0, dtype=torch.bool, device=own.device)]
    for part in seeds.split(max(1, MAX_DISTANCES // len(own))):
        distance = torch.addmm(square, embedding[:, part].T, embedding, alpha=-2)
        distance += square[part, None]
        seed, pixel = torch.nonzero((distance <= limits[0]) & counted, as_tuple=True)
        inside = distance[seed, pixel] <= limits[:, None]  # (T, pairs)
        hit = inside & (own[pixel] == own[part][seed])
        grown, common = (
            torch.zeros(len(limits), len(part), device=own.device).index_add(1, seed, of.float())
            for of in (inside, hit)
        )
        good.append(common > GOOD_IOU * (grown + sizes[own[part]] - common))
    return torch.cat(good, 1)
