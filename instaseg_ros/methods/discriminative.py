"""Discriminative loss (De Brabandere et al. 2017, arXiv 1708.02551).

Each pixel i has an embedding x_i in a learned space. For the C instances of one class in an image,
where instance c has N_c pixels with mean mu_c, and with [v]+ = max(v, 0) and margins d_v and d_d,
there are three terms:

    pull        1 / C sum_c 1 / N_c sum_i [|x_i - mu_c| - d_v]+^2
    push        1 / (C (C - 1)) sum_{a != b} [2 d_d - |mu_a - mu_b|]+^2
    regularise  1 / C sum_c |mu_c|

When pull and push vanish, pixels of one instance are at most 2 d_v apart, those of two at least
2 (d_d - d_v). Background is not an instance: a semantic head, also trained, separates it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.linalg import vector_norm

from instaseg_ros.clustering import MAX_INSTANCES
from instaseg_ros.clustering.ellipses.gpu import on_host
from instaseg_ros.clustering.label_image import labelled_instances
from instaseg_ros.clustering.mean_shift import cpu
from instaseg_ros.frames import Instances
from instaseg_ros.methods.base import Targets
from instaseg_ros.methods.semantic import channel_classes, semantic_loss, semantic_truth
from instaseg_ros.model.heads import Head
from instaseg_ros.threads import each

if TYPE_CHECKING:
    from instaseg_ros.config.options.discriminative import DecodeConfig, LossConfig
    from instaseg_ros.model.erfnet import ERFNet

DIMENSIONS = 8  # the paper's for Cityscapes; 16 for leaves
PULL_MARGIN = 0.5  # d_v
PUSH_MARGIN = 1.5  # d_d
WEIGHTS = (1.0, 1.0, 0.001)  # of pull, push and regularise

# Mean shift bandwidth (ours): within 2 d_v of any pixel lies its whole instance, and no other one
# up to 2 (d_d - d_v); a pixel nearer than d_d to a mean is nearest to that mean.
BANDWIDTH = 2 * PULL_MARGIN
REACH = PUSH_MARGIN

INITIAL_OBJECTS = 0.1  # share of pixels that an untrained network takes for objects


def embed(raw: Tensor) -> Tensor:
    """The embedding from raw outputs (..., D, H, W): the same, in float32."""
    return raw.float()


class Discriminative:
    """Heads, loss and decoding of the method for `n_classes` classes.

    dimensions: dimensions of the embedding; 0: DIMENSIONS.
    """

    name = "discriminative"
    temporal = False

    def __init__(self, n_classes: int, dimensions: int = 0) -> None:
        self.n_classes = n_classes
        self.heads: tuple[Head, ...] = (
            Head("embedding", dimensions or DIMENSIONS, decoder=0),
            Head("semantic", n_classes + 1, decoder=1),
        )
        self.class_channels: Mapping[str, Sequence[int]] = {"semantic": channel_classes(n_classes)}
        self.mirror_turns: Mapping[str, Sequence[int]] = {}
        self.through_tanh: Sequence[str] = ()

    def initialise(self, network: ERFNet) -> None:
        """Start with a tenth of the pixels as objects. The embedding stays random: instances that
        coincide would never separate."""
        with torch.no_grad():
            weight, bias = network.head_parameters("semantic")
            weight.zero_()
            share = torch.full((self.n_classes + 1,), INITIAL_OBJECTS / self.n_classes)
            share[0] = 1 - INITIAL_OBJECTS
            bias.copy_(share.log().repeat_interleave(len(bias) // len(share)))

    def decode(self, outputs: dict[str, Tensor], config: DecodeConfig) -> list[Instances]:
        """Instances of each image by mean shift among the pixels of each class, on the CPU.

        outputs: raw `embedding` (B, D, H, W), `semantic` (B, C + 1, H, W). A pixel takes its most
        likely class. An instance's score is the mean probability of its class over its pixels
        (ours; the paper has no score).
        """
        embedding = embed(outputs["embedding"].detach())
        semantic = outputs["semantic"].detach().float()
        embedding, semantic = on_host(embedding, semantic)
        return [_found(e, s, config) for e, s in zip(embedding, semantic, strict=True)]

    def loss(
        self,
        outputs: dict[str, Tensor],
        targets: Targets,
        config: LossConfig,
        class_weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The paper's three terms, averaged over all classes with instances in all images (ours),
        and the cross-entropy of the pixels' classes.

        Ignored pixels take no part, nor do instances without other pixels.
        """
        pull, push, regularise = discriminative_loss(
            *_object_pixels(embed(outputs["embedding"]), targets, self.n_classes)
        )
        semantic = semantic_loss(
            outputs["semantic"], semantic_truth(targets), class_weights, config.bootstrap_px
        )
        total = WEIGHTS[0] * pull + WEIGHTS[1] * push + WEIGHTS[2] * regularise
        total = total + config.weight_semantic * semantic
        return {
            "total": total,
            "pull": pull,
            "push": push,
            "regularise": regularise,
            "semantic": semantic,
        }


def discriminative_loss(
    points: Tensor, owner: Tensor, group: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(pull, push, regularise) of groups of instances, averaged over the groups; 0 without any.

    points: (N, D). owner: (N,) int64, 0..K-1, each at least once. group: (K,) int64; instances only
    push others of their group.
    """
    n_instances = len(group)
    names, group = torch.unique(group, return_inverse=True)
    count = torch.bincount(group, minlength=len(names)).to(points.dtype)[group]  # C, (K,)
    share = 1 / (count * len(names))
    sizes = torch.bincount(owner, minlength=n_instances)
    mean = points.new_zeros(n_instances, points.shape[1]).index_add(0, owner, points)
    mean = mean / sizes[:, None]

    distance = vector_norm(points - mean[owner], dim=1)  # its gradient at 0 is 0
    pull = torch.relu(distance - PULL_MARGIN).square() * (share / sizes)[owner]

    one, two = torch.nonzero((group[:, None] == group).triu(1)).unbind(1)
    gap = vector_norm(mean[one] - mean[two], dim=1)
    both = 2 * share[one] / (count[one] - 1)  # a pushes b, and b pushes a
    push = torch.relu(2 * PUSH_MARGIN - gap).square() * both

    return pull.sum(), push.sum(), (vector_norm(mean, dim=1) * share).sum()


def _object_pixels(
    embedding: Tensor, targets: Targets, n_classes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Arguments of `discriminative_loss`: a group is the instances of one class in one image."""
    groups = [c + image * n_classes for image, c in enumerate(targets.class_ids)]
    before = np.cumsum([0, *map(len, groups)])[:-1]
    number = targets.labels + targets.labels.new_tensor(before)[:, None, None] - 1
    here = (targets.labels > 0) & ~targets.ignore
    present, owner = torch.unique(number[here], return_inverse=True)
    return embedding.movedim(1, -1)[here], owner, torch.cat(groups)[present]


def _found(embedding: Tensor, semantic: Tensor, config: DecodeConfig) -> Instances:
    """The instances of one image: embedding (D, H, W), raw semantic (C + 1, H, W)."""
    pixels = cpu.foreground(semantic.numpy(), embedding.numpy(), config.foreground_threshold)
    owners: list[NDArray[np.int32]] = [np.zeros(0, np.int32)] * (len(semantic) - 1)

    def cluster(c: int) -> None:
        own = slice(pixels.starts[c], pixels.starts[c + 1])
        points, scores = pixels.points[:, own], pixels.scores[own]
        owners[c], _ = cpu.cluster(points, scores, BANDWIDTH, REACH, config)

    sizes = np.diff(pixels.starts)
    each(cluster, [c for c in np.argsort(-sizes) if sizes[c]])
    return _merged(pixels.pixels, pixels.scores, owners, embedding.shape[1:], config.min_score)


def _merged(
    pixels: NDArray[np.integer],  # (N,) row-major index, class by class
    scores: NDArray[np.float32],  # (N,)
    owners: Sequence[NDArray[np.integer]],  # by class: 1 + cluster of its pixels, or 0
    size: Sequence[int],
    min_score: float,
) -> Instances:
    """The clusters of all classes as instances of one image."""
    counts = [int(owner.max(initial=0)) for owner in owners]
    before = np.cumsum([0, *counts])[:-1]
    owner = np.concatenate(
        [np.where(own > 0, own + first, 0) for own, first in zip(owners, before, strict=True)]
    )
    total = sum(counts)
    sizes = np.bincount(owner, minlength=total + 1)[1:]
    score = np.bincount(owner, scores, total + 1)[1:] / sizes
    number = np.zeros(total + 1, np.uint16)
    best = np.argsort(-score, kind="stable")[:MAX_INSTANCES]
    number[best + 1] = np.arange(1, len(best) + 1)
    labels = np.zeros(tuple(size), np.uint16)
    labels.ravel()[pixels] = number[owner]
    class_ids = np.repeat(np.arange(len(owners)), counts)
    scores = score[best].astype(np.float32)
    return labelled_instances(labels, class_ids[best], scores, min_score=min_score)
