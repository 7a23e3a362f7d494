"""Models a pinhole camera, windows of its view, and the effects of sensor and lens on colours."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from instaseg_ros.numba_cache import cached_njit
from instaseg_ros.synthetic_street.weather import Weather


@dataclass(frozen=True, slots=True)
class Camera:
    """height, width, fx, fy, cx, cy in pixels; the centre of the first pixel is (0, 0)."""

    height: int
    width: int
    fx: float
    fy: float
    cx: float
    cy: float

    @classmethod
    def of_size(cls, height: int, width: int, focal: float = 0.62) -> Camera:
        """The whole view; `focal` in image widths (0.62: 78 degrees horizontally). The horizon is
        above the middle."""
        return cls(
            height,
            width,
            focal * width,
            focal * width,
            (width - 1) / 2,
            (height - 1) / 2 - 0.06 * height,
        )

    def window(self, top: float, left: float, height: int, width: int, zoom: float = 1.0) -> Camera:
        """The camera for a part of this view: pixels from (top, left) on, enlarged `zoom` times."""
        return Camera(
            height,
            width,
            self.fx * zoom,
            self.fy * zoom,
            (self.cx - left) * zoom,
            (self.cy - top) * zoom,
        )

    @property
    def matrix(self) -> np.ndarray:
        """(3, 3) float64."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1.0]])


def _grain() -> np.ndarray:
    return np.random.default_rng(11).standard_normal((1024, 1536, 3)).astype(np.float32)


_GRAIN = _grain()


@cached_njit(fastmath=True, error_model="numpy")
def _develop(
    linear: np.ndarray,
    gains: np.ndarray,
    grain: np.ndarray,
    noise: float,
    top: int,
    left: int,
    vignette: float,
    out: np.ndarray,
) -> None:
    """Apply gains, vignette, a filmic shoulder, gamma and grain, and convert to 8 bits."""
    height, width, _ = linear.shape
    for y in range(height):
        dy = (2.0 * y / height - 1.0) ** 2
        for x in range(width):
            shade = 1.0 - vignette * (dy + (2.0 * x / width - 1.0) ** 2)
            for c in range(3):
                value = max(0.0, linear[y, x, c] * gains[c] * shade)
                value = value / (0.155 + value) * 1.019 if value > 1.0 else value
                value = math.sqrt(min(1.0, value * (1.25 - 0.25 * value)))
                value += 0.45 * (value * value * (3.0 - 2.0 * value) - value)  # contrast
                value += noise * grain[(y + top) & 1023, (x + left) % 1536, c]
                out[y, x, c] = int(min(255.0, max(0.0, value * 255.0 + 0.5)))


def develop(
    linear: np.ndarray, weather: Weather, time_s: float, rng: np.random.Generator, blur: float = 0.5
) -> np.ndarray:
    """Turn linear colour (H, W, 3) float32 into a picture (H, W, 3) uint8; exposure and white
    balance drift over time."""
    if blur > 0:
        linear = cv2.GaussianBlur(linear, (3, 3), blur)
    drift = 1 + 0.08 * math.sin(0.7 * time_s + 3 * weather.exposure)
    gains = weather.white_balance * (1 + 0.015 * math.sin(0.4 * time_s)) * weather.exposure * drift
    out = np.empty(linear.shape, np.uint8)
    top, left = int(rng.integers(1024)), int(rng.integers(1536))
    _develop(linear, gains, _GRAIN, weather.noise, top, left, 0.07, out)
    return out
