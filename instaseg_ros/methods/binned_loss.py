"""Computes the spatial embedding's loss for a whole batch at once.

Shapes are known beforehand, so the CPU never waits for the GPU. The Lovász hinge sorts errors into
bins; everything else is as in `spatial_embedding`, up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from instaseg_ros.clustering.ellipses import gpu
from instaseg_ros.methods.bootstrapping import hard_pixels

if TYPE_CHECKING:
    from instaseg_ros.config.options.spatial_embedding import LossConfig

BINS = 1024  # for errors from 0 to 2: the loss is accurate to 1e-3
MAX_PAIRS = 1 << 24  # pixels of all instances of all images at once: about 700 MB
SPREAD = 64  # dummy places for pixels of no instance: atomic additions to one place would queue

Gradients = tuple[Tensor, Tensor, Tensor, Tensor]  # a sum (B,); by embedding, centre, scale


class Outputs(NamedTuple):
    """Outputs for B images of P pixels: embedding (B, 2, P); bandwidth (B, S, P), raw; seed
    (B, C, P) in [0, 1]; points (B, 2, P), whose means are the centres."""

    embedding: Tensor
    bandwidth: Tensor
    seed: Tensor
    points: Tensor


class Truth(NamedTuple):
    """Ground truth of B images with up to K instances: own (B, P) int64, a pixel's instance or -1;
    counted (B, P) bool, false for ignored pixels; class_ids (B, K) int64, -1 for no instance."""

    own: Tensor
    counted: Tensor
    class_ids: Tensor


def truth_of(labels: Tensor, ignore: Tensor, class_ids: Sequence[Tensor] | Tensor) -> Truth:
    """Truth from the fields of `Targets`; `class_ids` may also be padded with -1: (B, K)."""
    if not isinstance(class_ids, Tensor):
        class_ids = torch.nn.utils.rnn.pad_sequence(
            list(class_ids), batch_first=True, padding_value=-1
        ).long()
    counted = ~ignore.flatten(1)
    own = (labels.flatten(1) - 1).masked_fill(~counted, -1)
    return Truth(own, counted, class_ids)


def batch_terms(
    outputs: Outputs, truth: Truth, class_weights: Tensor, config: LossConfig
) -> Tensor:
    """(B, 3): instance, smooth and seed terms of each image."""
    n_images, n_instances = truth.class_ids.shape
    present = (truth.class_ids >= 0).sum(1)
    if not n_instances:  # add one without pixels, so that all shapes below are valid
        truth = truth._replace(class_ids=truth.class_ids.new_full((n_images, 1), -1))
    is_object = truth.own >= 0
    owners = _Owners(truth)
    mean_raw = owners.mean(outputs.bandwidth)  # (B, S, K)
    center = owners.mean(outputs.points)  # (B, 2, K)
    scale = torch.exp(10.0 * mean_raw).expand(-1, 2, -1)

    spread = (outputs.bandwidth - owners.of_pixel(mean_raw.detach())).square().mean(1)
    sizes = owners.of_pixel(owners.sizes[:, None])[:, 0]  # (B, P)
    each = present.clamp(min=1)
    smooth = (spread / sizes * is_object).sum(1) / each

    instance = BinnedInstanceLoss.apply(
        outputs.embedding, center, scale, truth.own, truth.counted, each
    )

    with torch.no_grad():
        apart = outputs.embedding - owners.of_pixel(center)
        target = torch.exp(-(apart.square() * owners.of_pixel(scale)).sum(1)) * is_object
    class_of = owners.of_pixel(truth.class_ids[:, None].clamp(min=0))  # (B, 1, P)
    hard = truth.counted
    if config.bootstrap_px:
        wrong = outputs.seed.detach().scatter_add(1, class_of, -target[:, None])
        hard = hard_pixels(1 - wrong.abs().amax(1), truth.counted, config.bootstrap_px)
    every_map = outputs.seed.square().sum(1)
    at_objects = outputs.seed.gather(1, class_of)[:, 0]
    others = config.other_class_weight * (every_map - at_objects.square())
    weight = config.foreground_weight * class_weights[class_of[:, 0]]
    boost = (config.small_object_px / sizes).clamp(min=1)
    objects = boost * (weight * (at_objects - target).square() + others)
    seed = (torch.where(is_object, objects, every_map) * hard).sum(1)
    pixels = truth.own.shape[1]
    seed = seed / (hard.sum(1).clamp(min=1) if config.bootstrap_px else pixels)
    return torch.stack([instance, smooth, seed], 1)


class _Owners:
    """Averages over the pixels of instances, and spreads back; pixels of no instance use dummy
    places beyond the last one."""

    def __init__(self, truth: Truth) -> None:
        n_pixels, self.count = truth.own.shape[1], truth.class_ids.shape[1]
        beyond = self.count + torch.arange(n_pixels, device=truth.own.device) % SPREAD
        self.place = torch.where(truth.own >= 0, truth.own, beyond)  # (B, P)
        self.sizes = self._sum(torch.ones_like(truth.own, dtype=torch.float32)[:, None])[:, 0]
        self.sizes = self.sizes.clamp(min=1)  # (B, K)

    def _sum(self, values: Tensor) -> Tensor:
        total = values.new_zeros(*values.shape[:2], self.count + SPREAD)
        place = self.place[:, None].expand_as(values)
        return total.scatter_add(2, place, values)[..., : self.count]

    def mean(self, values: Tensor) -> Tensor:
        """(B, C, P) to (B, C, K); 0 for an instance without pixels."""
        return self._sum(values) / self.sizes[:, None]

    def of_pixel(self, values: Tensor) -> Tensor:
        """(B, C, K) to (B, C, P): the value of a pixel's instance; of the last one if without."""
        place = self.place.clamp(max=self.count - 1)[:, None]
        return values.gather(2, place.expand(-1, values.shape[1], -1))


class BinnedInstanceLoss(torch.autograd.Function):
    """Mean over instances of the Lovász hinge of 2 phi - 1 against the instance's mask, per image.

    apply(embedding (B, 2, P), center (B, 2, K), scale (B, 2, K), own (B, P), counted (B, P),
    n (B,)) -> (B,), the sum over instances / n

    The exact loss sorts all errors and weights a pixel by how much the Jaccard index falls there.
    Here the pixels of a bin share its fall, as if all their orders were equally likely.
    """

    @staticmethod
    def forward(
        ctx: Any,
        embedding: Tensor,
        center: Tensor,
        scale: Tensor,
        own: Tensor,
        counted: Tensor,
        n: Tensor,
    ) -> Tensor:
        find = _in_triton if embedding.is_cuda and gpu.runs_triton(embedding.device) else _in_torch
        value, by_embedding, by_center, by_scale = find(embedding, center, scale, own, counted, n)
        share = (1 / n)[:, None, None]
        ctx.save_for_backward(by_embedding * share, by_center * share, by_scale * share)
        return value / n

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        given = upstream[0][:, None, None]
        return *(gradient * given for gradient in ctx.saved_tensors), None, None, None


def _in_triton(
    embedding: Tensor, center: Tensor, scale: Tensor, own: Tensor, counted: Tensor, n: Tensor
) -> Gradients:
    """`_in_torch`, a tenth of its time on a GPU."""
    from instaseg_ros.methods.binned_kernels import Pairs

    pairs = Pairs(embedding, center, scale, own, counted, n.clamp(max=center.shape[2]), BINS)
    by_embedding, sums = pairs.pulls(_falls(pairs.histogram()))
    pull, squared, loss = sums.transpose(1, 2).split((2, 2, 1), 1)  # (B, ., K)
    return loss.sum((1, 2)), by_embedding, -2 * pull * scale, squared


def _in_torch(
    embedding: Tensor, center: Tensor, scale: Tensor, own: Tensor, counted: Tensor, n: Tensor
) -> Gradients:
    by_embedding = torch.zeros_like(embedding)
    parts = []
    for some in _portions(center.shape[2], own.numel()):
        instances = torch.arange(some.start, some.stop, device=own.device)
        inside = own[:, None] == instances[:, None]  # (B, k, P)
        apart = [embedding[:, None, c] - center[:, c, some, None] for c in (0, 1)]
        s = [scale[:, c, some, None] for c in (0, 1)]
        phi = torch.exp(-(apart[0].square() * s[0] + apart[1].square() * s[1]))
        errors = torch.where(inside, 2 - 2 * phi, 2 * phi)
        weights = _bin_weights(errors, inside, counted)
        # d loss / d squared distance
        slope = weights * torch.where(inside, 2.0, -2.0) * phi
        pulls = [slope * a for a in apart]
        for c in (0, 1):
            by_embedding[:, c] += 2 * (pulls[c] * s[c]).sum(1)
        total = [pull.sum(2) for pull in pulls]
        by_center = torch.stack([-2 * t * s[c][..., 0] for c, t in enumerate(total)], 1)
        by_scale = torch.stack([(p * a).sum(2) for p, a in zip(pulls, apart, strict=True)], 1)
        parts.append(((errors * weights).sum((1, 2)), by_center, by_scale))
    values, by_centers, by_scales = zip(*parts, strict=True)
    value = torch.stack(values).sum(0)
    return value, by_embedding, torch.cat(by_centers, 2), torch.cat(by_scales, 2)


def _bin_weights(errors: Tensor, inside: Tensor, counted: Tensor) -> Tensor:
    """(B, k, P): the weight of a pixel's error in its instance's loss.

    A pixel outside the instance whose error is in the last bin weighs nothing: by then all of the
    instance's own pixels have come, except perfect ones.
    """
    n_pixels = errors.shape[2]
    place = (errors * (BINS / 2)).to(torch.int64).clamp(0, BINS - 1)
    nowhere = ~counted[:, None] | (~inside & (place == 0))
    beyond = 2 * BINS + torch.arange(n_pixels, device=errors.device) % BINS
    place = torch.where(nowhere, beyond, torch.where(inside, place, place + BINS))
    table = errors.new_zeros(*errors.shape[:2], 3 * BINS)
    table.scatter_add_(2, place, torch.ones((), device=errors.device).expand_as(errors))
    falls = _falls(table[..., : 2 * BINS].unflatten(2, (2, BINS))).flatten(2)
    return pad(falls, (0, BINS)).gather(2, place)


def _falls(table: Tensor) -> Tensor:
    """(B, k, 2, BINS): the fall of the Jaccard index at a pixel of each bin, from the number of the
    instance's own and of other pixels there."""
    own, other = table.flip(3).unbind(2)  # worst first
    hits, wrong = own.cumsum(2), other.cumsum(2)
    size = hits[..., -1:]
    before, after = ((size + w).clamp(min=1) for w in (wrong - other, wrong))
    fall_own = (1 / before + 1 / after) / 2
    fall_other = (size - hits + own / 2) / (before * after)
    return (torch.stack([fall_own, fall_other], 2) * (size > 0)[:, :, None]).flip(3)


def _portions(n_instances: int, n_pixels: int) -> list[slice]:
    """Slices of instances with at most MAX_PAIRS pixels each."""
    step = max(1, MAX_PAIRS // n_pixels)
    return [slice(k, min(k + step, n_instances)) for k in range(0, n_instances, step)]
