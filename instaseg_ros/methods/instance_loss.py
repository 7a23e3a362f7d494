"""The instance term of the spatial embedding's loss (Neven et al. 2019, eq. 6), for any number of
instances in little memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from instaseg_ros.methods.lovasz import lovasz_hinge

NEGLIGIBLE = 16.0  # exp(-16): phi below this is nothing in a float32 sum
CELL = 32.0 / 1024  # lattice units, about 32 pixels: height of the strips that are searched
MAX_PAIRS = 1 << 18  # pixels of all instances at once: some tens of megabytes


def squared_distance(embedding: Tensor, center: Tensor, scale: Tensor) -> Tensor:
    """sum_c s_c (e_c - C_c)^2, of which phi is exp(-.); all (2, N), the result (N,)."""
    return ((embedding - center).square() * scale).sum(0)


class InstanceLoss(torch.autograd.Function):
    """Mean over instances of the Lovász hinge of 2 phi - 1 against the instance's mask.

    apply(embedding (2, N), center (2, K), scale (2, K), own (N,), counted (N,)) -> scalar

    own: int64, instance of a pixel or -1; counted: bool, false for ignored pixels. Each instance
    looks at its own pixels and at those that could fall for it. The gradient is made along the way,
    some instances at a time, so that no graph over all pairs is ever kept.
    """

    @staticmethod
    def forward(
        ctx: Any, embedding: Tensor, center: Tensor, scale: Tensor, own: Tensor, counted: Tensor
    ) -> Tensor:
        inputs = [t.detach().requires_grad_() for t in (embedding, center, scale)]
        gradients = [torch.zeros_like(t) for t in inputs]
        value = embedding.new_zeros(())
        n_instances = center.shape[1]
        reach = _reach(embedding, center, scale, own)
        for pixel, instance in _pairs(embedding, center, scale, reach, own, counted):
            with torch.enable_grad():
                distance = squared_distance(*_at(pixel, inputs[0]), *_at(instance, *inputs[1:]))
                logits = 2 * torch.exp(-distance) - 1
                part = lovasz_hinge(logits, own[pixel] == instance, instance, n_instances)
            value += part.detach()
            for total, new in zip(gradients, torch.autograd.grad(part, inputs), strict=True):
                total += new
        ctx.save_for_backward(*gradients)
        return value

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        return *(gradient * upstream[0] for gradient in ctx.saved_tensors), None, None


def _reach(embedding: Tensor, center: Tensor, scale: Tensor, own: Tensor) -> Tensor:
    """(K,) squared distance beyond which a pixel of another adds nothing to an instance's loss.

    In the Lovász hinge a pixel of the background counts only while its error 2 phi is above the
    least error 2 - 2 phi of the instance's own pixels: sorted after them all, its weight is zero.
    """
    pixel = torch.nonzero(own >= 0).squeeze(1)
    owner = own[pixel]
    distance = squared_distance(*_at(pixel, embedding), *_at(owner, center, scale))
    nearest = distance.new_full((center.shape[1],), torch.inf)
    nearest.scatter_reduce_(0, owner, distance, "amin")
    limit = -torch.log(-torch.expm1(-nearest))  # phi above 1 - phi of the nearest own pixel
    return (limit * 1.001).nan_to_num(0.0).clamp(max=NEGLIGIBLE)


def _pairs(
    embedding: Tensor, center: Tensor, scale: Tensor, reach: Tensor, own: Tensor, counted: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """(pixel, instance), int64: an instance's own pixels and all others within its reach, a few
    whole instances at a time."""
    candidates = torch.nonzero(counted).squeeze(1)
    half = torch.sqrt(reach / scale) * (1 + 1e-5)
    order, searcher, start, length = _search(embedding[:, candidates], center - half, center + half)
    order = candidates[order]
    own_pixel = torch.nonzero(own >= 0).squeeze(1)
    owner = own[own_pixel]
    sizes = torch.bincount(searcher, length.double(), minlength=center.shape[1])
    for first, last in _portions(sizes.tolist()):
        some = (searcher >= first) & (searcher < last)
        count = length[some]
        instance = searcher[some].repeat_interleave(count)
        pixel = order[start[some].repeat_interleave(count) + _counting(count)]
        distance = squared_distance(*_at(pixel, embedding), *_at(instance, center, scale))
        reached = (distance < reach[instance]) & (own[pixel] != instance)
        mine = (owner >= first) & (owner < last)
        yield (
            torch.cat([pixel[reached], own_pixel[mine]]),
            torch.cat([instance[reached], owner[mine]]),
        )


def _search(points: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Which points (2, N) may lie in which of the boxes between `low` and `high` (2, K).

    Points are sorted by strips of CELL height and within a strip by x, so what a box holds of a
    strip lies between two places in the order. Returns that order (N,) and, for each strip of each
    box, the box, the first place and the number of places.
    """
    if not points.shape[1]:
        return (torch.zeros(0, dtype=torch.int64, device=points.device),) * 4
    x, y = points.double().nan_to_num()
    low, high = low.double().nan_to_num(), high.double().nan_to_num()
    strip = (y / CELL).floor()
    left = x.min()
    span = x.max() - left + 1  # strips are so far apart in the order's key, and points less
    key, order = torch.sort(strip * span + (x - left))
    from_strip, to_strip = (
        (e / CELL).floor().clamp(strip.min(), strip.max()) for e in (low[1], high[1])
    )
    count = (to_strip - from_strip + 1).long()
    box = torch.arange(len(count), device=points.device).repeat_interleave(count)
    base = (from_strip[box] + _counting(count)) * span
    start, stop = (
        torch.searchsorted(key, base + (end[box] - left).clamp(-0.25, span - 0.75))
        for end in (low[0], high[0])
    )
    return order, box, start, stop - start


def _at(columns: Tensor, *arrays: Tensor) -> list[Tensor]:
    return [array.index_select(1, columns) for array in arrays]


def _counting(lengths: Tensor) -> Tensor:
    """0, 1, ..., n - 1 for each n of `lengths`, one after the other."""
    ends = torch.cumsum(lengths, 0)
    total = int(ends[-1]) if len(ends) else 0
    return torch.arange(total, device=lengths.device) - (ends - lengths).repeat_interleave(lengths)


def _portions(sizes: list[float]) -> Iterator[tuple[int, int]]:
    """Ranges of instances with at most MAX_PAIRS pixels together, or one instance."""
    first, held = 0, 0.0
    for index, size in enumerate(sizes):
        if held + size > MAX_PAIRS and index > first:
            yield first, index
            first, held = index, 0.0
        held += size
    yield first, len(sizes)
