"""Makes the benchmark's synthetic outputs, and defines the yardstick it compares with.

The synthetic outputs have a given number of objects and foreground pixels. The yardstick is the
published way: the network in eager float32 torch, NCHW, on a ready float tensor of pixels; then the
bare published loop, vectorised over the foreground pixels of a class. Other work of the published
code (a full-size mask of each object) is left out, in its favour. On a GPU its convolutions round
float32 to TF32, torch's default; ours in `fp32` do not, and are compared with the network on a CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from instaseg_ros.clustering.ellipses import MEMBERSHIP
from instaseg_ros.methods.spatial_embedding import (
    BANDWIDTH_GAIN,
    STEP_X,
    STEP_Y,
    embed,
    inverse_bandwidth,
    pixel_grid,
)

if TYPE_CHECKING:
    from instaseg_ros.checkpoint import Checkpoint
    from instaseg_ros.config.options.spatial_embedding import DecodeConfig

FOREGROUND_SHARE = 575_000 / (1024 * 2048)  # of a street's pixels


def made_to_measure(
    height: int,
    width: int,
    n_classes: int,
    n_sigma: int,
    objects: int,
    foreground_px: int,
    n_used: int = 0,
) -> dict[str, Tensor]:
    """Raw head outputs (1, C, H, W) for `objects` ellipses with `foreground_px` pixels in all.

    Like a trained network's, offsets point nine tenths of the way to the centre, with some noise.
    The objects cycle through the classes, or the first `n_used` of them.
    """
    rng = np.random.default_rng(0)
    rows = max(1, round((objects * height / width) ** 0.5))
    columns = -(-objects // rows)
    cell_h, cell_w = height / rows, width / columns
    share = foreground_px / objects / (cell_h * cell_w)  # of its cell, covered by an ellipse
    offset = np.zeros((2, height, width), np.float32)
    bandwidth = np.zeros((n_sigma, height, width), np.float32)
    seed = np.full((n_classes, height, width), -6.0, np.float32)
    axes_px = np.array([cell_w, cell_h]) * (share / np.pi) ** 0.5
    tight = 0.3 * axes_px * [STEP_X, STEP_Y]  # bandwidth around a centre
    raw = np.log(np.log(2) / np.square(tight[-n_sigma:])) / BANDWIDTH_GAIN
    for k in range(objects):
        center = (k % columns + 0.5) * cell_w, (k // columns + 0.5) * cell_h
        top, bottom = int(center[1] - cell_h / 2), min(height, int(center[1] + cell_h / 2))
        left, right = int(center[0] - cell_w / 2), min(width, int(center[0] + cell_w / 2))
        y, x = np.mgrid[top:bottom, left:right]
        distance = ((x - center[0]) / axes_px[0]) ** 2 + ((y - center[1]) / axes_px[1]) ** 2
        inside = distance <= 1
        rows_of, columns_of = slice(top, bottom), slice(left, right)
        for c, (position, step) in enumerate(((x, STEP_X), (y, STEP_Y))):
            toward = 0.9 * (center[c] - position) + rng.normal(0, 0.02 * axes_px[c], x.shape)
            offset[c, rows_of, columns_of][inside] = np.arctanh(
                np.clip(toward * step, -0.999, 0.999)
            )[inside]
        bandwidth[:, rows_of, columns_of][:, inside] = raw[:, None]
        logit = 5 - 3 * distance + rng.normal(0, 0.2, x.shape)
        seed[k % (n_used or n_classes), rows_of, columns_of][inside] = logit[inside]
    parts = {"offset": offset, "bandwidth": bandwidth, "seed": seed}
    return {name: torch.from_numpy(part)[None] for name, part in parts.items()}


class Yardstick:
    """The published network and clustering for images of one size."""

    def __init__(
        self, checkpoint: Checkpoint, images: NDArray[np.uint8], device: torch.device
    ) -> None:
        """images: (1, H, W, 3) uint8, the network's input."""
        self._network = checkpoint.network().eval().to(device)
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()  # (1, 3, H, W)
        self._pixels = pixels.to(device) / 255
        height, width = images.shape[1:3]
        self._grid = pixel_grid(height, width, device)

    @torch.inference_mode()
    def network(self) -> dict[str, Tensor]:
        """Raw head outputs (1, C, H, W)."""
        heads: dict[str, Tensor] = self._network(self._pixels)
        return heads

    @torch.inference_mode()
    def decode(self, outputs: dict[str, Tensor], config: DecodeConfig) -> list[Tensor]:
        """One label map (H, W) int32 per class, 0 = background, from raw (1, C, H, W) outputs."""
        offset, bandwidth, seed = (outputs[name][0] for name in ("offset", "bandwidth", "seed"))
        height, width = offset.shape[1:]
        embedding = embed(offset, self._grid[:, :height, :width])
        return [published_loop(embedding, bandwidth, torch.sigmoid(s), config) for s in seed]


def published_loop(
    embedding: Tensor, bandwidth: Tensor, score: Tensor, config: DecodeConfig
) -> Tensor:
    """The label map (H, W) int32 of one class; a pixel belongs to the last object that claims it.

    embedding: (2, H, W); bandwidth: (n_sigma, H, W) raw; score: (H, W).
    """
    labels = torch.zeros(score.shape, dtype=torch.int32, device=score.device)
    foreground = score > config.foreground_threshold
    n = int(foreground.sum())
    if n <= config.min_pixels:
        return labels
    embedding, bandwidth = embedding[:, foreground], bandwidth[:, foreground]
    score = score[foreground]
    own = torch.zeros(n, dtype=torch.int32, device=score.device)
    unclustered = torch.ones(n, device=score.device)
    count = 1
    while unclustered.sum() > config.min_pixels:
        seed = torch.argmax(score * unclustered)
        if score[seed] < config.seed_threshold:
            break
        unclustered[seed] = 0
        scale = inverse_bandwidth(bandwidth[:, seed, None])
        distance = ((embedding - embedding[:, seed, None]).square() * scale).sum(0)
        mask = torch.exp(-distance) > MEMBERSHIP
        size = mask.sum()
        if size > config.min_pixels and unclustered[mask].sum() / size > config.min_new_fraction:
            own[mask] = count
            count += 1
        unclustered[mask] = 0
    labels[foreground] = own
    return labels


def same_objects(labels: NDArray[np.uint16], per_class: list[Tensor]) -> bool:
    """Whether per-class label maps without contested pixels have the same objects as one label
    image, with any numbers."""
    merged = torch.zeros(labels.shape, dtype=torch.int64)
    for own in per_class:
        merged += torch.where(own > 0, own.long().cpu() + merged.max(), 0 * merged)
    pairs = np.unique(np.stack([labels.ravel(), merged.numpy().ravel()]), axis=1)
    one_to_one = all(len(np.unique(side)) == pairs.shape[1] for side in pairs)
    return one_to_one and bool(((pairs[0] == 0) == (pairs[1] == 0)).all())
