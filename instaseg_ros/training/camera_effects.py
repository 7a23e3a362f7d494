"""Imitates cameras: tone curves, colours, lens, weather on the lens, sensor noise, compression.

No pixel moves, so that labels stay right. Effects come in the order of light: air, lens, sensor,
development, file.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_LEVELS = np.linspace(0, 1, 256)


def camera_effects(
    image: NDArray[np.uint8], strength: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """The image (H, W, 3) RGB as another camera in another light might have taken it.

    strength: in [0, 1], scales how often and how far; 0 gives the image itself.
    """
    if strength == 0:
        return image

    def chance(share: float) -> bool:
        return bool(rng.random() < share * strength)

    seen: NDArray[Any] = image
    night = chance(0.12)
    if chance(0.15):
        seen = _haze(seen, rng)
    if chance(0.08):
        seen = _rain(seen, rng)
    if chance(0.06):
        seen = _droplets(seen, rng)
    if chance(0.3):
        seen = _vignette(seen, rng)
    seen = _colour_matrix(seen, strength, rng)
    seen = cv2.LUT(seen, _tone_curves(float(seen.mean()) / 255, strength, night, rng))
    if chance(0.35):
        seen = _blur(seen, rng)
    if chance(0.3):
        seen = _resampled(seen, rng)
    if night or chance(0.4):
        seen = _noise(seen, rng.uniform(4, 14) if night else rng.uniform(1, 9), rng)
    if chance(0.3):
        soft = cv2.GaussianBlur(seen, (0, 0), rng.uniform(0.7, 2))
        amount = rng.uniform(0.3, 1.5)
        seen = cv2.addWeighted(seen, 1 + amount, soft, -amount, 0)
    if chance(0.4):
        seen = _compressed(seen, rng)
    return np.asarray(seen, np.uint8)


def _tone_curves(
    mean: float, strength: float, night: bool, rng: np.random.Generator
) -> NDArray[Any]:
    """(1, 256, 3) levels: exposure, white balance, gamma, contrast, black and white point, and a
    bent curve of each channel, in one table.

    mean: of the image, in [0, 1]: exposure aims at another mean, as cameras do.
    """
    aim = rng.uniform(0.06, 0.16) if night else math.exp(rng.uniform(math.log(0.15), math.log(0.6)))
    exposure = min(4.0, aim / max(mean, 0.02)) ** strength
    gamma = math.exp(strength * rng.uniform(-0.4, 0.4))
    steep = math.exp(strength * rng.uniform(-0.5, 0.6))  # of an S around the middle
    black, white = strength * rng.uniform(-0.08, 0.12), 1 + strength * rng.uniform(-0.2, 0.1)
    balance = np.exp(strength * rng.normal(0, 0.1, 3))
    bends = strength * rng.normal(0, 0.03, (2, 3))
    value = np.clip(_LEVELS[:, None] * exposure * balance, 0, 1) ** gamma
    value = np.clip(aim + steep * (value - aim), 0, 1)
    value = value + bends[0] * np.sin(math.pi * value) + bends[1] * np.sin(2 * math.pi * value)
    value = black + (white - black) * value
    return np.clip(value * 255 + 0.5, 0, 255).astype(np.uint8)[None]


def _colour_matrix(image: NDArray[Any], strength: float, rng: np.random.Generator) -> NDArray[Any]:
    """Saturation, sometimes none at all, and hue turned about grey."""
    saturation = 0.0 if rng.random() < 0.05 * strength else 1 + strength * rng.uniform(-0.8, 0.4)
    angle = strength * rng.normal(0, 0.07)
    grey = np.full((3, 3), 1 / 3)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    turn = math.cos(angle) * (np.eye(3) - grey) + math.sin(angle) * cross
    return cv2.transform(image, grey + saturation * turn)


def _haze(image: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """A bright veil, uneven, as of mist, low sun or a dirty windscreen."""
    height, width = image.shape[:2]
    patches = rng.uniform(0.3, 1, (3, 4)).astype(np.float32)
    veil = cv2.resize(patches, (width, height), interpolation=cv2.INTER_CUBIC)
    veil = np.clip(veil, 0, 1)[..., None] * np.float32(rng.uniform(0.05, 0.35))
    tint = rng.uniform(140, 250) + rng.normal(0, 8, 3)
    return _rounded(image + veil * (tint.astype(np.float32) - image))


def _rain(image: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Bright streaks of one slant."""
    height, width = image.shape[:2]
    streaks = np.zeros((height, width), np.uint8)
    length, slant = rng.uniform(0.03, 0.12) * height, rng.normal(0, 0.25)
    for x, y, far in rng.random((int(rng.integers(60, 400)), 3)):
        reach = length * (0.4 + far)
        start = int(x * width), int(y * height)
        end = int(x * width + slant * reach), int(y * height + reach)
        cv2.line(streaks, start, end, int(30 + 60 * far), 1, cv2.LINE_AA)
    return cv2.add(image, cv2.cvtColor(cv2.GaussianBlur(streaks, (3, 3), 0.7), cv2.COLOR_GRAY2RGB))


def _droplets(image: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Round spots through which the picture is blurred and a little brighter."""
    height, width = image.shape[:2]
    spots = np.zeros((height, width), np.uint8)
    for x, y, size in rng.random((int(rng.integers(3, 25)), 3)):
        radius = max(1, int(height * (0.01 + 0.05 * size**3)))
        cv2.circle(spots, (int(x * width), int(y * height)), radius, 255, -1)
    share = cv2.GaussianBlur(spots, (0, 0), 2)[..., None].astype(np.float32) / 300
    blurred = cv2.blur(image, (15, 15)).astype(np.float32) + np.float32(rng.uniform(-20, 25))
    return _rounded(image + share * (blurred - image))


def _vignette(image: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    height, width = image.shape[:2]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None] - np.float32(rng.normal(0, 0.3))
    x = np.linspace(-1, 1, width, dtype=np.float32) - np.float32(rng.normal(0, 0.3))
    shade = 1 - np.float32(rng.uniform(0.05, 0.35)) * (x * x + y * y)
    return _rounded(image * np.maximum(shade, 0)[..., None])


def _blur(image: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Out of focus, or moved."""
    if rng.random() < 0.65:
        return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.8))
    size = int(rng.choice([3, 5, 7, 9]))
    kernel = np.zeros((size, size), np.float32)
    angle = rng.normal(0, 0.5) if rng.random() < 0.7 else rng.uniform(0, math.pi)
    reach = np.array([math.cos(angle), math.sin(angle)]) * (size // 2)
    middle = size // 2
    one, two = ((middle + sign * reach + 0.5).astype(int).tolist() for sign in (-1, 1))
    cv2.line(kernel, one, two, 1.0, 1)
    return cv2.filter2D(image, -1, kernel / kernel.sum())


def _resampled(image: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Shrunk and magnified again."""
    height, width = image.shape[:2]
    scale = rng.uniform(0.4, 0.9)
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA)
    less = cv2.resize(image, small, interpolation=how[int(rng.integers(1, 4))])
    return cv2.resize(less, (width, height), interpolation=how[int(rng.integers(1, 3))])


def _noise(image: NDArray[Any], deviation: float, rng: np.random.Generator) -> NDArray[Any]:
    """Grain of all channels alike, or of each, which grows with what is bright or what is dark;
    fine or, as after a demosaic, coarser."""
    height, width = image.shape[:2]
    coarse = rng.random() < 0.5
    shape = (height // 2 + 1, width // 2 + 1) if coarse else (height, width)
    channels = 3 if rng.random() < 0.6 else 1
    grain: NDArray[Any] = rng.standard_normal((*shape, channels), np.float32)
    if coarse:
        grain = cv2.resize(grain, (width, height), interpolation=cv2.INTER_CUBIC)
    grain = grain.reshape(height, width, channels) * np.float32(deviation)
    slope = np.float32(rng.uniform(-0.6, 0.6) / 255)
    return _rounded(image + grain * (1 + slope * (image.astype(np.float32) - 128)))


def _compressed(image: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    webp = rng.random() < 0.15
    quality = int(rng.integers(15, 92))
    how, what = (".webp", cv2.IMWRITE_WEBP_QUALITY) if webp else (".jpg", cv2.IMWRITE_JPEG_QUALITY)
    done, data = cv2.imencode(how, image[..., ::-1], [what, quality])
    read = cv2.imdecode(data, cv2.IMREAD_COLOR) if done else None
    return image if read is None else cv2.cvtColor(read, cv2.COLOR_BGR2RGB)


def _rounded(values: NDArray[np.floating[Any]]) -> NDArray[Any]:
    return np.clip(values + 0.5, 0, 255).astype(np.uint8)
