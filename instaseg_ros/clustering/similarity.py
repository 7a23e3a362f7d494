"""Clusters by similarity: chooses seeds that differ, and grows masks of the pixels similar to them.

Two pixels are similar if the squared distance of their embeddings is small. The masks grow in
compiled loops, as bits; `grow` states the same in plain torch, for tests.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from instaseg_ros.numba_cache import compile_all, kernel
from instaseg_ros.threads import buffer, each

if TYPE_CHECKING:
    from instaseg_ros.config.options.metric_learning import DecodeConfig

BAND_ROWS = 8  # image rows searched at a time
WORD = 64  # pixels whose membership is stored in one integer

Float = NDArray[np.float32]
Masks = tuple[NDArray[np.uint16], NDArray[np.bool_]]  # label image (H, W), accepted (K,)


def choose_seeds(
    embedding: Float, score: Float, alpha: float, least: float, most: int
) -> NDArray[np.int64]:
    """Choose at most `most` of M candidates: repeatedly the first one with the highest
    score * (1 - similarity to the most similar seed so far) ** alpha, while that is at least
    `least`.

    embedding: (M, D), score: (M,); similarity is 2 / (1 + exp(squared distance)). The product is
    rounded to float32, so that equal candidates tie.
    """
    compile_all()
    seeds = np.empty(min(most, len(score)), np.int64)
    return seeds[: _choose(np.ascontiguousarray(embedding), score, alpha, least, seeds)]


def grow_compiled(
    size: tuple[int, int],
    embed_rows: Callable[[int, int, Tensor], Any],
    seeds: Float,
    limits: Float,
    config: DecodeConfig,
) -> Masks:
    """`grow`, compiled.

    size: (H, W). embed_rows(first, end, out) writes the embedding (D, end - first, W) of those rows
    to `out`.
    """
    compile_all()
    height, width = size
    words = np.zeros((len(seeds), height, math.ceil(width / WORD)), np.uint64)

    def search(first: int) -> None:
        end = min(first + BAND_ROWS, height)
        rows = buffer("rows", np.float32, seeds.shape[1], end - first, width)
        embed_rows(first, end, torch.from_numpy(rows))
        _members(rows, seeds, limits, first, words)

    if len(seeds):
        each(search, range(0, height, BAND_ROWS))
    labels, accepted = np.zeros(size, np.uint16), np.zeros(len(seeds), np.bool_)
    _resolve(words, config.min_pixels, config.min_new_fraction, config.first_come, labels, accepted)
    return labels, accepted


def grow(embedding: Tensor, seeds: Tensor, limits: Tensor, config: DecodeConfig) -> Masks:
    """Masks of K seeds, the most certain first, in one label image, numbered from 1.

    embedding: (D, H, W); seeds: (K, D); limits: (K,), the largest squared distance of a member. A
    mask is accepted if it has more than `min_pixels` pixels, more than `min_new_fraction` of them
    not in an earlier accepted one. Pixels that two masks claim go to the more certain one, or with
    `first_come` false to the other.
    """
    labels = torch.zeros(embedding.shape[1:], dtype=torch.int32, device=embedding.device)
    taken = labels > 0
    accepted = np.zeros(len(seeds), np.bool_)
    for k in range(len(seeds)):
        mask = (embedding - seeds[k][:, None, None]).square().sum(0) <= limits[k]
        size, new = torch.stack([mask.sum(), (mask & ~taken).sum()]).tolist()
        if size > config.min_pixels and new > config.min_new_fraction * size:
            accepted[k] = True
            labels[mask & ~taken if config.first_come else mask] = int(accepted.sum())
            taken |= mask
    return labels.cpu().numpy().astype(np.uint16), accepted


@kernel("int64(float32[:,::1], float32[::1], float64, float64, int64[::1])")
def _choose(embedding, score, alpha, least, seeds):
    """`choose_seeds`, into `seeds`; returns their number."""
    channels = embedding.shape[1]
    active = np.arange(len(score))  # candidates that may still become seeds
    rank = score.copy()
    nearest = np.full(len(score), np.float32(np.inf))
    n = len(score)
    for count in range(len(seeds)):
        best = -1
        for j in range(n):
            i = active[j]
            if rank[i] >= least and (best < 0 or rank[i] > rank[best]):
                best = i
        if best < 0:
            return count
        seeds[count] = best
        left = 0
        for j in range(n):
            i = active[j]
            distance = np.float32(0)
            for c in range(channels):
                step = embedding[i, c] - embedding[best, c]
                distance += step * step
            if distance < nearest[i]:
                nearest[i] = distance
                # 1 - 2 / (1 + exp(x)) = tanh(x / 2)
                rank[i] = score[i] * math.tanh(0.5 * distance) ** alpha
            if i != best and rank[i] >= least and rank[i] > 0:
                active[left] = i
                left += 1
        n = left
    return len(seeds)


@kernel("void(float32[:,:,::1], float32[:,::1], float32[::1], int64, uint64[:,:,::1])")
def _members(embedding, seeds, limits, top, words):
    """Set the bits (K, H, W / WORD) of the pixels within each seed's limit, for the rows (D, h, W)
    of an image from `top` on.

    A seed is skipped for a block if even the bounding box of the block's embeddings is beyond its
    limit. Rounding keeps the order of differences, squares and sums, so no pixel is lost.
    """
    channels, height, width = embedding.shape
    low, high = np.empty(channels, np.float32), np.empty(channels, np.float32)
    distance = np.empty(WORD, np.float32)
    for word in range(words.shape[2]):
        left = word * WORD
        n = min(WORD, width - left)
        for c in range(channels):
            least, most = np.float32(np.inf), np.float32(-np.inf)
            for y in range(height):
                row = embedding[c, y, left : left + n]
                for i in range(n):
                    least = row[i] if row[i] < least else least
                    most = row[i] if row[i] > most else most
            low[c], high[c] = least, most
        for k in range(len(seeds)):
            gap = np.float32(0)
            for c in range(channels):
                step = max(low[c] - seeds[k, c], seeds[k, c] - high[c], np.float32(0))
                gap += step * step
            if gap > limits[k]:
                continue
            for y in range(height):
                distance[:n] = 0
                for c in range(channels):
                    row, seed = embedding[c, y, left : left + n], seeds[k, c]
                    for i in range(n):
                        distance[i] += (row[i] - seed) * (row[i] - seed)
                bits = np.uint64(0)
                for i in range(n):
                    bits |= np.uint64(distance[i] <= limits[k]) << np.uint64(i)
                words[k, top + y, word] = bits


@kernel("void(uint64[:,:,::1], int64, float64, boolean, uint16[:,::1], boolean[::1])")
def _resolve(words, min_pixels, min_new_fraction, first_come, labels, accepted):
    """Accept or reject each mask in turn, and paint it."""
    taken = np.zeros(words.shape[1:], np.uint64)
    number = 0
    for k in range(len(words)):
        size, new = 0, 0
        for y in range(words.shape[1]):
            for w in range(words.shape[2]):
                bits = words[k, y, w]
                if bits:
                    size += _count(bits)
                    new += _count(bits & ~taken[y, w])
        accepted[k] = size > min_pixels and new > min_new_fraction * size
        if not accepted[k]:
            continue
        number += 1
        for y in range(words.shape[1]):
            for w in range(words.shape[2]):
                bits = words[k, y, w]
                free = bits & ~taken[y, w] if first_come else bits
                taken[y, w] |= bits
                x = w * WORD
                while free:
                    if free & np.uint64(1):
                        labels[y, x] = number
                    free >>= np.uint64(1)
                    x += 1


@kernel("int64(uint64)")
def _count(bits):
    """The number of set bits: summed in pairs, fours, eights, then by a product."""
    pairs, fours = np.uint64(0x5555555555555555), np.uint64(0x3333333333333333)
    bits -= (bits >> np.uint64(1)) & pairs
    bits = (bits & fours) + ((bits >> np.uint64(2)) & fours)
    bits = (bits + (bits >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (bits * np.uint64(0x0101010101010101)) >> np.uint64(56)
