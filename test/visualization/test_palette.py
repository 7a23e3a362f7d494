"""Ids have colours that differ, for people who see no red or no green too."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from instaseg_ros.visualization import COLORS

# RGB, linear, as people without that cone see it: Machado, Oliveira and Fernandes 2009, "A
# Physiologically-based Model for Simulation of Color Vision Deficiency", severity 1.
VISIONS = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
}
PERIOD = 40  # then colours repeat


def seen_as(colors: np.ndarray, vision: str) -> np.ndarray:
    """(N, 3): colours (N, 3) uint8 RGB in CIELAB, as a person sees them."""
    signal = colors / 255
    linear = np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ VISIONS[vision].T, 0, 1)
    signal = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return cv2.cvtColor(signal[None].astype(np.float32), cv2.COLOR_RGB2LAB)[0]


def nearest(vision: str, run: int) -> float:
    """The smallest CIELAB distance of two ids among `run` that follow each other."""
    lab = seen_as(COLORS[1 : 2 * PERIOD + 1], vision)
    apart = [np.linalg.norm(lab[k:] - lab[:-k], axis=-1).min() for k in range(1, run)]
    return min(apart)


# 2 is about the least that people see. The palette before this one had 3.9 in twenty ids.
@pytest.mark.parametrize(
    ("vision", "of_five", "of_forty"),
    [("normal", 37, 19), ("protanopia", 27, 12.9), ("deuteranopia", 25, 12.9)],
)
def test_colors_differ(vision: str, of_five: float, of_forty: float) -> None:
    assert nearest(vision, 5) > of_five
    assert nearest(vision, PERIOD) > of_forty
    assert seen_as(COLORS[1 : PERIOD + 1], vision)[:, 0].min() > 29  # visible on dark images


def test_every_label_value_has_a_color() -> None:
    assert COLORS.shape == (1 << 16, 3) and COLORS.dtype == np.uint8
    assert COLORS[0].tolist() == [0, 0, 0] and COLORS[1:].any(1).all()
    assert (COLORS[1 + PERIOD :] == COLORS[1:-PERIOD]).all()
