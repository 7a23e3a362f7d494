"""States the published clustering loop (Neven et al. 2019) literally, in plain torch.

Every proposal examines every foreground pixel of its class: slow but short, and the kernels must
agree with it, label for label. Only `first_come`, the rule for pixels that two instances of a class
claim, and `agreement` as a factor of the score are ours.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from instaseg_ros.clustering import MAX_INSTANCES
from instaseg_ros.clustering.ellipses import DISTANCE_UNIT, MEMBERSHIP, Groups

if TYPE_CHECKING:
    from instaseg_ros.config.options.spatial_embedding import DecodeConfig


class Proposal(NamedTuple):
    """An accepted instance: its seed (an index into the N foreground pixels), its mask (N,) bool,
    and its score in [0, 1] (see `Groups`)."""

    seed: int
    mask: Tensor
    score: float


def cluster(
    embedding: Tensor, scale: Tensor, score: Tensor, config: DecodeConfig
) -> list[Proposal]:
    """Find instances among the N foreground pixels of one class, in order of their seeds' scores.

    embedding: (2, N); scale: (n_sigma, N) inverse bandwidth; score: (N,) in [0, 1]; all float32.
    Masks may overlap.
    """
    unclustered = torch.ones(len(score), dtype=torch.bool, device=score.device)
    proposals = []
    while unclustered.sum() > config.min_pixels:
        seed = int(torch.argmax(score * unclustered))  # the first on ties
        if score[seed] < config.seed_threshold:
            break
        unclustered[seed] = False  # does not count as a new pixel
        difference = embedding - embedding[:, seed, None]
        distance = (difference.square() * scale[:, seed, None]).sum(0)
        mask = torch.exp(-distance) > MEMBERSHIP  # over all pixels, also clustered ones
        size, new = int(mask.sum()), int(unclustered[mask].sum())
        if size > config.min_pixels and new / size > config.min_new_fraction:
            its_score = float(score[seed])
            if config.agreement:
                total = int((distance[mask] / DISTANCE_UNIT).long().sum())
                its_score *= math.exp(-total * DISTANCE_UNIT / size)
            proposals.append(Proposal(seed, mask, its_score))
        unclustered[mask] = False  # even if rejected
    return proposals


def group(embedding: Tensor, scale: Tensor, score: Tensor, config: DecodeConfig) -> Groups:
    """Cluster one image class by class, and merge the instances into one label image.

    embedding: (2, H, W); scale: (n_sigma, H, W); score: (C, H, W); all float32.
    A pixel with a NaN takes no part. A pixel that is a member of several instances of a class goes
    to the first (`first_come`) or, as published, to the last one that writes it. Across classes,
    instances are taken best seed first (the lower class on ties): each gets those of its pixels
    that no better one has, and is rejected unless these are more than `min_new_fraction` of its
    own. Instances beyond 65535, those with the lowest seeds, are rejected beforehand.
    """
    n_classes, height, width = score.shape
    embedding, scale, score = (t.flatten(1).cpu() for t in (embedding, scale, score))
    usable = ~(embedding.isnan().any(0) | scale.isnan().any(0))
    claims = torch.zeros(n_classes, height * width, dtype=torch.int64)  # 1 + index into seeds
    seeds, scores = [], []  # (class, pixel)
    for c in range(n_classes):
        pixels = torch.nonzero((score[c] > config.foreground_threshold) & usable).squeeze(1)
        points = embedding[:, pixels], scale[:, pixels], score[c, pixels]
        for seed, mask, its_score in cluster(*points, config):
            seeds.append((c, int(pixels[seed])))
            scores.append(np.float32(its_score))
            members = pixels[mask]
            if config.first_come:
                members = members[claims[c, members] == 0]
            claims[c, members] = len(seeds)
    best_first = sorted(range(len(seeds)), key=lambda k: -score[seeds[k]])  # stable
    best_first = best_first[:MAX_INSTANCES]

    labels = torch.zeros(height * width, dtype=torch.int64)
    kept, boxes = [], []
    for k in best_first:
        own = claims[seeds[k][0]] == k + 1
        new = own & (labels == 0)
        if new.any() and int(new.sum()) / int(own.sum()) > config.min_new_fraction:
            kept.append(k)
            labels[new] = len(kept)
            y, x = np.nonzero(new.view(height, width).numpy())
            boxes.append((x.min(), y.min(), x.max() + 1, y.max() + 1))
    classes = torch.tensor([seeds[k][0] for k in kept], dtype=torch.int64)
    pixels = torch.tensor([seeds[k][1] for k in kept], dtype=torch.int64)
    return Groups(
        labels=labels.view(height, width).numpy().astype(np.uint16),
        class_ids=classes.numpy(),
        scores=np.array([scores[k] for k in kept], np.float32),
        boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        centers=embedding[:, pixels].T.numpy(),
        scales=scale[:, pixels].expand(2, -1).T.numpy(),
    )
