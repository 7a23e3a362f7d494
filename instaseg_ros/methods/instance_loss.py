"""Computes the instance term of the spatial embedding's loss (Neven et al. 2019, eq. 6), for any
number of instances in little memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from instaseg_ros.methods.lovasz import lovasz_hinge

NEGLIGIBLE = 16.0  # phi below exp(-16) is negligible in a float32 sum
CELL = 32.0 / 1024  # lattice units, about 32 pixels: height of the strips that are searched
MAX_PAIRS = 1 << 18  # pixels of all instances at once: some tens of megabytes


def squared_distance(embedding: Tensor, center: Tensor, scale: Tensor) -> Tensor:
    """sum_c s_c (e_c - C_c)^2, so that phi = exp(-result); arguments (2, N), result (N,)."""
    return ((embedding - center).square() * scale).sum(0)


class InstanceLoss(torch.autograd.Function):
    """Mean over instances of the Lovász hinge of 2 phi - 1 against the instance's mask.

    apply(embedding (2, N), center (2, K), scale (2, K), own (N,), counted (N,)) -> scalar

    own: int64, instance of a pixel or -1; counted: bool, false for ignored pixels. Each instance
    considers its own pixels and those near enough to matter. The forward pass also computes the
    gradient, a few instances at a time, so that no graph over all pairs is ever kept.
    """

    @staticmethod
    def forward(
        ctx: Any, embedding: Tensor, center: Tensor, scale: Tensor, own: Tensor, counted: Tensor
    ) -> Tensor:
        inputs = [t.detach().requires_grad_() for t in (embedding, center, scale)]
        gradients = [torch.zeros_like(t) for t in inputs]
        value = embedding.new_zeros(())
        n_instances = center.shape[1]
        own_pixel = torch.nonzero(own >= 0).squeeze(1)
        reach = _reach(embedding, center, scale, own_pixel, own[own_pixel])
        for pixel, instance in _pairs(embedding, center, scale, reach, own, own_pixel, counted):
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


def _reach(
    embedding: Tensor, center: Tensor, scale: Tensor, own_pixel: Tensor, owner: Tensor
) -> Tensor:
    """(K,) squared distance beyond which other pixels add nothing to an instance's loss.

    In the Lovász hinge a pixel outside counts only if its error 2 phi is above the least error
    2 - 2 phi of the instance's own pixels: sorted after all of them, its weight is zero.
    """
    distance = squared_distance(*_at(own_pixel, embedding), *_at(owner, center, scale))
    nearest = distance.new_full((center.shape[1],), torch.inf)
    nearest.scatter_reduce_(0, owner, distance, "amin")
    limit = -torch.log(-torch.expm1(-nearest))  # phi above 1 - phi of the nearest own pixel
    return (limit * 1.001).nan_to_num(0.0).clamp(max=NEGLIGIBLE)


def _pairs(
    embedding: Tensor,
    center: Tensor,
    scale: Tensor,
    reach: Tensor,
    own: Tensor,
    own_pixel: Tensor,
    counted: Tensor,
) -> Iterator[tuple[Tensor, Tensor]]:
    """(pixel, instance), int64: an instance's own pixels and all others within its reach, a few
    whole instances at a time."""
    candidates = torch.nonzero(counted).squeeze(1)
    half = torch.sqrt(reach / scale) * (1 + 1e-5)
    order, start, length, strips = _search(embedding[:, candidates], center - half, center + half)
    order = candidates[order]
    owner = own[own_pixel]
    # The only wait for the GPU: how many strips and places each instance has.
    places = torch.cumsum(length, 0)[torch.cumsum(strips, 0) - 1] if len(length) else strips
    n_strips, ends = torch.stack([strips, places]).tolist()
    sizes = [end - begin for begin, end in zip([0, *ends], ends, strict=False)]
    for first, last in _portions(sizes):
        some = slice(sum(n_strips[:first]), sum(n_strips[:last]))
        count, total = length[some], sum(sizes[first:last])
        searcher = _repeated(strips[first:last], some.stop - some.start) + first
        instance = searcher.repeat_interleave(count, output_size=total)
        pixel = order[
            start[some].repeat_interleave(count, output_size=total) + _counting(count, total)
        ]
        distance = squared_distance(*_at(pixel, embedding), *_at(instance, center, scale))
        reached = torch.nonzero((distance < reach[instance]) & (own[pixel] != instance)).squeeze(1)
        mine = own_pixel, owner
        if (first, last) != (0, len(sizes)):
            held = torch.nonzero((owner >= first) & (owner < last)).squeeze(1)
            mine = own_pixel[held], owner[held]
        yield torch.cat([pixel[reached], mine[0]]), torch.cat([instance[reached], mine[1]])


def _search(points: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Which points (2, N) may lie in which of the boxes between `low` and `high` (2, K).

    Points are sorted by strips of CELL height and within a strip by x, so the part of a strip in a
    box is a contiguous range. Returns the order (N,); for each strip of each box, box after box,
    the first place and the number of places; and the number of strips of each box (K,).
    """
    if not points.shape[1]:
        nothing = torch.zeros(0, dtype=torch.int64, device=points.device)
        return nothing, nothing, nothing, nothing.new_zeros(low.shape[1])
    x, y = points.double().nan_to_num()
    low, high = low.double().nan_to_num(), high.double().nan_to_num()
    strip = (y / CELL).floor()
    left = x.min()
    span = (
        x.max() - left + 1
    )  # in the sort key, strips are this far apart; points of one strip are closer
    key, order = torch.sort(strip * span + (x - left))
    from_strip, to_strip = (
        (e / CELL).floor().clamp(strip.min(), strip.max()) for e in (low[1], high[1])
    )
    count = (to_strip - from_strip + 1).long()
    total = int(count.sum())
    box = _repeated(count, total)
    base = (from_strip[box] + _counting(count, total)) * span
    start, stop = (
        torch.searchsorted(key, base + (end[box] - left).clamp(-0.25, span - 0.75))
        for end in (low[0], high[0])
    )
    return order, start, stop - start, count


def _at(columns: Tensor, *arrays: Tensor) -> list[Tensor]:
    return [array.index_select(1, columns) for array in arrays]


def _repeated(lengths: Tensor, total: int) -> Tensor:
    """Each index k repeated lengths[k] times; `total` is the sum of `lengths`."""
    index = torch.arange(len(lengths), device=lengths.device)
    return index.repeat_interleave(lengths, output_size=total)


def _counting(lengths: Tensor, total: int) -> Tensor:
    """0, 1, ..., n - 1 for each n in `lengths`, concatenated; `total` is the sum of `lengths`."""
    begins = torch.cumsum(lengths, 0) - lengths
    return torch.arange(total, device=lengths.device) - begins.repeat_interleave(
        lengths, output_size=total
    )


def _portions(sizes: list[int]) -> Iterator[tuple[int, int]]:
    """Ranges of instances with at most MAX_PAIRS pixels in all, or of a single instance."""
    first, held = 0, 0
    for index, size in enumerate(sizes):
        if held + size > MAX_PAIRS and index > first:
            yield first, index
            first, held = index, 0
        held += size
    yield first, len(sizes)
