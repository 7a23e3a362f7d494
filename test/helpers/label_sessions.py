"""Small frames to label, and a network for them that needs no weights."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from embedding_scenes import raw_bandwidth

from instaseg_ros.config import Config
from instaseg_ros.frames import Frame, Instances
from instaseg_ros.labelling.clicks import Seeds, seeds_of
from instaseg_ros.labelling.network import Seen
from instaseg_ros.methods import spatial_embedding as method
from instaseg_ros.preprocess import Geometry

SIZE = 48, 80
DISCS = ((20, 24, 9), (44, 24, 9), (64, 30, 7))  # x, y, radius of the objects in every frame
CLASSES = ("car", "person")


def picture(shift: int = 0) -> np.ndarray:
    """(H, W, 3) uint8: bright discs on noise, moved by `shift` pixels to the right."""
    image = np.random.default_rng(0).integers(20, 60, (*SIZE, 3)).astype(np.uint8)
    for k, (x, y, radius) in enumerate(DISCS):
        cv2.circle(image, (x + shift, y), radius, (200, 90 * k, 255 - 90 * k), -1)
    return image


def disc_labels(shift: int = 0) -> np.ndarray:
    """(H, W) uint16: the discs, numbered from 1."""
    labels = np.zeros(SIZE, np.uint16)
    for k, (x, y, radius) in enumerate(DISCS, 1):
        cv2.circle(labels, (x + shift, y), radius, k, -1)
    return labels


def write_frames(folder: Path, count: int = 3) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        cv2.imwrite(str(folder / f"{number:03d}.png"), picture(number)[..., ::-1])
    return folder


def outputs_of(labels: np.ndarray, radius_px: float = 12) -> dict[str, torch.Tensor]:
    """Raw outputs of the spatial embedding whose pixels point at the centres of these objects; the
    last object has the second class."""
    height, width = labels.shape
    grid = method.pixel_grid(height, width)
    offset = torch.zeros(1, 2, height, width)
    seed = torch.full((1, 2, height, width), -6.0)
    for number in range(1, int(labels.max()) + 1):
        mask = torch.from_numpy(labels == number)
        center = grid[:, mask].mean(1)
        offset[0][:, mask] = torch.atanh(center[:, None] - grid[:, mask])
        seed[0, int(number == labels.max())][mask] = 6.0
    bandwidth = torch.full((1, 2, height, width), raw_bandwidth(radius_px))
    return {"offset": offset, "bandwidth": bandwidth, "seed": seed}


def disc_seeds(shift: int = 0) -> Seeds:
    seeds = seeds_of(
        "spatial_embedding", outputs_of(disc_labels(shift)), Config(), Geometry(SIZE, SIZE)
    )
    assert seeds is not None
    return seeds


class DiscNetwork:
    """In the place of `Network`: it sees every disc but the last one."""

    state, how = "", "the mask is the disc"

    def want(self, number: int) -> None:
        pass

    def again(self, number: int) -> None:
        pass

    def seen(self, number: int) -> Seen:
        labels = disc_labels(number)
        labels[labels == len(DISCS)] = 0
        ids = np.arange(1, len(DISCS), dtype=np.uint16)
        count = len(ids)
        instances = Instances(
            labels,
            ids,
            np.zeros(count, np.int64),
            np.linspace(0.9, 0.8, count).astype(np.float32),
            np.zeros((count, 4), np.float32),
            np.zeros((count, 2), np.float32),
            np.zeros((count, 2), np.float32),
        )
        return Seen(instances, disc_seeds(number), CLASSES, self.how)

    def trouble(self, number: int) -> str:
        return ""

    def is_newer(self, number: int) -> bool:
        return False

    def stop(self) -> None:
        pass


def a_frame(number: int = 0) -> Frame:
    return Frame(picture(number), 100 * number, "camera", name=f"{number:03d}")


def asked(op: str, **more: Any) -> dict[str, Any]:
    """An edit as the server passes it on."""
    usual = {"into": 0, "class_id": None, "radius": 3.0, "width": 1.0, "mode": "new"}
    return {"op": op, "x": 0.0, "y": 0.0, "path": [(0.0, 0.0)], **usual, **more}


def wait_for(true: Callable[[], Any], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)
