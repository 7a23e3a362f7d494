"""Measures whether a camera's picture shows anything. Needs no ROS."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

WIDTH_PX = 512  # at which sharpness is measured: finer blur costs a network little
DARK, BRIGHT = 30, 240  # of 255: nothing is brighter, or nothing darker
BLURRED = 0.01  # below this sharpness edges are many pixels wide
PLAIN = 4.0  # a picture of less contrast has no edges to judge by


class Picture(NamedTuple):
    """One picture, measured.

    dark, bright: the 1st and 99th percentile of its grey values, in [0, 255]. contrast: their
    standard deviation. sharpness: mean square of the Laplacian, relative to their variance, at
    WIDTH_PX; noise raises it, blur lowers it.
    """

    dark: float
    bright: float
    contrast: float
    sharpness: float

    @property
    def flaw(self) -> str:
        """`dark`, `overexposed`, `plain`, `blurred`, or empty."""
        if self.bright < DARK:
            return "dark"
        if self.dark > BRIGHT:
            return "overexposed"
        if self.contrast < PLAIN:
            return "plain"
        return "blurred" if self.sharpness < BLURRED else ""


def measure(image: NDArray[np.uint8]) -> Picture:
    """Measure a (H, W, 3) uint8 RGB image."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if grey.shape[1] > WIDTH_PX:
        height = max(1, round(grey.shape[0] * WIDTH_PX / grey.shape[1]))
        grey = cv2.resize(grey, (WIDTH_PX, height), interpolation=cv2.INTER_AREA)
    dark, bright = np.percentile(grey, [1, 99]).tolist()
    variance = float(grey.var())
    edges = cv2.Laplacian(grey, cv2.CV_32F)
    sharpness = float(np.square(edges).mean()) / max(variance, 1.0)
    return Picture(dark, bright, variance**0.5, sharpness)
