"""Outputs and truth for tests of the spatial embedding's loss."""

from __future__ import annotations

import torch

from instaseg_ros.methods import Targets


def batch(
    seed: int, n_sigma: int, radius_px: float, quality: float
) -> tuple[dict[str, torch.Tensor], Targets]:
    """Three images of 96 x 160 with rectangles of three classes; the last one has none."""
    rng = torch.Generator().manual_seed(seed)
    height, width = 96, 160
    labels = torch.zeros(3, height, width, dtype=torch.int64)
    offset = torch.zeros(3, 2, height, width)
    for image, count in ((0, 9), (1, 4)):
        for k in range(1, count + 1):
            y, x = (int(torch.randint(0, n - 30, (), generator=rng)) for n in (height, width))
            h, w = (int(torch.randint(6, 40, (), generator=rng)) for _ in range(2))
            labels[image, y : y + h, x : x + w] = k
        for k in range(1, count + 1):
            at = labels[image] == k
            row, column = torch.nonzero(at).float().unbind(1)
            if len(row):  # point to the centre, more or less
                offset[image, 0, at] = quality * (column.mean() - column) * (2 / 2047)
                offset[image, 1, at] = quality * (row.mean() - row) * (1 / 1023)
    noise = 0.004 * torch.randn(offset.shape, generator=rng)
    raw = torch.log(torch.tensor(0.7 / (radius_px / 1024) ** 2)) / 10
    outputs = {
        "offset": offset + noise,
        "bandwidth": raw + 0.03 * torch.randn(3, n_sigma, height, width, generator=rng),
        "seed": torch.randn(3, 3, height, width, generator=rng),
    }
    for output in outputs.values():
        output.requires_grad_()
    ignore = torch.rand(labels.shape, generator=rng) < 0.1
    ignore[0] |= labels[0] == 2  # an instance of which nothing counts
    classes = [torch.arange(9) % 3, torch.arange(4) % 3, torch.zeros(0, dtype=torch.int64)]
    return outputs, Targets(labels, classes, ignore)
