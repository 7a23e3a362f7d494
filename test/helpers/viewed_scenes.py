"""A scene whose clustering is known: what a network would say of two squares."""

from __future__ import annotations

import math

import numpy as np
import torch

from instaseg_ros.config.options.spatial_embedding import DecodeConfig
from instaseg_ros.methods.spatial_embedding import STEP_X, STEP_Y, SpatialEmbedding
from instaseg_ros.view.viewer import Viewed

HEIGHT, WIDTH = 60, 120
CENTERS = ((30, 30), (85, 25))  # x, y in pixels
RADIUS = 12.0


def viewed_scene(shift: tuple[float, float] = (0, 0)) -> Viewed:
    """Two squares, all of whose pixels point to their centres, moved by `shift`."""
    offset = np.zeros((2, HEIGHT, WIDTH))
    seed = np.full((1, HEIGHT, WIDTH), -8.0)
    for x, y in CENTERS:
        rows, columns = np.mgrid[y - 10 : y + 11, x - 10 : x + 11]
        there = np.stack([x + shift[0] - columns, y + shift[1] - rows])
        steps = np.array([STEP_X, STEP_Y])[:, None, None]
        offset[:, rows, columns] = np.arctanh(there * steps)
        seed[0, rows, columns] = 2.0
        seed[0, y, x] = 4.0
    s = -math.log(0.5) / np.square(RADIUS * np.array([STEP_X, STEP_Y]))
    bandwidth = np.broadcast_to((np.log(s) / 10)[:, None, None], offset.shape)
    outputs = {
        name: torch.from_numpy(np.array(values, np.float32))
        for name, values in (("offset", offset), ("bandwidth", bandwidth), ("seed", seed))
    }
    batch = {name: values[None] for name, values in outputs.items()}
    (clusters,) = SpatialEmbedding(1).decode(batch, DecodeConfig(min_pixels=10))
    return Viewed(clusters, outputs={n: v.numpy() for n, v in outputs.items()}, clusters=clusters)
