"""Turns one clicked pixel into one mask, in each method's own way.

The clicked pixel is the seed. Every pixel has a distance to it, in which 1 is the border that the
method itself draws around a seed; a width moves that border.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from instaseg_ros.clustering.box_votes.cpu import MIN_IOU
from instaseg_ros.clustering.ellipses import MEMBERSHIP
from instaseg_ros.config import Config
from instaseg_ros.labelling.regions import Region, component_at
from instaseg_ros.methods import (
    box_regression,
    discriminative,
    metric_learning,
    spatial_embedding,
)
from instaseg_ros.preprocess import Geometry

LEAST_REST = 0.1  # share of an object that is not like a clicked pixel

Points = NDArray[np.float32]  # (D, N) features of N pixels
Measure = Callable[[Points, int], NDArray[np.float32]]


@dataclass(frozen=True)
class Seeds:
    """What the network's outputs for one frame say about every pixel that may be clicked.

    features: (D, H * W) float32, at the network's size. measure: for features (D, N) and the index
    of a seed pixel, (N,) float32, the squared distance of each from the seed; 1 is the border.
    foreground: (H * W,) bool, pixels that the method clusters. class_ids: (H * W,) int64, the most
    likely class of each pixel. geometry: sizes of the camera's and the network's image.
    how: in words, what a click does.
    """

    features: Points
    measure: Measure
    foreground: NDArray[np.bool_]
    class_ids: NDArray[np.int64]
    geometry: Geometry
    how: str

    def __post_init__(self) -> None:
        places = np.flatnonzero(self.foreground)
        object.__setattr__(self, "_places", places)
        object.__setattr__(self, "_objects", np.ascontiguousarray(self.features[:, places]))

    def pixel(self, x: float, y: float) -> int:
        """The network's pixel under a place in the camera image, in pixels."""
        (height, width), (rows, columns) = self.geometry
        row = min(max(int(y * rows / height), 0), rows - 1)
        column = min(max(int(x * columns / width), 0), columns - 1)
        return row * columns + column

    def class_at(self, x: float, y: float) -> int:
        """The most likely class there."""
        return int(self.class_ids[self.pixel(x, y)])

    def distance(self, x: float, y: float) -> NDArray[np.float32]:
        """(h, w) float32 at the network's size: squared distance of each pixel from the one at a
        place in the camera image. Pixels that the method does not cluster are infinitely far,
        unless the seed is one of them."""
        seed, size = self.pixel(x, y), self.geometry.scaled
        if not self.foreground[seed]:
            return self.measure(self.features, seed).reshape(size)
        far = np.full(self.features.shape[1], np.inf, np.float32)
        far[self._places] = self.measure(self._objects, seed)  # type: ignore[attr-defined]
        return far.reshape(size)

    def mask(self, distance: NDArray[np.float32], width: float) -> NDArray[np.bool_]:
        """(H, W) bool at camera size: the pixels within `width` times the border."""
        return self.at_camera(distance < width**2)

    def at_camera(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A mask of the network's size at the camera's."""
        (height, width), scaled = self.geometry
        if scaled == (height, width):
            return mask
        nearest = cv2.INTER_NEAREST
        return cv2.resize(mask.view(np.uint8), (width, height), interpolation=nearest).view(bool)

    def at_network(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A mask of the camera's size at the network's."""
        camera, (rows, columns) = self.geometry
        if camera == (rows, columns):
            return mask
        nearest = cv2.INTER_NEAREST
        return cv2.resize(mask.view(np.uint8), (columns, rows), interpolation=nearest).view(bool)


def less(seeds: Seeds, own: NDArray[np.bool_], x: float, y: float, width: float) -> Region | None:
    """What a click takes away from an object: its pixels around the click that are more like the
    seed than like the rest of the object.

    own: (H, W) bool, the object's pixels.
    """
    small = np.flatnonzero(seeds.at_network(own))
    if not len(small):
        return component_at(own, x, y)
    seed, points = seeds.pixel(x, y), seeds.features[:, small]
    from_seed = seeds.measure(points, seed)
    rest = np.flatnonzero(from_seed >= width**2)
    if len(rest) < LEAST_REST * len(small):  # all of it is one cluster
        rest = np.arange(len(small))
    apart = np.square(points[:, rest] - np.median(points[:, rest], axis=1, keepdims=True)).sum(0)
    from_rest = seeds.measure(points, int(small[rest[apart.argmin()]]))
    gone = np.zeros(seeds.features.shape[1], bool)
    gone[small[(from_seed < width**2) & (from_seed < from_rest)]] = True
    gone[seed] = True
    return component_at(seeds.at_camera(gone.reshape(seeds.geometry.scaled)) & own, x, y)


def seeds_of(
    name: str, outputs: dict[str, Tensor], config: Config, geometry: Geometry
) -> Seeds | None:
    """The seeds of one frame; None for a method that knows no answer to a click.

    name: of the method. outputs: raw outputs (1, C, H, W) by head, without padding; they are
    copied.
    """
    of_method = METHODS.get(name)
    if of_method is None:
        return None
    images = {head: o[0].detach().float().cpu() for head, o in outputs.items()}
    return of_method(images, config.decode, geometry)


def _spatial_embedding(outputs: dict[str, Tensor], decode: Any, geometry: Geometry) -> Seeds:
    method = spatial_embedding
    height, width = outputs["offset"].shape[1:]
    embedding = method.embed(outputs["offset"], method.pixel_grid(height, width)).flatten(1).numpy()
    raw = outputs["bandwidth"].flatten(1).clone()
    best, class_ids = outputs["seed"].flatten(1).max(0)

    def measure(points: Points, seed: int) -> NDArray[np.float32]:
        scale = method.inverse_bandwidth(raw[:, seed]).expand(2).numpy() / -math.log(MEMBERSHIP)
        away = points[0] - embedding[0, seed]
        far: NDArray[np.float32] = away * away
        far *= scale[0]
        np.subtract(points[1], embedding[1, seed], out=away)
        away *= away
        away *= scale[1]
        far += away
        return far

    return Seeds(
        embedding,
        measure,
        (best >= method.least_logit(decode.foreground_threshold)).numpy(),
        class_ids.numpy(),
        geometry,
        "the clicked pixel's embedding and bandwidth make the mask",
    )


def _discriminative(outputs: dict[str, Tensor], decode: Any, geometry: Geometry) -> Seeds:
    embedding = discriminative.embed(outputs["embedding"]).flatten(1).numpy().copy()
    share, class_ids = torch.softmax(outputs["semantic"].flatten(1), 0)[1:].max(0)
    return Seeds(
        embedding,
        _around(embedding, lambda _: discriminative.BANDWIDTH**2),
        (share > decode.foreground_threshold).numpy(),
        class_ids.numpy(),
        geometry,
        "the mask is the pixels whose embedding is nearest to that of the clicked one",
    )


def _metric_learning(outputs: dict[str, Tensor], _: Any, geometry: Geometry) -> Seeds:
    method = metric_learning
    raw = outputs["embedding"]
    x, y = (torch.arange(n, dtype=raw.dtype) for n in raw.shape[:-3:-1])
    embedding = method.embed(raw, x, y).flatten(1).numpy()
    logits = outputs["masks"].flatten(1).unflatten(0, (len(method.TAUS), -1))  # (taus, C + 1, N)
    likely = torch.softmax(logits, 1)[:, 1:]
    class_ids = likely.amax(0).argmax(0).numpy()
    taus = likely.amax(1).argmax(0).numpy()
    return Seeds(
        embedding,
        _around(embedding, lambda seed: method.LIMITS[taus[seed]]),
        np.ones(embedding.shape[1], bool),  # a mask has every pixel that is similar enough
        class_ids,
        geometry,
        "the mask is the pixels most similar to the clicked one",
    )


def _around(embedding: Points, limit: Callable[[int], float]) -> Measure:
    """The squared distance in the embedding's space, in units of the limit of each seed."""

    def measure(points: Points, seed: int) -> NDArray[np.float32]:
        far = np.zeros(points.shape[1], np.float32)
        for channel, own in zip(points, embedding[:, seed], strict=True):
            away = channel - own
            away *= away
            far += away
        far /= np.float32(limit(seed))
        return far

    return measure


def _box_regression(outputs: dict[str, Tensor], decode: Any, geometry: Geometry) -> Seeds:
    raw = outputs["box"].flatten(1)
    height, width = outputs["box"].shape[1:]
    pixels = torch.arange(height * width)
    boxes = box_regression.embed(raw, torch.stack([pixels % width, pixels // width]) + 0.5)
    share, class_ids = torch.softmax(outputs["semantic"].flatten(1), 0)[1:].max(0)

    def measure(points: Points, seed: int) -> NDArray[np.float32]:
        overlap = box_regression.box_iou(torch.from_numpy(points), boxes[:, seed, None])
        far: NDArray[np.float32] = ((1 - overlap) / (1 - MIN_IOU)).square().numpy()
        return far

    return Seeds(
        boxes.numpy(),
        measure,
        (share > decode.foreground_threshold).numpy(),
        class_ids.numpy(),
        geometry,
        "the mask is the pixels that vote for the clicked one's box",
    )


METHODS = {
    "spatial_embedding": _spatial_embedding,
    "discriminative": _discriminative,
    "spatio_temporal": _discriminative,
    "metric_learning": _metric_learning,
    "box_regression": _box_regression,
}
