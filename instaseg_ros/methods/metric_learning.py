"""Deep metric learning with seediness (Fathi et al. 2017, arXiv 1703.10277).

Pixels p and q are alike by sigma(p, q) = 2 / (1 + exp(||e_p - e_q||^2)). A pixel grows the mask of
all pixels whose similarity to it is at least tau, for several tau; a second head says for each tau
what class of object that mask is, or none. The largest of these probabilities is the pixel's
*seediness*; masks grow from seeds that are taken best first but unlike those before.

Ours, where the paper leaves a choice or stands on another network:

- Two channels of the embedding carry the pixel's position, as in semi-convolutional embeddings
  (Novotny et al. 2018, arXiv 1807.10712): what a convolution makes of two like objects is alike.
- DIMENSIONS instead of 64: the decoder's last layer has 16 inputs, of which more outputs would only
  be linear maps. `dimensions: 64` is possible.
- Background is no instance: it is pushed from the objects, not pulled together. Each instance has a
  sample of its surroundings as a group of its own beside a sample of all background; a mask's edge
  is decided there.
- More seeds are classified in a step than ten. The classification weighs the same from the first
  step on (`weight_seed`, in the paper ramped from 0 to 0.2): masks that are not grown yet are
  background, which is what the head starts from.
- Seeds are looked for on a lattice of LATTICE_PX. Masks are taken in order of their scores, in one
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
ALPHA = 0.3  # of the diversity of seeds
DIMENSIONS = 16
POSITION_PX = 32.0  # pixels in a unit of the embedding
LATTICE_PX = 4
SEEDS = slice(LATTICE_PX // 2, None, LATTICE_PX)  # rows and columns where seeds are looked for
MAX_SEEDS = 512  # of an image
BACKGROUND_PRIOR = 0.9  # what an untrained classification head says
OBJECT_SEEDS = 64  # classified per image, beside the sampled background


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

    dimensions: of the embedding; 0: DIMENSIONS. Raises ConfigError for less than two.
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

    def initialise(self, network: ERFNet) -> None:
        """Start from the bare position (other channels as by chance), and from no object."""
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
        """One image: raw (D, H, W), masks (taus * (C + 1), h, w) where SEEDS are."""
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
        """(H, W) of masks (taus * (C + 1), H, W): the largest probability of an object, and of
        which tau and class it is, as tau * C + class."""
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
        (`seed`), averaged over the batch, as `total`. Pixels are drawn from torch's generator.

        In the classification objects and background weigh the same.
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
    """Of each of (...) predictions (classes, ...)."""
    return functional.cross_entropy(logits[None], truth[None], reduction="none")[0]


def _mean(losses: Tensor) -> Tensor:
    """0 of none."""
    return losses.sum() / max(losses.numel(), 1)
