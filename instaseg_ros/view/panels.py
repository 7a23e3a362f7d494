"""Draws panels side by side: an image, what the network says of each pixel, and the clusters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from instaseg_ros.clustering.ellipses import MEMBERSHIP
from instaseg_ros.errors import ConfigError
from instaseg_ros.frames import Frame, Instances, Result
from instaseg_ros.methods import spatial_embedding
from instaseg_ros.methods.spatial_embedding import STEP_X, STEP_Y
from instaseg_ros.view.clusters import common_shift
from instaseg_ros.view.viewer import Viewed
from instaseg_ros.visualization import COLORS, overlay
from instaseg_ros.visualization.names import boxes_of

PANEL_PX = 640  # longer side of a panel
TITLE_PX = 26
ARROW_PX = 24  # between arrows
SHORTEST_PX = 4  # of an arrow
ALPHA = 0.5
GREY = (32, 34, 37)
WHITE = (255, 255, 255)
DIM = 0.25  # of the image's brightness, where a map says nothing
FONT = cv2.FONT_HERSHEY_SIMPLEX

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
    raw, (C, H, W) float32 by head. foreground: the least seed score of pixels that take part.
    """

    image: Picture
    clusters: Instances
    outputs: dict[str, NDArray[np.float32]]
    window: Window
    class_names: Sequence[str]
    foreground: float
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


def view(
    frame: Frame,
    result: Result,
    class_names: Sequence[str],
    foreground_threshold: float,
    region: Region | None = None,
) -> Picture:
    """(H, W, 3) uint8 RGB: the panels of a frame, two in a row if it is wide, else three.

    foreground_threshold: `decode.foreground_threshold`, for methods that have it. region: the part
    to magnify; None: everything. Raises ConfigError if it is not in the image.
    """
    if not isinstance(result, Viewed):
        raise TypeError(f"expected the result of a Viewer, got {type(result).__name__}")
    height, width = result.clusters.labels.shape
    image = cv2.resize(frame.image, (width, height), interpolation=cv2.INTER_AREA)
    window = _window(frame.image.shape[:2], (height, width), region)
    shift = common_shift(result.clusters)
    centers = (result.clusters.centers_xy - shift).astype(np.float32)
    scene = Scene(
        np.asarray(image, np.uint8),
        replace(result.clusters, centers_xy=centers),
        result.outputs,
        window,
        class_names,
        foreground_threshold,
        shift,
    )
    panels = [_titled(draw(scene), title) for title, draw in _panels(scene)]
    columns = 2 if window.width > 1.3 * window.height or len(panels) < 3 else 3
    blank = np.full_like(panels[0], GREY)
    panels += [blank] * (-len(panels) % columns)
    rows = [np.hstack(panels[n : n + columns]) for n in range(0, len(panels), columns)]
    return np.vstack(rows)


def _panels(scene: Scene) -> list[tuple[str, Callable[[Scene], Picture]]]:
    """What can be drawn of the heads that there are, with titles."""
    first = ("image", Scene.base)
    last = ("clusters, with their scores", _clusters)
    if {"offset", "bandwidth", "seed"} <= scene.outputs.keys():
        x, y = scene.shift
        less = f" (less {x:.0f}, {y:.0f}, common to all)" if scene.shift.any() else ""
        return [
            first,
            ("seed: how sure each pixel is, from 0 (dark) to 1; + the seeds", _seeds),
            (f"offset: where each pixel points{less}", _offsets),
            ("where they meet, and the ellipse that each cluster claims", _votes),
            ("bandwidth: how far each pixel would claim, in pixels", _bandwidth),
            last,
        ]
    if "embedding" in scene.outputs:
        return [first, ("embedding: its three main directions as red, green, blue", _main), last]
    return [first, last]


def _seeds(scene: Scene) -> Picture:
    score = _score(scene)
    picture = _mapped(scene.window, score, np.zeros_like(score) == 0, scene)
    for at in scene.window.at(_seed_pixels(scene)).tolist():
        for size, ink in ((3, (0, 0, 0)), (1, WHITE)):
            cv2.drawMarker(picture, at, ink, cv2.MARKER_CROSS, 11, size, cv2.LINE_AA)
    return picture


def _offsets(scene: Scene) -> Picture:
    window, points = scene.window, scene.points()
    height, width = points.shape[1:]
    there = np.stack(np.meshgrid(np.arange(width), np.arange(height)))
    x, y = np.nan_to_num(points - there)
    foreground = _foreground(scene)
    length = np.hypot(x, y)
    shown = window.cut(length)[window.cut(foreground)]
    longest = max(1.0, float(np.quantile(shown, 0.9)) if len(shown) else 1.0)
    hsv = np.full((height, width, 3), 1, np.float32)
    hsv[..., 0] = np.degrees(np.arctan2(y, x)) % 360
    hsv[..., 1] = np.clip(length / longest, 0.15, 1)
    rgb = (cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255).astype(np.uint8)
    picture = _over(scene, np.asarray(rgb), foreground)
    step = max(1, round(ARROW_PX / window.scale))
    rows, columns = np.nonzero(foreground[step // 2 :: step, step // 2 :: step])
    rows, columns = rows * step + step // 2, columns * step + step // 2
    begins = window.at(np.stack([columns, rows], 1).astype(float))
    ends = window.at(points[:, rows, columns].T)
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        length_px = math.dist(begin, end)
        if length_px < SHORTEST_PX:
            continue
        tip = min(0.5, 5 / length_px)
        cv2.arrowedLine(picture, begin, end, (0, 0, 0), 3, cv2.LINE_AA, tipLength=tip)
        cv2.arrowedLine(picture, begin, end, WHITE, 1, cv2.LINE_AA, tipLength=tip)
    return picture


def _votes(scene: Scene) -> Picture:
    window, points = scene.window, scene.points()
    x, y = np.rint(points[:, _foreground(scene)]).astype(int) - [[window.left], [window.top]]
    inside = (x >= 0) & (x < window.width) & (y >= 0) & (y < window.height)
    votes = np.zeros((window.height, window.width))
    np.add.at(votes, (y[inside], x[inside]), 1)
    strength = np.log1p(votes) / max(math.log1p(votes.max()), 1e-9)
    shown = window.magnified((strength * 255).astype(np.uint8))
    picture = cv2.cvtColor(
        cv2.applyColorMap(np.asarray(shown, np.uint8), cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB
    )
    clusters = scene.clusters
    centers = window.at(clusters.centers_xy)
    axes = np.clip(np.nan_to_num(clusters.bandwidths * window.scale), 1, 30000).astype(int)
    for n, center in enumerate(centers.tolist()):
        ink = COLORS[clusters.ids[n]].tolist()
        cv2.ellipse(picture, center, axes[n].tolist(), 0, 0, 360, WHITE, 3, cv2.LINE_AA)
        cv2.ellipse(picture, center, axes[n].tolist(), 0, 0, 360, ink, 2, cv2.LINE_AA)
        corner = center[0] + int(axes[n, 0]) + 3, center[1] + 4
        cv2.putText(picture, f"{clusters.ids[n]}", corner, FONT, 0.45, WHITE, 1, cv2.LINE_AA)
    return np.asarray(picture, np.uint8)


def _bandwidth(scene: Scene) -> Picture:
    raw = torch.from_numpy(scene.outputs["bandwidth"])
    scale = spatial_embedding.inverse_bandwidth(raw).double().numpy()
    with np.errstate(divide="ignore"):
        radius = np.sqrt(-math.log(MEMBERSHIP) / scale) / STEPS
    radius = np.sqrt(radius.prod(0))
    foreground = _foreground(scene) & np.isfinite(radius)
    cut, own = scene.window.cut, foreground & (scene.clusters.labels > 0)
    used = own if cut(own).any() else foreground
    if not cut(used).any():
        return scene.base(DIM)
    low, high = np.quantile(cut(radius)[cut(used)], (0.02, 0.98))
    shown = np.nan_to_num((radius - low) / max(high - low, 1e-9))
    picture = _mapped(scene.window, shown, foreground, scene)
    text = f"dark {low:.0f}, bright {high:.0f}"
    cv2.putText(picture, text, (6, picture.shape[0] - 8), FONT, 0.5, WHITE, 1, cv2.LINE_AA)
    return picture


def _main(scene: Scene) -> Picture:
    """The embedding of objects' pixels along its principal axes."""
    embedding = scene.outputs["embedding"]
    own = (scene.clusters.labels > 0) & np.isfinite(embedding).all(0)
    values = embedding[:, own].T.astype(float)
    if len(values) < 2:
        return scene.base(DIM)
    values -= values.mean(0)
    axes = np.linalg.svd(np.cov(values.T))[0][:, :3]
    main = values @ axes
    low, high = np.quantile(main, (0.02, 0.98), axis=0)
    shares = np.clip((main - low) / np.maximum(high - low, 1e-9), 0, 1)
    colors = np.zeros((*own.shape, 3), np.uint8)
    colors[own, : shares.shape[1]] = (55 + 200 * shares).astype(np.uint8)
    return _over(scene, colors, own)


def _clusters(scene: Scene) -> Picture:
    labels = np.asarray(scene.window.magnified(scene.window.cut(scene.clusters.labels)), np.uint16)
    clusters = scene.clusters.rows(np.isin(scene.clusters.ids, labels))
    boxes = boxes_of(labels, clusters.ids)
    shown = replace(clusters, labels=labels, boxes_xyxy=boxes)
    return overlay(Frame(scene.base()), shown, scene.class_names, ALPHA, with_ids=True)


def _seed_pixels(scene: Scene) -> NDArray[np.float64]:
    """(N, 2): x and y of each cluster's seed, which is the surest of its pixels."""
    score, found = _score(scene), []
    for label in scene.clusters.ids:
        surest = np.where(scene.clusters.labels == label, score, -1).argmax()
        found.append(np.unravel_index(surest, score.shape)[::-1])
    return np.array(found, float).reshape(-1, 2)


def _score(scene: Scene) -> NDArray[np.float32]:
    """(H, W): the seed score of the surest class."""
    return spatial_embedding.seed_score(torch.from_numpy(scene.outputs["seed"])).amax(0).numpy()


def _foreground(scene: Scene) -> NDArray[np.bool_]:
    """(H, W): the pixels that take part."""
    offset = scene.outputs["offset"]
    return (_score(scene) > scene.foreground) & np.isfinite(offset).all(0)


def _mapped(
    window: Window, share: NDArray[np.floating], where: NDArray[np.bool_], scene: Scene
) -> Picture:
    """Shares from 0 to 1 in colour over the dim image."""
    levels = (np.clip(np.nan_to_num(share), 0, 1) * 255).astype(np.uint8)
    colors = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
    return _over(scene, np.asarray(colors, np.uint8), where)


def _over(scene: Scene, colors: Picture, where: NDArray[np.bool_]) -> Picture:
    """Colours (H, W, 3) where they mean something, else the dim image."""
    window, picture = scene.window, scene.base(DIM)
    cut = window.cut(colors.transpose(2, 0, 1)).transpose(1, 2, 0)
    shown = window.magnified(window.cut(where).astype(np.uint8))
    cv2.copyTo(np.asarray(window.magnified(cut), np.uint8), np.asarray(shown, np.uint8), picture)
    return picture


def _window(camera: tuple[int, ...], network: tuple[int, int], region: Region | None) -> Window:
    height, width = network
    if region is None:
        return Window(0, 0, width, height, PANEL_PX / max(width, height))
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
    return Window(*begin, wide, high, PANEL_PX / max(wide, high))


def _titled(picture: Picture, title: str) -> Picture:
    """With a bar above it, and a margin."""
    framed = cv2.copyMakeBorder(picture, TITLE_PX, 4, 4, 4, cv2.BORDER_CONSTANT, value=GREY)
    cv2.putText(framed, title, (8, TITLE_PX - 8), FONT, 0.5, WHITE, 1, cv2.LINE_AA)
    return np.asarray(framed, np.uint8)
