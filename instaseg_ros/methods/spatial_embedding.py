"""Spatial embedding with a learned clustering bandwidth (Neven et al. 2019, arXiv 1906.11109).

Every pixel i points with an offset o_i to e_i = x_i + tanh(o_i), its *spatial embedding*, and
predicts its instance's bandwidth and a seed score per class. With C_k the centre of instance k,

    phi_k(e_i) = exp(-sum_c s_kc (e_ic - C_kc)^2),   s = exp(10 r) = 1 / (2 sigma^2),

r being the raw bandwidth output, and i belongs to k when phi_k(e_i) > 0.5.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from instaseg_ros.clustering.ellipses import MEMBERSHIP, Groups, cpu, gpu
from instaseg_ros.clustering.label_image import with_score
from instaseg_ros.frames import Instances
from instaseg_ros.methods import binned_loss
from instaseg_ros.methods.base import Targets
from instaseg_ros.methods.bootstrapping import hard_pixels
from instaseg_ros.methods.class_vote import voted
from instaseg_ros.methods.instance_loss import InstanceLoss, squared_distance
from instaseg_ros.model.heads import DENSE, Head

if TYPE_CHECKING:
    from instaseg_ros.config.options.spatial_embedding import DecodeConfig, LossConfig
    from instaseg_ros.model.erfnet import ERFNet

# The published lattice: 2048 x 1024 pixels span [0, 2] x [0, 1]; other sizes continue it.
STEP_X = 2.0 / 2047.0
STEP_Y = 1.0 / 1023.0
BANDWIDTH_GAIN = 10.0  # s = exp(BANDWIDTH_GAIN * r)
INITIAL_BANDWIDTH = 1.0  # r of an untrained network: a radius of 5.7 pixels


def pixel_grid(height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """(2, H, W) float32: x and y of every pixel in lattice units."""
    x = torch.arange(width, device=device, dtype=torch.float64) * STEP_X
    y = torch.arange(height, device=device, dtype=torch.float64) * STEP_Y
    grid = torch.stack([x.expand(height, width), y[:, None].expand(height, width)])
    return grid.float()


def embed(offset: Tensor, grid: Tensor, out: Tensor | None = None) -> Tensor:
    """Spatial embedding e = x + tanh(o) (eq. 1). Shapes (..., 2, ...), equal or broadcastable.

    out: memory for the result; may be `offset`.
    """
    return torch.add(torch.tanh(offset, out=out), grid, out=out)


def inverse_bandwidth(raw: Tensor, out: Tensor | None = None) -> Tensor:
    """s = exp(10 r), i.e. 1 / (2 sigma^2) in eq. 5, from the raw bandwidth output r.

    out: memory for the result; may be `raw`.
    """
    return torch.exp(torch.mul(raw, BANDWIDTH_GAIN, out=out), out=out)


def seed_score(raw: Tensor) -> Tensor:
    """Seed score in [0, 1] from the raw output, float32.

    Computed in float64 and rounded once: the last bit of torch's float32 sigmoid depends on the
    pixel's place in the tensor, and equal outputs must tie.
    """
    return torch.sigmoid(raw.double()).float()


@functools.lru_cache(maxsize=16)
def least_logit(threshold: float) -> float:
    """The least float32 raw seed output whose score is above `threshold`; NaN if none is."""

    def value(key: int) -> np.float32:  # the float32 of this rank, counted up from the lowest
        return np.copysign(np.int32(abs(key)).view(np.float32), np.float32(key))

    highest = int(np.float32(np.inf).view(np.int32))
    low, high = -highest, highest
    if not seed_score(torch.tensor(value(high))) > threshold:
        return math.nan
    while high - low > 1:
        middle = (low + high) // 2
        if seed_score(torch.tensor(value(middle))) > threshold:
            high = middle
        else:
            low = middle
    return float(value(high))


@functools.lru_cache(maxsize=4)
def _lattice(height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """x of the columns and y of the rows of `pixel_grid`."""
    return pixel_grid(1, width)[0, 0].numpy(), pixel_grid(height, 1)[1, :, 0].numpy()


class SpatialEmbedding:
    """Heads, loss and decoding of the method for `n_classes` classes.

    n_sigma: 1 for a circular bandwidth, 2 for an elliptical one (eq. 8).
    """

    name = "spatial_embedding"
    temporal = False

    def __init__(self, n_classes: int, n_sigma: int = 2) -> None:
        self.n_classes = n_classes
        self.n_sigma = n_sigma
        self.heads: tuple[Head, ...] = (
            Head("offset", 2, decoder=0),
            Head("bandwidth", n_sigma, decoder=0),
            Head("seed", n_classes, decoder=1),
        )
        self.class_channels: Mapping[str, Sequence[int]] = {"seed": range(n_classes)}
        self.mirror_turns: Mapping[str, Sequence[int]] = {"offset": (0,)}
        self.through_tanh: Sequence[str] = ("offset",)

    def initialise(self, network: ERFNet) -> None:
        """Start with zero offsets and a bandwidth of about six pixels."""
        with torch.no_grad():
            for name, bias in (("offset", 0.0), ("bandwidth", INITIAL_BANDWIDTH)):
                weight, biases = network.head_parameters(name)
                weight.zero_()
                biases.fill_(bias)

    def decode(self, outputs: dict[str, Tensor], config: DecodeConfig) -> list[Instances]:
        """Instances of each image, clustered on the outputs' device (see `clustering`).

        outputs: raw `offset` (B, 2, H, W), `bandwidth` (B, n_sigma, H, W), `seed` (B, C, H, W); for
            `class_vote` also `dense` (B, C, H/8, W/8), of these classes alone.
        """
        raw = [outputs[head.name].detach() for head in self.heads]
        on_gpu: list[Groups | None] = [None] * len(raw[0])
        if raw[0].is_cuda:
            lattice = _lattice(*raw[0].shape[2:])
            logit = least_logit(config.foreground_threshold)
            on_gpu = gpu.group(raw, lattice, logit, BANDWIDTH_GAIN, config)
        instances = []
        for b, groups in enumerate(on_gpu):
            if groups is None:
                offset, bandwidth, seed = gpu.on_host(*(output[b].float() for output in raw))
                groups = group(offset.numpy(), bandwidth.numpy(), seed.numpy(), config)
            found = _instances(groups)
            if config.class_vote:
                (dense,) = gpu.on_host(outputs[DENSE][b].float())
                found = voted(found, dense.numpy())
            instances.append(with_score(found, config.min_score))
        return instances

    def loss(
        self,
        outputs: dict[str, Tensor],
        targets: Targets,
        config: LossConfig,
        class_weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Weighted sum of instance, smoothness and seed terms (eq. 6, 9, 10), as `total`.

        Instance and smoothness terms are averaged over the instances of an image, the seed term
        over its pixels, then all over the batch. Ignored pixels take no part. With `bootstrap_px`
        the seed term is averaged over an image's hard pixels; a pixel is as wrong as its worst seed
        map (ours).
        """
        height, width = targets.labels.shape[1:]
        if class_weights is None:
            class_weights = torch.ones(self.n_classes, device=targets.labels.device)
        grid = pixel_grid(height, width, targets.labels.device)
        if config.lovasz == "binned" or (config.lovasz == "auto" and grid.is_cuda):
            embedding = embed(outputs["offset"].float(), grid).flatten(2)
            own = binned_loss.Outputs(
                embedding,
                outputs["bandwidth"].float().flatten(2),
                torch.sigmoid(outputs["seed"].float()).flatten(2),
                embedding if config.learned_center else grid.flatten(1).expand_as(embedding),
            )
            truth = binned_loss.truth_of(targets.labels, targets.ignore, targets.class_ids)
            each = binned_loss.batch_terms(own, truth, class_weights, config)
            return _weighted(each, config)
        terms = [
            self._image_loss(
                outputs["offset"][b].float(),
                outputs["bandwidth"][b].float(),
                torch.sigmoid(outputs["seed"][b].float()),
                grid,
                targets.labels[b],
                targets.class_ids[b],
                targets.ignore[b],
                class_weights,
                config,
            )
            for b in range(len(targets.labels))
        ]
        return _weighted(torch.stack(terms), config)

    def _image_loss(
        self,
        offset: Tensor,  # (2, H, W)
        bandwidth: Tensor,  # (n_sigma, H, W)
        seed: Tensor,  # (n_classes, H, W), in [0, 1]
        grid: Tensor,  # (2, H, W)
        labels: Tensor,  # (H, W)
        class_ids: Tensor,  # (K,)
        ignore: Tensor,  # (H, W)
        class_weights: Tensor,  # (n_classes,)
        config: LossConfig,
    ) -> Tensor:
        """(instance, smooth, seed) of one image."""
        n_instances = len(class_ids)
        counted = ~ignore.flatten()
        own = (labels.flatten() - 1).masked_fill(~counted, -1)  # instance of a pixel, or -1
        pixels = torch.nonzero(own >= 0).squeeze(1)  # object pixels
        owner = own[pixels]

        embedding = embed(offset, grid).flatten(1)  # (2, H*W)
        raw = bandwidth.flatten(1)
        points = embedding if config.learned_center else grid.flatten(1)
        center = _mean_per_instance(points[:, pixels], owner, n_instances)  # (2, K)
        mean_raw = _mean_per_instance(raw[:, pixels], owner, n_instances)  # (n_sigma, K)
        scale = inverse_bandwidth(mean_raw).expand(2, n_instances)

        spread = (raw[:, pixels] - mean_raw.detach()[:, owner]).square().mean(0)
        sizes = _sizes(owner, n_instances)
        smooth = (spread / sizes[owner]).sum() / max(n_instances, 1)

        instance = seed.new_zeros(())
        if n_instances:
            instance = InstanceLoss.apply(embedding, center, scale, own, counted)

        with torch.no_grad():
            distance = squared_distance(embedding[:, pixels], center[:, owner], scale[:, owner])
            target = torch.exp(-distance)
        class_of = class_ids[owner]
        hard = counted
        if config.bootstrap_px:
            wrong = seed.detach().flatten(1).clone()
            wrong[class_of, pixels] -= target
            hard = hard_pixels(1 - wrong.abs().amax(0), counted, config.bootstrap_px)
        square = seed.flatten(1).square()  # every seed map: 0 off its objects
        background = (square * (own < 0) * hard).sum()
        at_objects = seed.flatten(1)[class_of, pixels]
        others = config.other_class_weight * (square[:, pixels].sum(0) - at_objects.square())
        weight = config.foreground_weight * class_weights[class_of]
        foreground = weight * (at_objects - target).square()
        boost = (config.small_object_px / sizes[owner]).clamp(min=1)
        objects = (boost * (foreground + others) * hard[pixels]).sum()
        n_pixels = hard.sum().clamp(min=1) if config.bootstrap_px else labels.numel()
        seed_loss = (background + objects) / n_pixels
        return torch.stack([instance, smooth, seed_loss])


def _weighted(terms: Tensor, config: LossConfig) -> dict[str, Tensor]:
    """The loss of a batch from the terms (B, 3) of its images."""
    instance, smooth, seed = terms.mean(0)
    total = (
        config.weight_instance * instance
        + config.weight_smooth * smooth
        + config.weight_seed * seed
    )
    return {"total": total, "instance": instance, "smooth": smooth, "seed": seed}


def group(
    offset: NDArray[np.float32],  # (2, H, W)
    bandwidth: NDArray[np.float32],  # (n_sigma, H, W)
    seed: NDArray[np.float32],  # (C, H, W)
    config: DecodeConfig,
) -> Groups:
    """Clusters of one image from its raw outputs, in lattice units."""
    outputs = cpu.Outputs(offset, bandwidth, seed, *_lattice(*seed.shape[1:]))
    return cpu.group(outputs, least_logit(config.foreground_threshold), _evaluate, config)


def _evaluate(offset: Tensor, lattice: Tensor, bandwidth: Tensor, seed: Tensor) -> None:
    """Apply the formulas to n pixels, in place."""
    embed(offset, lattice, out=offset)
    inverse_bandwidth(bandwidth, out=bandwidth)
    seed.copy_(seed_score(seed))


def _instances(groups: Groups) -> Instances:
    """Convert clusters in lattice units to instances in pixels."""
    step = np.array([STEP_X, STEP_Y])
    with np.errstate(divide="ignore"):  # an unlimited bandwidth has an infinite radius
        radius = np.sqrt(-math.log(MEMBERSHIP) / groups.scales.astype(np.float64))
    return Instances(
        labels=groups.labels,
        ids=np.arange(1, len(groups.scores) + 1, dtype=np.uint16),
        class_ids=groups.class_ids,
        scores=groups.scores,
        boxes_xyxy=groups.boxes_xyxy,
        centers_xy=(groups.centers / step).astype(np.float32),
        bandwidths=(radius / step).astype(np.float32),
    )


def _mean_per_instance(values: Tensor, owner: Tensor, n_instances: int) -> Tensor:
    """Average the values (C, N) of N pixels by owner: (C, K); 0 for an instance without pixels."""
    total = values.new_zeros(len(values), n_instances).index_add(1, owner, values)
    return total / _sizes(owner, n_instances)


def _sizes(owner: Tensor, n_instances: int) -> Tensor:
    """(K,) int64: pixels of each instance, at least 1. `bincount` would wait for the GPU."""
    counts = owner.new_zeros(n_instances).index_add_(0, owner, torch.ones_like(owner))
    return counts.clamp(min=1)
