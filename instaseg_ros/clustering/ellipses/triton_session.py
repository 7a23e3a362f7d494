"""Clusters a whole batch in a fixed number of Triton launches, and one read by the host.

The number of launches does not depend on objects or pixels, nothing is allocated, and nothing waits
for results in between, so the launches can be recorded as one CUDA graph.

Everything here has run in Triton's interpreter and compiles for compute capability 8.7 and 9.0; its
speed on a GPU has not been measured (`make gpu` does).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from instaseg_ros.clustering.ellipses import Groups, triton_kernels, triton_merge
from instaseg_ros.clustering.ellipses.cpu import largest_distance
from instaseg_ros.config.options.spatial_embedding import DecodeConfig

ROWS, COLUMNS = 64, 128  # of the grid over the embeddings, for any image
RUN = 256  # points that are examined together or not at all
RUNS = 16  # runs at a time
BESTS = 2048  # runs whose best points are compared at a time
SLOTS = 2048  # accepted instances that fit per class
ROUNDS = 4  # of settling contests between classes
REPORT = 11  # columns, see triton_merge
BLOCK = 1024  # pixels per program


class TritonGrouping:
    """`reference.group` for raw outputs of one shape (B, C, H, W) on one device.

    lattice: x of the pixel columns and y of the rows in embedding units, float32.
    """

    def __init__(
        self, shape: tuple[int, ...], n_sigma: int, device: Any, lattice: Sequence[Tensor]
    ) -> None:
        n_images, n_classes, height, width = self.shape = shape
        self.n_sigma = n_sigma
        self.slots = min(SLOTS, np.iinfo(np.int16).max // n_classes)
        # Room for two classes per pixel: hardly any pixel has more than one.
        n_points = min(n_classes, 2) * height * width + n_classes * ROWS * RUN
        self.capacity = -(-n_points // RUN) * RUN
        self.lattice = [axis.to(device) for axis in lattice]
        x, y = (float(axis[-1]) for axis in lattice)
        self.per_unit = COLUMNS / x if x else 0.0, ROWS / y if y else 0.0

        def room(dtype: torch.dtype, *sizes: int) -> Tensor:
            return torch.zeros(n_images, *sizes, dtype=dtype, device=device)

        i16, i32, i64, f32 = torch.int16, torch.int32, torch.int64, torch.float32
        n_pixels, ranks = height * width, n_classes * self.slots + 1
        self.busy = room(i32, -(-n_pixels // BLOCK))
        self.counts = room(i32, n_classes, ROWS * COLUMNS)  # 0 again after each call
        self.starts = room(i32, n_classes, ROWS * COLUMNS)
        self.row_ends = room(i32, n_classes, ROWS)
        self.class_ends = room(i32, n_classes)
        self.keys = room(i64, self.capacity)
        self.x, self.y = room(f32, self.capacity), room(f32, self.capacity)
        self.best = room(i64, self.capacity // RUN)
        self.accepted = room(i64, n_classes, self.slots)
        self.scores = room(f32, n_classes, self.slots)
        self.n_accepted = room(i32, n_classes)
        self.ellipses = room(f32, n_classes, self.slots, 4)
        self.ranks = room(i32, n_classes, self.slots)
        self.claims = room(i16, n_classes, n_pixels)
        self.labels = room(i16, height, width)
        self.report = room(i32, ranks, REPORT)
        # sizes, and the pixels lost in each round: cleared together
        self.sums = torch.zeros(1 + 2 * (ROUNDS + 1), n_images, ranks, dtype=i32, device=device)
        self.min_new_fraction = torch.zeros(1, dtype=torch.float64, device=device)

    def launch(
        self, outputs: Sequence[Tensor], least_logit: float, gain: float, config: DecodeConfig
    ) -> None:
        """Fill `labels` and `report`, without waiting.

        outputs, least_logit, gain: see `gpu.group`.
        """
        points, merge = triton_kernels, triton_merge
        n_images, n_classes, height, width = self.shape
        n_pixels = height * width
        offset, bandwidth, seed = ((t, *t.stride()) for t in outputs)
        seeds = *offset, *bandwidth, *self.lattice
        pixels = *offset, *bandwidth, *seed, *self.lattice, self.busy
        self.min_new_fraction.fill_(config.min_new_fraction)
        self.sums.zero_()
        sizes, rounds = self.sums[0], self.sums[1:].view(ROUNDS + 1, n_images, -1, 2)
        distance = float(largest_distance())
        of_kind = n_pixels, width, n_classes, least_logit
        grid = -(-n_pixels // BLOCK), n_images
        cells = {"ROWS": ROWS, "COLUMNS": COLUMNS}
        sigma = {"SIGMA": self.n_sigma}
        block, slots = {"BLOCK": BLOCK, "num_warps": 8}, {"SLOTS": self.slots}
        sized = {**slots, **block, "WIDTH": REPORT}

        _run(points.count, grid, *pixels, self.counts, *of_kind, *self.per_unit,
             **sigma, **cells, **block)  # fmt: skip
        _run(points.scan, (n_images,), self.counts, self.starts, self.row_ends, self.class_ends,
             self.keys, self.x, n_classes, self.capacity, **cells, RUN=RUN,
             num_warps=16)  # fmt: skip
        _run(points.place, grid, *pixels, self.counts, self.starts, self.keys, self.x, self.y,
             *of_kind, *self.per_unit, self.capacity, **sigma, **cells, **block)  # fmt: skip
        _run(points.crown, (-(-self.capacity // (RUN * RUNS)), n_images), self.keys,
             self.class_ends, self.best, n_classes, self.capacity, RUN=RUN, RUNS=RUNS)  # fmt: skip
        _run(points.grow, (n_classes, n_images), *seeds, self.starts, self.row_ends,
             self.class_ends, self.keys, self.x, self.y, self.best, self.accepted, self.scores,
             self.n_accepted, self.min_new_fraction, width, n_classes, self.capacity, gain,
             config.seed_threshold, config.min_pixels, distance, *self.per_unit, **sigma, **cells,
             RUN=RUN, RUNS=RUNS, BESTS=BESTS, **slots, AGREEMENT=config.agreement,
             num_warps=16)  # fmt: skip
        _run(merge.rank, (-(-self.slots // 64), n_classes, n_images), *seeds,
             self.accepted, self.scores, self.n_accepted, self.ellipses, self.ranks, self.report,
             width, n_classes, gain, **sigma, **slots, BLOCK=64, WIDTH=REPORT)  # fmt: skip
        _run(merge.claim, grid, *pixels, self.ellipses, self.ranks, self.n_accepted, self.claims,
             sizes, *of_kind, distance, **sigma, **slots, **block,
             FIRST_COME=config.first_come)  # fmt: skip
        n_rounds = ROUNDS if n_classes > 1 else 0
        for k in range(n_rounds):
            _run(merge.settle, grid, self.busy, self.claims, sizes, rounds[k], rounds[k + 1],
                 self.min_new_fraction, n_pixels, n_classes,
                 **slots, **block, FIRST=k == 0)  # fmt: skip
        _run(merge.number, (n_images,), sizes, rounds[n_rounds], self.n_accepted, self.class_ends,
             self.report, self.min_new_fraction, n_classes, height, width, **sized)  # fmt: skip
        _run(merge.paint, grid, self.busy, self.claims, self.report, self.labels, n_pixels,
             n_classes, **sized)  # fmt: skip
        _run(merge.measure, grid, self.labels, self.report, n_pixels, width,
             self.report.shape[1], **block, WIDTH=REPORT)  # fmt: skip

    def groups(self, labels: NDArray[np.int16], report: NDArray[np.int32]) -> list[Groups | None]:
        """Convert host copies of `labels` and `report`, which this takes over, to groups.

        None for an image with more points or instances than fit.
        """
        return [
            _groups(*image) if self._fits(image[1]) else None
            for image in zip(labels, report, strict=True)
        ]

    def _fits(self, report: NDArray[np.int32]) -> bool:
        _, _, n_open, most, points = report[0, :5].tolist()
        return n_open == 0 and most <= self.slots and points <= self.capacity


def _groups(labels: NDArray[np.int16], report: NDArray[np.int32]) -> Groups:
    n_accepted, n_kept = report[0, :2].tolist()
    rows = report[1 : n_accepted + 1]
    rows = rows[rows[:, 1] > 0]
    floats = rows[:, 2:7].view(np.float32)
    return Groups(
        labels=labels.view(np.uint16),
        class_ids=rows[:, 0].astype(np.int64),
        scores=floats[:, 0].copy(),
        boxes_xyxy=report[1 : n_kept + 1, 7:11].astype(np.float32),
        centers=floats[:, 1:3].copy(),
        scales=floats[:, 3:5].copy(),
    )


def _run(kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
    kernel[grid](*args, **options, enable_fp_fusion=False)


def check(device: torch.device) -> None:
    """Group a small image. Raises Triton's error if it cannot compile or run."""
    lattice = torch.linspace(0, 1, 16), torch.linspace(0, 1, 8)
    kernels = TritonGrouping((1, 2, 8, 16), 2, device, lattice)
    ones = torch.ones(1, 2, 8, 16, device=device)
    kernels.launch((ones, ones, ones), 0.0, 1.0, DecodeConfig())
    torch.cuda.current_stream(device).synchronize()
