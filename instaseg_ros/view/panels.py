"""Draws panels: an image, what the network says of each pixel, and the clusters."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from instaseg_ros.frames import Frame, Result
from instaseg_ros.view.scene import Picture, Region, Scene, scene_of
from instaseg_ros.view.viewer import Viewed
from instaseg_ros.visualization import COLORS, overlay
from instaseg_ros.visualization.names import boxes_of

TITLE_PX = 26
SHORTEST_PX = 4  # of an arrow
ALPHA = 0.5
GREY = (32, 34, 37)
WHITE = (255, 255, 255)
DIM = 0.25  # of the image's brightness, where a map says nothing
FONT = cv2.FONT_HERSHEY_SIMPLEX


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
    scene = scene_of(
        frame.image, result.outputs, result.clusters, class_names, foreground_threshold, region
    )
    panels = [_titled(draw(scene, name), _title(scene, name)) for name in names(scene.outputs)]
    wide = scene.window.width > 1.3 * scene.window.height
    columns = 2 if wide or len(panels) < 3 else 3
    blank = np.full_like(panels[0], GREY)
    panels += [blank] * (-len(panels) % columns)
    rows = [np.hstack(panels[n : n + columns]) for n in range(0, len(panels), columns)]
    return np.vstack(rows)


def names(heads: Collection[str]) -> tuple[str, ...]:
    """The panels that can be drawn of a network's heads, in order."""
    if {"offset", "bandwidth", "seed"} <= {*heads}:
        return "image", "seed", "offset", "votes", "bandwidth", "clusters"
    return ("image", "embedding", "clusters") if "embedding" in heads else ("image", "clusters")


def draw(scene: Scene, name: str) -> Picture:
    """One of the panels, without a title, in the size of the scene's window."""
    return _PANELS[name][1](scene)


def _title(scene: Scene, name: str) -> str:
    x, y = scene.shift
    less = f" (less {x:.0f}, {y:.0f}, common to all)"
    return _PANELS[name][0] + (less if name == "offset" and scene.shift.any() else "")


def _seeds(scene: Scene) -> Picture:
    score = scene.score()
    picture = _mapped(scene, score, np.ones(score.shape, bool))
    for at in scene.window.at(scene.seeds()).tolist():
        for size, ink in ((3, (0, 0, 0)), (1, WHITE)):
            cv2.drawMarker(picture, at, ink, cv2.MARKER_CROSS, 11, size, cv2.LINE_AA)
    return picture


def directions(scene: Scene) -> Picture:
    """Where pixels point: the direction as hue, the distance as saturation."""
    points, foreground = scene.points(), scene.foreground()
    height, width = points.shape[1:]
    there = np.stack(np.meshgrid(np.arange(width), np.arange(height)))
    x, y = np.nan_to_num(points - there)
    length = np.hypot(x, y)
    shown = scene.window.cut(length)[scene.window.cut(foreground)]
    longest = max(1.0, float(np.quantile(shown, 0.9)) if len(shown) else 1.0)
    hsv = np.full((height, width, 3), 1, np.float32)
    hsv[..., 0] = np.degrees(np.arctan2(y, x)) % 360
    hsv[..., 1] = np.clip(length / longest, 0.15, 1)
    rgb = (cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255).astype(np.uint8)
    return _over(scene, np.asarray(rgb), foreground)


def _offsets(scene: Scene) -> Picture:
    picture = directions(scene)
    begins, ends = (scene.window.at(points).tolist() for points in scene.arrows())
    for begin, end in zip(begins, ends, strict=True):
        length_px = math.dist(begin, end)
        if length_px < SHORTEST_PX:
            continue
        tip = min(0.5, 5 / length_px)
        cv2.arrowedLine(picture, begin, end, (0, 0, 0), 3, cv2.LINE_AA, tipLength=tip)
        cv2.arrowedLine(picture, begin, end, WHITE, 1, cv2.LINE_AA, tipLength=tip)
    return picture


def votes(scene: Scene) -> Picture:
    """Where pixels meet: brighter where more of them point to."""
    window = scene.window
    corner = [[window.left], [window.top]]
    x, y = np.rint(scene.points()[:, scene.foreground()]).astype(int) - corner
    inside = (x >= 0) & (x < window.width) & (y >= 0) & (y < window.height)
    found = np.zeros((window.height, window.width))
    np.add.at(found, (y[inside], x[inside]), 1)
    strength = np.log1p(found) / max(math.log1p(found.max()), 1e-9)
    shown = np.asarray(window.magnified((strength * 255).astype(np.uint8)), np.uint8)
    colors = cv2.cvtColor(cv2.applyColorMap(shown, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    return np.asarray(colors, np.uint8)


def _votes_and_ellipses(scene: Scene) -> Picture:
    picture, clusters, window = votes(scene), scene.clusters, scene.window
    centers = window.at(clusters.centers_xy)
    axes = np.clip(np.nan_to_num(clusters.bandwidths * window.scale), 1, 30000).astype(int)
    for n, center in enumerate(centers.tolist()):
        ink = COLORS[clusters.ids[n]].tolist()
        cv2.ellipse(picture, center, axes[n].tolist(), 0, 0, 360, WHITE, 3, cv2.LINE_AA)
        cv2.ellipse(picture, center, axes[n].tolist(), 0, 0, 360, ink, 2, cv2.LINE_AA)
        corner = center[0] + int(axes[n, 0]) + 3, center[1] + 4
        cv2.putText(picture, f"{clusters.ids[n]}", corner, FONT, 0.45, WHITE, 1, cv2.LINE_AA)
    return picture


def _bandwidth(scene: Scene) -> Picture:
    where, low, high = scene.claims()
    if not scene.window.cut(where).any():
        return scene.base(DIM)
    shown = np.nan_to_num((scene.radius() - low) / (high - low))
    picture = _mapped(scene, shown, where)
    text = f"dark {low:.0f}, bright {high:.0f}"
    cv2.putText(picture, text, (6, picture.shape[0] - 8), FONT, 0.5, WHITE, 1, cv2.LINE_AA)
    return picture


def main_directions(scene: Scene) -> Picture:
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


_PANELS: Mapping[str, tuple[str, Callable[[Scene], Picture]]] = {  # title, what draws it
    "image": ("image", Scene.base),
    "seed": ("seed: how sure each pixel is, from 0 (dark) to 1; + the seeds", _seeds),
    "offset": ("offset: where each pixel points", _offsets),
    "votes": ("where they meet, and the ellipse that each cluster claims", _votes_and_ellipses),
    "bandwidth": ("bandwidth: how far each pixel would claim, in pixels", _bandwidth),
    "embedding": ("embedding: its three main directions as red, green, blue", main_directions),
    "clusters": ("clusters, with their scores", _clusters),
}


def _mapped(scene: Scene, share: NDArray[np.floating], where: NDArray[np.bool_]) -> Picture:
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


def _titled(picture: Picture, title: str) -> Picture:
    """With a bar above it, and a margin."""
    framed = cv2.copyMakeBorder(picture, TITLE_PX, 4, 4, 4, cv2.BORDER_CONSTANT, value=GREY)
    cv2.putText(framed, title, (8, TITLE_PX - 8), FONT, 0.5, WHITE, 1, cv2.LINE_AA)
    return np.asarray(framed, np.uint8)
