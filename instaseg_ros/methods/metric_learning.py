"""Deep metric learning with seediness (Fathi et al. 2017, arXiv 1703.10277).

The similarity of pixels p and q is sigma(p, q) = 2 / (1 + exp(||e_p - e_q||^2)). A pixel's mask for
a threshold tau is all pixels at least that similar; for each of several tau, a second head predicts
which class of object the mask is, if any. The largest of these probabilities is the pixel's
*seediness*; masks grow from seeds taken best first but unlike earlier ones.

Ours, where the paper leaves a choice or uses another network:

- Two channels of the embedding carry the pixel's position, as in semi-convolutional embeddings
  (Novotny et al. 2018, arXiv 1807.10712): a convolution maps two similar objects to similar values.
- DIMENSIONS instead of 64: the decoder's last layer has 16 inputs, so further outputs would only be
  linear combinations. `dimensions: 64` is possible.
- Background is not an instance: it is pushed away from objects, not pulled together. Besides a
  sample of all background, a sample of each instance's surroundings is a group of its own, because
  that is where a mask's edge is decided.
- More than ten seeds are classified per step. The classification has a constant weight
  (`weight_seed`, in the paper ramped from 0 to 0.2): masks not grown yet are background, which is
  what the head starts from.
- Seeds are searched on a lattice of LATTICE_PX. Masks are taken in order of their scores, in one
  space for all classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from instaseg_ros.clustering import similarity
from instaseg_ros.clustering.ellipses.gpu import on_host
from instaseg_ros.clustering.label_image import labelled_instances
from instaseg_ros.errors import ConfigError
from instaseg_ros.frames import Instances
from instaseg_ros.methods.base import Targets
from instaseg_ros.methods.semantic import channel_classes
from instaseg_ros.methods.similarity_loss import (
    good_masks,
    sample,
    sampling_groups,
    similarity_loss,
)
from instaseg_ros.model.heads import Head

if TYPE_CHECKING:
    from instaseg_ros.config.options.metric_learning import DecodeConfig, LossConfig
    from instaseg_ros.model.erfnet import ERFNet

TAUS = (0.25, 0.5, 0.75, 0.9)
LIMITS = tuple(math.log(2 / tau - 1) for tau in TAUS)  # sigma >= tau is ||.||^2 <= limit
ALPHA = 0.3  # weight of the seeds' diversity
DIMENSIONS = 16
POSITION_PX = 32.0  # pixels per unit of the embedding
LATTICE_PX = 4
SEEDS = slice(LATTICE_PX // 2, None, LATTICE_PX)  # rows and columns in which seeds are searched
MAX_SEEDS = 512  # per image
BACKGROUND_PRIOR = 0.9  # predicted by an untrained classification head
OBJECT_SEEDS = 64  # classified per image, besides the sampled background


def embed(raw: Tensor, x: Tensor, y: Tensor, out: Tensor | None = None) -> Tensor:
    """Embedding of the pixels in columns x (W,) and rows y (H,) from raw outputs (D, H, W)."""
    across, down = raw[:1] + x / POSITION_PX, raw[1:2] + y[:, None] / POSITION_PX
    return torch.cat([across, down, raw[2:]], out=out)


def _coordinates(raw: Tensor) -> tuple[Tensor, Tensor]:
    """x (W,) and y (H,) of the pixels of (..., H, W)."""
    x, y = (torch.arange(n, device=raw.device, dtype=raw.dtype) for n in raw.shape[:-3:-1])
    return x, y


class MetricLearning:
    """Heads, loss and decoding of the method for `n_classes` classes.

    dimensions: dimensions of the embedding; 0: DIMENSIONS. Raises ConfigError for less than two.
    """

    name = "metric_learning"
    temporal = False

    def __init__(self, n_classes: int, dimensions: int = 0) -> None:
        if dimensions == 1:
            raise ConfigError("method.dimensions: metric_learning needs 2 or more, got 1")
        self.n_classes = n_classes
        self.heads: tuple[Head, ...] = (
            Head("embedding", dimensions or DIMENSIONS, decoder=0),
            Head("masks", len(TAUS) * (n_classes + 1), decoder=1),
        )
        self.class_channels: Mapping[str, Sequence[int]] = {
            "masks": channel_classes(n_classes) * len(TAUS)
        }
        self.mirror_turns: Mapping[str, Sequence[int]] = {}
        self.through_tanh: Sequence[str] = ()

    def initialise(self, network: ERFNet) -> None:
        """Start from the bare position (other channels stay random), and from no objects."""
        background = math.log(BACKGROUND_PRIOR / (1 - BACKGROUND_PRIOR) * self.n_classes)
        with torch.no_grad():
            for channel in (0, 1):
                for parameter in network.head_parameters("embedding", channel):
                    parameter.zero_()
            for parameter in network.head_parameters("masks"):
                parameter.zero_()
            for tau in range(len(TAUS)):
                network.head_parameters("masks", tau * (self.n_classes + 1))[1].fill_(background)

    def decode(self, outputs: dict[str, Tensor], config: DecodeConfig) -> list[Instances]:
        """Instances of each image; a mask's score is the seediness of its seed.

        outputs: raw `embedding` (B, D, H, W), `masks` (B, taus * (C + 1), H, W).
        """
        raw, masks = (outputs[head.name].detach().float() for head in self.heads)
        raw, masks = on_host(raw, masks[..., SEEDS, SEEDS])
        return [self._decode(r, m, config) for r, m in zip(raw, masks, strict=True)]

    def _decode(self, raw: Tensor, masks: Tensor, config: DecodeConfig) -> Instances:
        """Decode one image: raw (D, H, W), masks (taus * (C + 1), h, w) on the lattice of SEEDS."""
        x, y = _coordinates(raw)
        score, best = self._seediness(masks)
        candidates = score >= config.seed_threshold
        points = embed(raw[:, SEEDS, SEEDS], x[SEEDS], y[SEEDS])[:, candidates].T.numpy()
        scores = score[candidates].numpy()
        found = similarity.choose_seeds(points, scores, ALPHA, config.seed_threshold, MAX_SEEDS)
        found = found[np.argsort(-scores[found], kind="stable")]
        tau, class_ids = np.divmod(best[candidates].numpy()[found], self.n_classes)
        seeds, limits = points[found], np.array(LIMITS, np.float32)[tau]

        def embed_rows(first: int, end: int, out: Tensor) -> None:
            embed(raw[:, first:end], x, y[first:end], out=out)

        size = raw.shape[1], raw.shape[2]
        labels, accepted = similarity.grow_compiled(size, embed_rows, seeds, limits, config)
        scores = scores[found[accepted]]
        return labelled_instances(
            labels, class_ids[accepted], scores, config.min_pixels, config.min_score
        )

    def _seediness(self, masks: Tensor) -> tuple[Tensor, Tensor]:
        """From masks (taus * (C + 1), H, W), each (H, W): the largest probability of an object, and
        the index tau * C + class it belongs to."""
        probability = masks.unflatten(0, (len(TAUS), -1)).softmax(1)[:, 1:]
        return probability.flatten(0, 1).max(0)

    def loss(
        self,
        outputs: dict[str, Tensor],
        targets: Targets,
        config: LossConfig,
        class_weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Weighted sum of the similarity term (eq. 2, `instance`) and the classification of masks
        (`seed`), averaged over the batch, as `total`. Pixels are drawn with torch's generator.

        In the classification, objects and background have equal weight.
        """
        if class_weights is None:
            class_weights = torch.ones(self.n_classes, device=targets.labels.device)
        outs = outputs["embedding"].float(), outputs["masks"].float()
        truth = targets.labels, targets.class_ids, targets.ignore
        images = zip(*outs, *truth, strict=True)
        terms = [self._image_loss(*image, class_weights) for image in images]
        instance, seed = torch.stack(terms).mean(0)
        total = config.weight_instance * instance + config.weight_seed * seed
        return {"total": total, "instance": instance, "seed": seed}

    def _image_loss(
        self,
        raw: Tensor,  # (D, H, W)
        masks: Tensor,  # (taus * (C + 1), H, W)
        labels: Tensor,  # (H, W)
        class_ids: Tensor,  # (K,)
        ignore: Tensor,  # (H, W)
        class_weights: Tensor,  # (C,)
    ) -> Tensor:
        """(instance, seed) of one image."""
        embedding = embed(raw, *_coordinates(raw)).flatten(1)  # (D, H * W)
        own = labels.masked_fill(ignore, 0).flatten()
        pixel, group = sample(sampling_groups(labels, ignore, len(class_ids)), len(class_ids))
        instance = similarity_loss(embedding[:, pixel].T, group, len(class_ids))

        objects, background = pixel[own[pixel] > 0], pixel[own[pixel] == 0]
        objects = objects[torch.randperm(len(objects), device=raw.device)[:OBJECT_SEEDS]]
        limits = torch.tensor(LIMITS, device=raw.device)
        good = good_masks(embedding.detach(), objects, own, ~ignore.flatten(), limits)
        logits = masks.flatten(1).unflatten(0, (len(TAUS), -1)).transpose(0, 1)  # (C + 1, taus, N)
        of_class = class_ids[own[objects] - 1]
        truth = good * (of_class + 1)  # (taus, seeds)
        on_objects = _cross_entropy(logits[..., objects], truth) * class_weights[of_class]
        none = truth.new_zeros(len(TAUS), len(background))
        seed = _mean(on_objects) + _mean(_cross_entropy(logits[..., background], none))
        return torch.stack([instance, seed / 2])


def _cross_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    """The cross-entropy (...) of predictions (classes, ...)."""
    return functional.cross_entropy(logits[None], truth[None], reduction="none")[0]


def _mean(losses: Tensor) -> Tensor:
    """The mean; 0 for no losses."""
    return losses.sum() / max(losses.numel(), 1)
