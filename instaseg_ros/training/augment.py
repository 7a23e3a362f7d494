"""Makes random views of a labelled frame: window, scale, flip, turns, colour, blur, noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from instaseg_ros.config import AugmentConfig
from instaseg_ros.datasets import Sample
from instaseg_ros.training.camera_effects import camera_effects


class Color(NamedTuple):
    """A change of colours. saturation, contrast: factors of the distance from grey and from the
    mean; gain: (3,) factor of each channel. None: no change.
    blur, noise: standard deviations, in pixels and in grey values; 0: none.
    """

    saturation: float | None
    contrast: float
    gain: NDArray[np.float64]
    blur: float
    noise: float


def random_view(
    sample: Sample,
    center_xy: tuple[float, float] | None,
    size: tuple[int, int],
    config: AugmentConfig,
    rng: np.random.Generator,
    paste: Callable[[Sample, Sample, NDArray[np.float64]], Sample] | None = None,
) -> Sample:
    """A random window of `size` (H, W) that contains the pixel `center_xy` of the sample, or of any
    part of it (None).

    Pixels outside the image are ignored. Objects keep their ids; those outside the window are
    removed from `ids`. paste: puts more objects into it (`paste.Paste`).
    """
    scale, matrix = random_window(sample.labels.shape, center_xy, size, config, rng)
    view = _seen_through(sample, scale, matrix, size)
    if paste is not None:
        view = paste(view, sample, matrix)
    image = camera_effects(photometric(view.frame.image, config, rng), config.camera, rng)
    return dataclasses.replace(view, frame=dataclasses.replace(view.frame, image=image))


def _seen_through(
    sample: Sample, scale: float, matrix: NDArray[np.float64], size: tuple[int, int]
) -> Sample:
    """The sample through a `random_window`."""
    height, width = size

    def warp(image: NDArray[Any], how: int, border: int = 0) -> NDArray[Any]:
        return cv2.warpAffine(image, matrix, (width, height), flags=how, borderValue=[border] * 4)

    soft = shrunk(sample.frame.image, scale)
    labels = warp(sample.labels, cv2.INTER_NEAREST)
    outside = warp(np.zeros(sample.labels.shape, np.uint8), cv2.INTER_NEAREST, 1).astype(bool)
    ignore = outside
    if sample.ignore is not None:
        ignore = ignore | warp(sample.ignore.astype(np.uint8), cv2.INTER_NEAREST).astype(bool)
    crowd = None if sample.crowd is None else warp(sample.crowd, cv2.INTER_NEAREST)
    semantic = None if sample.semantic is None else warp(sample.semantic, cv2.INTER_NEAREST)
    present = np.bincount(labels.ravel(), minlength=1 << 16)[sample.ids] > 0
    return dataclasses.replace(
        sample,
        frame=dataclasses.replace(
            sample.frame,
            image=warp(soft, cv2.INTER_LINEAR),
            depth=None,
            intrinsics=_through(matrix, sample.frame.intrinsics),
        ),
        labels=labels,
        ids=sample.ids[present],
        class_ids=sample.class_ids[present],
        ignore=ignore,
        crowd=crowd,
        semantic=semantic,
    )


def random_window(
    source: tuple[int, ...],
    center_xy: tuple[float, float] | None,
    size: tuple[int, int],
    config: AugmentConfig,
    rng: np.random.Generator,
) -> tuple[float, NDArray[np.float64]]:
    """Magnification, and the (2, 3) matrix from pixels of an image of `source` (H, W) to those of a
    window of `size` that contains `center_xy`, or a random pixel (None)."""
    height, width = size
    source_h, source_w = source
    if center_xy is None:
        center_xy = source_w * rng.random(), source_h * rng.random()
    scale = float(np.exp(rng.uniform(np.log(config.scale_low), np.log(config.scale_high))))
    turn = _linear(scale, rng.random() < config.flip, int(rng.integers(4)) if config.turn else 0)
    corners = turn @ np.array([[0, source_w, 0, source_w], [0, 0, source_h, source_h]])
    shift = [
        _origin(point, extent, low, high, config.shift, rng)
        for point, extent, low, high in zip(
            turn @ center_xy, (width, height), corners.min(1), corners.max(1), strict=True
        )
    ]
    if scale == 1:
        shift = np.floor(shift).tolist()  # whole pixels keep the window sharp
    matrix = np.column_stack([turn, -np.array(shift)])
    matrix[:, 2] += matrix[:, :2] @ [0.5, 0.5] - 0.5  # pixel centres lie at half integers
    return scale, matrix


def random_color(config: AugmentConfig, rng: np.random.Generator) -> Color:
    """Random exposure, contrast, saturation and white balance; sometimes blur and noise."""
    strength = config.color
    saturation, contrast, gain = None, 1.0, np.ones(3)
    if strength:
        saturation = 1 + strength * rng.uniform(-1, 1)
        balance = 1 + 0.3 * strength * rng.uniform(-1, 1, 3)
        gain = np.exp(strength * rng.uniform(-1, 1)) * balance
        contrast = 1 + 0.5 * strength * rng.uniform(-1, 1)
    blur = rng.uniform(0.3, 1.2) if rng.random() < config.blur else 0.0
    noise = rng.uniform(1, 8) if rng.random() < config.noise else 0.0
    return Color(saturation, contrast, gain, blur, noise)


def photometric(
    image: NDArray[np.uint8], config: AugmentConfig, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """The image with a `random_color`."""
    color = random_color(config, rng)
    values: NDArray[Any] = image.astype(np.float32)
    if color.saturation is not None:
        grey = values.mean(2, keepdims=True)
        values = grey + (values - grey) * np.float32(color.saturation)
        middle = values.mean()
        values = middle + (values - middle) * np.float32(color.contrast)
        values *= color.gain.astype(np.float32)
    if color.blur:
        values = cv2.GaussianBlur(values, (0, 0), color.blur)
    if color.noise:
        values += rng.normal(0, color.noise, values.shape).astype(np.float32)
    return np.clip(values + 0.5, 0, 255).astype(np.uint8)


def _linear(scale: float, flip: bool, quarter_turns: int) -> NDArray[np.float64]:
    """(2, 2) matrix from source to view coordinates."""
    matrix = np.diag([-scale if flip else scale, scale])
    return np.linalg.matrix_power(np.array([[0, -1], [1, 0]]), quarter_turns) @ matrix


def _through(
    matrix: NDArray[np.float64], intrinsics: NDArray[np.float64] | None
) -> NDArray[np.float64] | None:
    """Intrinsics (3, 3) after the transform `matrix` (2, 3); a mirrored view has a negative focal
    length."""
    return None if intrinsics is None else np.vstack([matrix, [0, 0, 1]]) @ intrinsics


def _origin(
    point: float, extent: int, low: float, high: float, shift: float, rng: np.random.Generator
) -> float:
    """The start of a window of `extent` that contains `point`, within [low, high] if it fits."""
    if high - low <= extent:
        return rng.uniform(high - extent, low)
    place = rng.uniform(0.5 - shift, 0.5 + shift)
    return float(np.clip(point - extent * place, low, high - extent))


def shrinking_blur(scale: float) -> float:
    """Standard deviation, in pixels, of the smoothing before shrinking by `scale`; 0: none."""
    return 0.4 / scale if scale < 0.7 else 0.0


def shrunk(image: NDArray[np.uint8], scale: float) -> NDArray[Any]:
    """The image as smooth as it must be to be shrunk by `scale`."""
    sigma = shrinking_blur(scale)
    return cv2.GaussianBlur(image, (0, 0), sigma) if sigma else image
