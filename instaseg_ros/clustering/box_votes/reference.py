"""States the voting of `box_votes.cpu` in plain torch, for any device; tests compare with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from instaseg_ros.clustering import MAX_INSTANCES
from instaseg_ros.clustering.box_votes.cpu import (
    CANDIDATES,
    CELL_PX,
    LARGEST_PX,
    MAX_HYPOTHESES,
    MIN_IOU,
    PARTS_IOU,
    PARTS_PX,
    PARTS_SCORE,
    Points,
)
from instaseg_ros.clustering.label_image import labelled_instances
from instaseg_ros.frames import Instances

if TYPE_CHECKING:
    from instaseg_ros.config.options.box_regression import DecodeConfig


class Hypothesis(NamedTuple):
    """An object of one class: its pixels (N,), row-major, and its score in [0, 1]."""

    class_id: int
    pixels: Tensor
    score: float


def group(points: Points, config: DecodeConfig) -> Instances:
    """See `cpu.group`."""
    pixels, scores, boxes, (height, width) = points
    columns, rows = -(-width // CELL_PX), -(-height // CELL_PX)
    x, y, h, w = boxes
    usable = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    for side in (h, w):
        usable &= (side >= 1 / PARTS_PX) & (side <= LARGEST_PX)
    best = scores.nan_to_num(-1).sort(dim=0, descending=True, stable=True).indices[:CANDIDATES]
    hypotheses: list[Hypothesis] = []
    for c in range(len(scores) - 1):
        possible = usable & (best == c + 1).any(0) & (scores[c + 1] > config.foreground_threshold)
        own = torch.nonzero(possible).squeeze(1)
        parts = (boxes[:, own] * PARTS_PX).long()  # (4, N)
        cell = parts[1] // (CELL_PX * PARTS_PX) * columns + parts[0] // (CELL_PX * PARTS_PX)
        weight = (scores[c + 1, own] * PARTS_SCORE).round().long()
        votes = torch.stack([torch.ones_like(weight), weight, *(weight * parts)])  # (6, N)
        votes = votes.new_zeros(6, rows * columns).index_add(1, cell, votes)
        for cells, score in _suppress(votes, config.min_pixels):
            mine = pixels[own[cells[cell]]]
            if len(mine) > config.min_pixels and score >= config.seed_threshold:
                hypotheses.append(Hypothesis(c, mine, score))
    hypotheses.sort(key=lambda h: -h.score)  # stable
    del hypotheses[MAX_INSTANCES:]

    labels = torch.zeros(height * width, dtype=torch.int32, device=pixels.device)
    for rank, hypothesis in enumerate(hypotheses, 1):
        new = hypothesis.pixels[labels[hypothesis.pixels] == 0]
        if len(new) / len(hypothesis.pixels) > config.min_new_fraction:
            labels[new] = rank
    return labelled_instances(
        labels.view(height, width).cpu().numpy().astype(np.uint16),
        np.array([h.class_id for h in hypotheses], np.int64),
        np.array([h.score for h in hypotheses], np.float32),
        config.min_pixels,
        config.min_score,
    )


def _suppress(votes: Tensor, min_pixels: int) -> list[tuple[Tensor, float]]:
    """The cells (cells,) bool and score of each hypothesis of a class. votes: (6, cells) int64."""
    pixels, score, *sums = votes
    x, y, h, w = (part.double() / score.double() for part in sums)
    half_height, half_width = h / 2, w / 2
    left, top, right, bottom = x - half_width, y - half_height, x + half_width, y + half_height
    area = 4 * half_height * half_width
    free = score > 0
    found: list[tuple[Tensor, float]] = []
    while pixels[free].sum() > min_pixels and len(found) < MAX_HYPOTHESES:
        height_of_peak = (score * free).max()
        best = torch.nonzero(free & (score == height_of_peak))[0]  # the first on ties
        across = torch.minimum(right, right[best]) - torch.maximum(left, left[best])
        down = torch.minimum(bottom, bottom[best]) - torch.maximum(top, top[best])
        common = across.clamp(min=0) * down.clamp(min=0)
        iou = common / (area[best] + area - common)
        own = free & (iou > MIN_IOU)
        total = (score[own] * (iou[own] * PARTS_IOU).round().long()).sum()
        quality = int(total) / (int(pixels[own].sum()) * float(PARTS_SCORE * PARTS_IOU))
        found.append((own, quality))
        free &= ~own
    return found
