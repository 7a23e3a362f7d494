"""Triton kernels of `binned_loss`: each pixel of an image meets each of its instances in registers.

torch would write a dozen arrays of B x K x P values to memory.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, no-check-untyped-defs
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024  # pixels of a program
SUMS = 5  # what `pulls` adds up: pull x, y; pull times distance x, y; loss


@triton.jit
def _met(embedding, center, scale, own, counted, image, pixel, there, k, n_pixels, n_instances,
         BINS: tl.constexpr):  # fmt: skip
    """Pixels and instance k of an image: distance x, y; phi; whether they belong to it; error; the
    place of the error in a table (2, BINS) of own and other pixels; whether it is counted there."""
    at = 2 * image * n_instances + k
    x = tl.load(embedding + 2 * image * n_pixels + pixel, mask=there, other=0.0)
    y = tl.load(embedding + (2 * image + 1) * n_pixels + pixel, mask=there, other=0.0)
    x -= tl.load(center + at)
    y -= tl.load(center + at + n_instances)
    phi = tl.exp(-(x * x * tl.load(scale + at) + y * y * tl.load(scale + at + n_instances)))
    inside = tl.load(own + image * n_pixels + pixel, mask=there, other=-1) == k
    error = tl.where(inside, 2.0 - 2.0 * phi, 2.0 * phi)
    place = tl.minimum(tl.maximum((error * (BINS / 2)).to(tl.int32), 0), BINS - 1)  # NaN: 0
    seen = there & (tl.load(counted + image * n_pixels + pixel, mask=there, other=0) != 0)
    seen = seen & (inside | (place > 0))
    return x, y, phi, inside, error, place + tl.where(inside, 0, BINS), seen


@triton.jit
def histogram(
    embedding,  # (B, 2, P) float32
    center, scale,  # (B, 2, K) float32
    own,  # (B, P) int64
    counted,  # (B, P) uint8
    present,  # (B,) int64, instances of an image
    table,  # out: (B, K, 2, BINS) float32, zeros: pixels by error, own and other ones
    n_pixels, n_instances,
    BLOCK: tl.constexpr, BINS: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = pixel < n_pixels
    for k in range(tl.load(present + image)):
        _, _, _, _, _, place, seen = _met(
            embedding, center, scale, own, counted, image, pixel, there, k, n_pixels, n_instances,
            BINS,
        )  # fmt: skip
        row = table + (image * n_instances + k) * 2 * BINS
        tl.atomic_add(row + place, 1.0, mask=seen, sem="relaxed")


@triton.jit
def pulls(
    embedding, center, scale, own, counted, present,  # as for `histogram`
    falls,  # (B, K, 2, BINS) float32, weight of an error
    by_embedding,  # out: (B, 2, P) float32, gradients of the sum over instances
    sums,  # out: (B, blocks, K, SUMS) float32, zeros
    n_pixels, n_instances, n_sums,
    BLOCK: tl.constexpr, BINS: tl.constexpr,
):  # fmt: skip
    block, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    pixel = block * BLOCK + tl.arange(0, BLOCK)
    there = pixel < n_pixels
    by_x = tl.zeros((BLOCK,), tl.float32)
    by_y = tl.zeros((BLOCK,), tl.float32)
    for k in range(tl.load(present + image)):
        x, y, phi, inside, error, place, seen = _met(
            embedding, center, scale, own, counted, image, pixel, there, k, n_pixels, n_instances,
            BINS,
        )  # fmt: skip
        row = falls + (image * n_instances + k) * 2 * BINS
        weight = tl.load(row + place, mask=seen, other=0.0)
        slope = weight * tl.where(inside, 2.0, -2.0) * phi  # d loss / d squared distance
        at = 2 * image * n_instances + k
        by_x += 2.0 * slope * x * tl.load(scale + at)
        by_y += 2.0 * slope * y * tl.load(scale + at + n_instances)
        to = sums + ((image * tl.num_programs(0) + block) * n_instances + k) * n_sums
        tl.store(to, tl.sum(slope * x))
        tl.store(to + 1, tl.sum(slope * y))
        tl.store(to + 2, tl.sum(slope * x * x))
        tl.store(to + 3, tl.sum(slope * y * y))
        tl.store(to + 4, tl.sum(error * weight))
    tl.store(by_embedding + 2 * image * n_pixels + pixel, by_x, mask=there)
    tl.store(by_embedding + (2 * image + 1) * n_pixels + pixel, by_y, mask=there)


class Pairs:
    """The pixels and instances of a batch; arguments as for `BinnedInstanceLoss`, present (B,)."""

    def __init__(
        self,
        embedding: Tensor,
        center: Tensor,
        scale: Tensor,
        own: Tensor,
        counted: Tensor,
        present: Tensor,
        bins: int,
    ) -> None:
        parts = embedding, center, scale, own, counted.to(torch.uint8), present
        self.given = [part.contiguous() for part in parts]
        self.shape = (*center.shape[::2], 2, bins)
        self.n_pixels = own.shape[1]
        self.grid = triton.cdiv(self.n_pixels, BLOCK), len(own)

    def histogram(self) -> Tensor:
        """(B, K, 2, bins) float32: the number of pixels by error, own and other ones."""
        table = self.given[0].new_zeros(self.shape)
        histogram[self.grid](
            *self.given, table, self.n_pixels, self.shape[1], BLOCK=BLOCK, BINS=self.shape[3]
        )
        return table

    def pulls(self, falls: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient by embedding (B, 2, P), and SUMS over pixels (B, K, SUMS).

        falls: (B, K, 2, bins), the weight of an error.
        """
        by_embedding = torch.empty_like(self.given[0])
        sums = by_embedding.new_zeros(len(by_embedding), self.grid[0], self.shape[1], SUMS)
        pulls[self.grid](
            *self.given, falls.contiguous(), by_embedding, sums,
            self.n_pixels, self.shape[1], SUMS, BLOCK=BLOCK, BINS=self.shape[3],
        )  # fmt: skip
        return by_embedding, sums.sum(1)
