#!/usr/bin/env python3
"""Times what depth costs for each image: locating objects, their points, and projecting another
camera's depth. Milliseconds of a processor core, the least of some runs.

    python tools/depth_speed.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.clustering.label_image import labelled_instances
from instaseg_ros.frames import Frame
from instaseg_ros.localization import locate, object_points
from instaseg_ros.rays import sight
from instaseg_ros.registration import View, reprojected
from instaseg_ros.tables import text_table

SIZES = ((512, 1024), (1080, 1920))
OBJECTS = (30, 300)
COVERED = 0.6  # share of the image that the objects' squares have together, some over others
RUNS = 15


def main() -> None:
    rows = [(f"{w} x {h}", n, *measured((h, w), n)) for h, w in SIZES for n in OBJECTS]
    print(
        text_table(
            ("image", "objects", "locate", "points", "project"), rows, ("", "", *[".1f"] * 3)
        )
    )


def measured(size: tuple[int, int], count: int) -> tuple[float, float, float]:
    """Milliseconds to locate `count` objects, to make their points, and to project depth."""
    height, width = size
    labels, depth = scene(size, count)
    instances = labelled_instances(labels, np.zeros(count, np.int64), np.ones(count, np.float32))
    k = np.array([[0.6 * width, 0, width / 2], [0, 0.6 * width, height / 2], [0, 0, 1]])
    rays = sight(Frame(np.zeros((*size, 3), np.uint8), intrinsics=k))
    located = locate(instances, depth, rays)
    beside = np.eye(4)
    beside[0, 3] = 0.05
    source, target = View("depth", size, k), View("camera", size, k)
    return (
        least_ms(lambda: locate(instances, depth, rays)),
        least_ms(lambda: object_points(instances, located, depth, rays)),
        least_ms(lambda: reprojected(depth, source, target, beside)),
    )


def scene(size: tuple[int, int], count: int) -> tuple[NDArray[np.uint16], NDArray[np.float32]]:
    """Labels and depth (H, W) of squares at random places and distances, with 2 % of noise."""
    rng = np.random.default_rng(0)
    labels, depth = np.zeros(size, np.uint16), np.full(size, 50, np.float32)
    side = int(np.sqrt(COVERED * size[0] * size[1] / count))
    for label in range(1, count + 1):
        y, x = rng.integers(0, size[0] - side), rng.integers(0, size[1] - side)
        labels[y : y + side, x : x + side] = label
        depth[y : y + side, x : x + side] = rng.uniform(3, 40)
    return labels, depth * (1 + 0.02 * rng.standard_normal(size, np.float32))


def least_ms(work: Callable[[], object]) -> float:
    times = []
    for _ in range(RUNS):
        start = time.thread_time()
        work()
        times.append((time.thread_time() - start) * 1e3)
    return min(times)


if __name__ == "__main__":
    main()
