"""A small dataset of label images, and the options of a training that takes a moment."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

QUICK = {
    "train.steps": 4,
    "train.batch_size": 2,
    "train.crop_height": 64,
    "train.crop_width": 64,
    "train.workers": 0,
    "train.warmup_steps": 1,
    "train.save_every": 2,
    "train.validate_every": 4,
    "train.log_every": 1,
    "runtime.device": "cpu",
}


def set_options(values: dict[str, object]) -> list[str]:
    """Options as arguments of the command line, `--set NAME=VALUE`."""
    return [word for name, value in values.items() for word in ("--set", f"{name}={value}")]


def write_discs(root: Path, count: int, split: str = "") -> Path:
    """`count` images of 72 x 80 with bright discs on dark ground; returns `root`."""
    rng = np.random.default_rng([count, len(split)])
    y, x = np.mgrid[:72, :80]
    images, labels = root / "images" / split, root / "labels" / split
    for folder in (images, labels):
        folder.mkdir(parents=True)
    for number in range(count):
        label = np.zeros((72, 80), np.uint16)
        for k in range(1, 6):
            cx, cy, radius = rng.uniform(8, 72), rng.uniform(8, 64), rng.uniform(5, 9)
            label[(x - cx) ** 2 + (y - cy) ** 2 < radius**2] = k
        image = np.where(label[..., None] > 0, 60 + 35 * label[..., None], 20).repeat(3, 2)
        image = (image + rng.integers(0, 20, image.shape)).astype(np.uint8)
        cv2.imwrite(str(images / f"{number:02d}.png"), image)
        cv2.imwrite(str(labels / f"{number:02d}.png"), label)
    return root
