"""Clustering on any torch device in plain torch: no host round-trip per instance.

Where Triton is missing this is what a GPU runs; it also stands between the oracle and the Triton
kernels in the tests, and takes over where an image exceeds what those have room for. Decisions are
the oracle's, but they stay on the device: proposals are made in batches, and the host looks once
per batch whether the loop has ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from instaseg_ros.clustering import MAX_INSTANCES
from instaseg_ros.clustering.ellipses import DISTANCE_UNIT, MEMBERSHIP, Groups

if TYPE_CHECKING:
    from instaseg_ros.options.spatial_embedding import DecodeConfig

PROPOSALS = 32  # between two looks of the host


class Claims(NamedTuple):
    """K instances of one class among its N points, in order of their seeds' scores."""

    owner: Tensor  # (N,) int64: 1 + index of the instance that has the point; 0: none
    seeds: Tensor  # (K,) int64 among the points
    scores: Tensor  # (K,) float32, see `Groups`


def cluster(embedding: Tensor, scale: Tensor, score: Tensor, config: DecodeConfig) -> Claims:
    """`oracle.cluster`, with the same arguments, decided on their device."""
    n, device = len(score), score.device
    free = torch.ones(n, dtype=torch.bool, device=device)
    owner = torch.zeros(n, dtype=torch.int64, device=device)
    count = torch.zeros((), dtype=torch.int64, device=device)
    running = torch.ones((), dtype=torch.bool, device=device)
    kept, agreements = [owner[:0]], [score[:0].double()]
    going = n > config.min_pixels
    while going:
        seeds, accepted, agreement = [], [], []
        for _ in range(PROPOSALS):
            seed = torch.argmax(score * free).view(1)
            enough = (free.sum() > config.min_pixels) & (score[seed] >= config.seed_threshold)
            running = running & enough
            free.index_fill_(0, seed, False)  # what happens after the end changes nothing
            difference = embedding - embedding.index_select(1, seed)
            distance = (difference.square() * scale.index_select(1, seed)).sum(0)
            mask = torch.exp(-distance) > MEMBERSHIP
            size, new = mask.sum(), (mask & free).sum()
            total = (torch.where(mask, distance, 0) / DISTANCE_UNIT).long().sum()
            share = new.double() / size
            accept = running & (size > config.min_pixels) & (share > config.min_new_fraction)
            count = count + accept
            takes = mask & accept & (owner == 0) if config.first_come else mask & accept
            owner = torch.where(takes, count, owner)
            free &= ~mask
            seeds.append(seed)
            accepted.append(accept)
            agreement.append(torch.exp(-total.double() * DISTANCE_UNIT / size).view(1))
        kept.append(torch.cat(seeds)[torch.cat(accepted)])
        agreements.append(torch.cat(agreement)[torch.cat(accepted)])
        going = bool(running)
    found = torch.cat(kept)
    scores = score[found]
    if config.agreement:
        scores = (scores * torch.cat(agreements)).float()
    return Claims(owner, found, scores)


def group(embedding: Tensor, scale: Tensor, score: Tensor, config: DecodeConfig) -> Groups:
    """`oracle.group`, with the same arguments and result, on their device."""
    n_classes, height, width = score.shape
    embedding, scale, score = (t.flatten(1) for t in (embedding, scale, score))
    usable = ~(embedding.isnan().any(0) | scale.isnan().any(0))
    owners = torch.zeros_like(score, dtype=torch.int64)
    classes: list[Tensor] = []  # of the seeds
    pixels: list[Tensor] = []
    their_scores: list[Tensor] = []
    for c in range(n_classes):
        points = torch.nonzero((score[c] > config.foreground_threshold) & usable).squeeze(1)
        found = cluster(embedding[:, points], scale[:, points], score[c, points], config)
        n_before = sum(map(len, pixels))
        owners[c, points] = torch.where(found.owner > 0, found.owner + n_before, 0)
        pixels.append(points[found.seeds])
        classes.append(torch.full_like(pixels[-1], c))
        their_scores.append(found.scores)
    class_ids, seeds, scores = torch.cat(classes), torch.cat(pixels), torch.cat(their_scores)
    best_first = torch.argsort(score[class_ids, seeds], descending=True, stable=True)
    best_first = best_first[:MAX_INSTANCES]

    # A rank is the place among all instances, best seed first, from 1; 0: none, or past the limit.
    ranks = seeds.new_zeros(len(seeds) + 1)
    ranks[1 + best_first] = torch.arange(1, len(best_first) + 1, device=ranks.device)
    claims = ranks[owners]  # (C, H*W)
    kept = settle(claims, len(best_first), config.min_new_fraction)
    numbers = torch.where(kept, torch.cumsum(kept, 0), 0)
    none = len(kept)  # larger than any rank
    best = torch.where(kept[claims], claims, none).amin(0)
    labels = torch.cat([numbers, numbers.new_zeros(1)])[best]
    order = best_first[kept[1:]]
    class_ids, seeds = class_ids[order], seeds[order]
    return Groups(
        labels=labels.view(height, width).cpu().numpy().astype(np.uint16),
        class_ids=class_ids.cpu().numpy(),
        scores=scores[order].cpu().numpy(),
        boxes_xyxy=boxes(labels, len(order), width).cpu().numpy(),
        centers=embedding[:, seeds].T.cpu().numpy(),
        scales=scale[:, seeds].expand(2, -1).T.cpu().numpy(),
    )


def settle(claims: Tensor, n_instances: int, min_new_fraction: float) -> Tensor:
    """Which instances live on where classes contest pixels: (n_instances + 1,) bool, by rank.

    claims: (C, P) int64, the rank that each class gives a pixel; 0: none.
    An instance can be judged once all better ones on its pixels have been. So all that can be are,
    in rounds; a round judges at least the best of those left, and usually nearly all.
    """
    own = torch.bincount(claims.flatten(), minlength=n_instances + 1)
    own[0] = 0
    contested = torch.nonzero((claims > 0).sum(0) > 1).squeeze(1)
    nobody = n_instances + 1
    rivals = claims[:, contested]
    rivals = torch.where(rivals > 0, rivals, nobody).sort(0).values  # (C, M), best first
    kept = torch.zeros(nobody + 1, dtype=torch.bool, device=claims.device)
    is_open = torch.ones_like(kept)
    is_open[0] = is_open[nobody] = False
    while is_open.any():
        taken = _any_before(kept[rivals])
        lost = torch.bincount(rivals[taken], minlength=nobody + 1)[:nobody]
        unsure = _any_before(is_open[rivals]) & ~taken
        waits = torch.bincount(rivals[unsure], minlength=nobody + 1)[:nobody] > 0
        new = own - lost
        kept[:nobody] = ~waits & (new > 0) & (new.double() / own > min_new_fraction)
        is_open[1:nobody] = waits[1:]
    return kept[:nobody]


def _any_before(flags: Tensor) -> Tensor:
    """Whether any row above is true, (C, M) bool."""
    counts = torch.cumsum(flags, 0)
    return counts - flags.long() > 0


def boxes(labels: Tensor, n_instances: int, width: int) -> Tensor:
    """(n_instances, 4) float32 boxes of the labels 1, 2, ... of a flat (H*W,) label image."""
    pixels = torch.nonzero(labels).squeeze(1)
    owner = labels[pixels] - 1
    y, x = pixels // width, pixels % width
    corners = labels.new_zeros(4, n_instances)
    for k, (values, how) in enumerate(((x, "amin"), (y, "amin"), (x + 1, "amax"), (y + 1, "amax"))):
        corners[k].scatter_reduce_(0, owner, values, how, include_self=False)
    return corners.T.float()
