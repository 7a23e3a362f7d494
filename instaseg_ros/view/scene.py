"""What a network says of a frame, in pixels of the image that it saw, as pictures and recordings of
it show it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from instaseg_ros.clustering.ellipses import MEMBERSHIP
from instaseg_ros.errors import ConfigError
from instaseg_ros.frames import Instances
from instaseg_ros.methods import spatial_embedding
from instaseg_ros.methods.spatial_embedding import STEP_X, STEP_Y
from instaseg_ros.view.clusters import common_shift

PANEL_PX = 640  # longer side of a panel
ARROW_PX = 24  # between arrows, in the panel
ELLIPSE_CORNERS = 48

STEPS = np.array([STEP_X, STEP_Y])[:, None, None]  # of the lattice, for a pixel

Region = tuple[int, int, int, int]  # left, top, width, height in pixels of the camera's image
Picture = NDArray[np.uint8]


class Window(NamedTuple):
    """The part of the network's image that is shown, magnified by `scale`."""

    left: int
    top: int
    width: int
    height: int
    scale: float

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of a panel in pixels."""
        return max(1, round(self.width * self.scale)), max(1, round(self.height * self.scale))

    def cut(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """Its part of (..., H, W)."""
        rows = slice(self.top, self.top + self.height)
        return array[..., rows, self.left : self.left + self.width]

    def magnified(self, picture: NDArray[np.generic], smooth: bool = False) -> NDArray[np.generic]:
        """What was cut, (h, w) or (h, w, 3), in the panel's size."""
        how = cv2.INTER_LINEAR if smooth else cv2.INTER_NEAREST
        if smooth and self.scale < 1:
            how = cv2.INTER_AREA
        return cv2.resize(np.ascontiguousarray(picture), self.size, interpolation=how)

    def at(self, points: NDArray[np.floating]) -> NDArray[np.int64]:
        """(N, 2): points x, y of the network's image in pixels of the panel."""
        shown = (points - np.array([self.left, self.top]) + 0.5) * self.scale
        return np.clip(np.nan_to_num(shown), -30000, 30000).astype(int)


class Scene(NamedTuple):
    """A frame at the network's size.

    image: (H, W, 3) uint8 RGB. clusters: their centres without `shift` (`common_shift`). outputs:
    raw, (C, H, W) float32 by head. least_score: the seed score above which pixels take part.
    """

    image: Picture
    clusters: Instances
    outputs: Mapping[str, NDArray[np.float32]]
    window: Window
    class_names: Sequence[str]
    least_score: float
    shift: NDArray[np.float64]

    def base(self, brightness: float = 1.0) -> Picture:
        """The image in the panel's size."""
        shown = self.window.cut(self.image.transpose(2, 0, 1)).transpose(1, 2, 0)
        magnified = np.asarray(self.window.magnified(shown, smooth=True), np.uint8)
        return (magnified * brightness).astype(np.uint8)

    def points(self) -> NDArray[np.float64]:
        """(2, H, W): x and y to which each pixel points, in pixels, without `shift`."""
        offset = self.outputs["offset"]
        grid = spatial_embedding.pixel_grid(*offset.shape[1:])
        embedding = spatial_embedding.embed(torch.from_numpy(offset), grid).double().numpy()
        return embedding / STEPS - self.shift[:, None, None]

    def score(self) -> NDArray[np.float32]:
        """(H, W) in [0, 1]: the seed score of the surest class."""
        raw = torch.from_numpy(self.outputs["seed"])
        return spatial_embedding.seed_score(raw).amax(0).numpy()

    def foreground(self) -> NDArray[np.bool_]:
        """(H, W): the pixels that take part."""
        return (self.score() > self.least_score) & np.isfinite(self.outputs["offset"]).all(0)

    def seeds(self) -> NDArray[np.float64]:
        """(N, 2): x and y of each cluster's seed, which is the surest of its pixels."""
        score, found = self.score(), []
        for label in self.clusters.ids:
            surest = np.where(self.clusters.labels == label, score, -1).argmax()
            found.append(np.unravel_index(surest, score.shape)[::-1])
        return np.array(found, float).reshape(-1, 2)

    def radius(self) -> NDArray[np.float64]:
        """(H, W): how far each pixel would claim as a seed, in pixels, the (geometric) mean of both
        directions; not finite where the network says nonsense."""
        raw = torch.from_numpy(self.outputs["bandwidth"])
        scale = spatial_embedding.inverse_bandwidth(raw).double().numpy()
        with np.errstate(divide="ignore"):
            radius = np.sqrt(-math.log(MEMBERSHIP) / scale) / STEPS
        return np.sqrt(radius.prod(0))

    def claims(self) -> tuple[NDArray[np.bool_], float, float]:
        """(H, W): the pixels of the foreground with a `radius`; and from where to where those of
        objects in the window go, but for a few, in pixels."""
        radius, cut = self.radius(), self.window.cut
        where = self.foreground() & np.isfinite(radius)
        own = where & (self.clusters.labels > 0)
        used = cut(own if cut(own).any() else where)
        if not used.any():
            return where, 0.0, 1.0
        low, high = np.quantile(cut(radius)[used], (0.02, 0.98)).tolist()
        return where, low, max(high, low + 1e-9)

    def arrows(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(K, 2) and (K, 2): some pixels of the foreground, ARROW_PX apart in the panel, and where
        they point, in pixels."""
        step = max(1, round(ARROW_PX / self.window.scale))
        rows, columns = np.nonzero(self.foreground()[step // 2 :: step, step // 2 :: step])
        rows, columns = rows * step + step // 2, columns * step + step // 2
        return np.stack([columns, rows], 1).astype(float), self.points()[:, rows, columns].T

    def ellipses(self) -> NDArray[np.float64]:
        """(N, ELLIPSE_CORNERS + 1, 2): what each cluster claims, as closed lines in pixels."""
        turn = np.linspace(0, 2 * math.pi, ELLIPSE_CORNERS + 1)
        circle = np.stack([np.cos(turn), np.sin(turn)], 1)
        axes = np.nan_to_num(self.clusters.bandwidths).astype(float)
        return self.clusters.centers_xy[:, None] + axes[:, None] * circle


def scene_of(
    image: Picture,
    outputs: Mapping[str, NDArray[np.float32]],
    clusters: Instances,
    class_names: Sequence[str],
    least_score: float,
    region: Region | None = None,
    panel_px: int = PANEL_PX,
) -> Scene:
    """The scene of a camera's image (H, W, 3) uint8 RGB.

    outputs, clusters: at the network's size. region: the part to magnify; None: everything.
    panel_px: the panel's longer side; 0: a pixel for each of the network's. Raises ConfigError if
    the region is not in the image.
    """
    height, width = clusters.labels.shape
    window = _window(image.shape[:2], (height, width), region, panel_px)
    shown = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    shift = common_shift(clusters)
    centers = (clusters.centers_xy - shift).astype(np.float32)
    return Scene(
        np.asarray(shown, np.uint8),
        replace(clusters, centers_xy=centers),
        outputs,
        window,
        class_names,
        least_score,
        shift,
    )


def _window(
    camera: tuple[int, ...], network: tuple[int, int], region: Region | None, panel_px: int
) -> Window:
    height, width = network
    if region is None:
        return Window(0, 0, width, height, panel_px / max(width, height) if panel_px else 1.0)
    left, top, wide, high = region
    inside = left >= 0 and top >= 0 and left + wide <= camera[1] and top + high <= camera[0]
    if not inside or wide < 1 or high < 1:
        raise ConfigError(
            f"region: expected left, top, width and height inside the image of {camera[1]} x "
            f"{camera[0]} pixels, got {left} {top} {wide} {high}"
        )
    across, down = width / camera[1], height / camera[0]
    begin = min(int(left * across), width - 1), min(int(top * down), height - 1)
    wide = max(1, min(round(wide * across), width - begin[0]))
    high = max(1, min(round(high * down), height - begin[1]))
    return Window(*begin, wide, high, panel_px / max(wide, high) if panel_px else 1.0)
