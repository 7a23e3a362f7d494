"""Outputs of a network, absurd ones too, through every method's decoding with checked indices."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from instaseg_ros.config.options import options_of
from instaseg_ros.methods import METHODS, make_method

KERNELS = Path(__file__).parents[2] / ".pytest_cache" / "boundscheck"  # compiled once
ENVIRONMENT = {
    "NUMBA_BOUNDSCHECK": "1",
    "NUMBA_CACHE_DIR": str(KERNELS),
    "INSTASEG_CACHE": str(KERNELS),
    "NUMBA_NUM_THREADS": "2",
}
ODD = (0.0, -0.0, 1.0, -1.0, 0.5, 3e38, -3e38, 1e-40, float("nan"), float("inf"), -float("inf"))


def seeds() -> list[bytes]:
    return [bytes([k, 0, 0, 0, 0, 0, 0, 1]) for k in range(len(METHODS))]


def mutate(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    return bytes([rng.choice(seeds)[0], *(rng.randrange(256) for _ in range(7))])


def feed(data: bytes, folder: Path) -> None:
    """data: method, height, width, how odd, thresholds, classes, seed."""
    which, height, width, oddness, seeding, foreground, classes, seed = data
    rng = np.random.default_rng([*data])
    name = list(METHODS)[which % len(METHODS)]
    method = make_method(name, 1 + classes % 3)
    size = (8 + height % 40, 8 + width % 40)
    thresholds = {
        "seed_threshold": seeding / 255,
        "foreground_threshold": foreground / 255,
        "min_pixels": seed % 9,
        "min_new_fraction": (seed % 5) / 4,
        "first_come": bool(seed & 1),
        "agreement": bool(seed & 2),
        "class_vote": bool(seed & 4),
    }
    config = options_of(name).DecodeConfig()
    known = {n: value for n, value in thresholds.items() if hasattr(config, n)}
    config = dataclasses.replace(config, **known)
    outputs = {}
    for head in method.heads:
        values = rng.normal(0, 10.0 ** (oddness % 7 - 3), (1, head.channels, *size))
        odd = rng.random(values.shape) < (0, 0, 0.01, 0.5)[oddness % 4]
        values[odd] = rng.choice(ODD, int(odd.sum()))
        outputs[head.name] = torch.from_numpy(values.astype(np.float32))
    cells = rng.normal(0, 1, (1, 1 + classes % 3, *(-(-side // 8) for side in size)))
    outputs["dense"] = torch.from_numpy(cells.astype(np.float32))
    (found,) = method.decode(outputs, config)
    assert found.labels.shape == size and found.labels.dtype == np.uint16
    assert set(np.unique(found.labels)) - {0} <= set(found.ids.tolist()), "a label without id"
    assert len(set(found.ids.tolist())) == len(found.ids)
    assert ((found.scores >= 0) & (found.scores <= 1)).all(), f"scores {found.scores}"
    assert ((found.class_ids >= 0) & (found.class_ids < 1 + classes % 3)).all()
    low, high = np.array([0, 0, 0, 0]), np.array([size[1], size[0]] * 2)
    assert ((found.boxes_xyxy >= low) & (found.boxes_xyxy <= high)).all(), found.boxes_xyxy
