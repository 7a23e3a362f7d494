"""Builds the parts that vehicles share: paints, wheels, lamps and plates."""

from __future__ import annotations

import numpy as np

from instaseg_ros.synthetic_street import materials as m
from instaseg_ros.synthetic_street.geometry import Builder, Colour

CAR_PAINTS = (
    (0.75, 0.75, 0.76),
    (0.5, 0.51, 0.53),
    (0.06, 0.06, 0.07),
    (0.6, 0.06, 0.06),
    (0.08, 0.16, 0.45),
    (0.2, 0.22, 0.25),
    (0.85, 0.85, 0.83),
    (0.12, 0.3, 0.2),
    (0.55, 0.45, 0.3),
    (0.7, 0.35, 0.08),
    (0.3, 0.5, 0.65),
)
CARGO = (
    (0.85, 0.85, 0.83),
    (0.6, 0.6, 0.62),
    (0.2, 0.3, 0.5),
    (0.65, 0.25, 0.15),
    (0.25, 0.4, 0.3),
    (0.75, 0.65, 0.3),
)
BUS_PAINTS = (
    (0.75, 0.12, 0.1),
    (0.85, 0.7, 0.15),
    (0.15, 0.35, 0.65),
    (0.2, 0.5, 0.3),
    (0.8, 0.8, 0.8),
    (0.85, 0.45, 0.1),
)
_TYRE = (0.035, 0.035, 0.035)
_RED_LAMP = (0.65, 0.04, 0.03)
_WHITE_LAMP = (0.95, 0.93, 0.85)


def pick(rng: np.random.Generator, colours: tuple[Colour, ...], spread: float = 0.04) -> Colour:
    r, g, b = np.clip(
        np.array(colours[int(rng.integers(len(colours)))]) + rng.normal(0, spread, 3), 0.02, 0.92
    )
    return float(r), float(g), float(b)


def wheels(b: Builder, half_width: float, axles: tuple[float, ...], radius: float) -> None:
    for z in axles:
        for side in (-1, 1):
            inner, outer = side * (half_width - 0.22), side * (half_width + 0.02)
            # the arch: a dark patch just outside the side of the body
            arch, x = radius * 1.18, side * (half_width + 0.008)
            b.quad(
                (x, 0.25, z - arch),
                (x, 0.25, z + arch),
                (x, radius * 1.75, z + arch * 0.6),
                (x, radius * 1.75, z - arch * 0.6),
                (0.04, 0.04, 0.045),
            )
            b.limb((inner, radius, z), (outer, radius, z), radius, radius, _TYRE)
            b.limb(
                (outer, radius, z),
                (outer + side * 0.015, radius, z),
                radius * 0.62,
                radius * 0.5,
                (0.42, 0.43, 0.45),
            )


def ends(
    b: Builder, half_width: float, front: float, back: float, lamp_y: float, size: float
) -> None:
    """Head lamps, tail lamps and plates."""
    for side in (-1, 1):
        x0, x1 = sorted((side * (half_width - 0.08), side * (half_width - 0.08 - 2.2 * size)))
        b.box(
            x0,
            x1,
            lamp_y - size / 2,
            lamp_y + size / 2,
            front - 0.01,
            front + 0.03,
            _WHITE_LAMP,
            m.LAMP,
        )
        b.box(x0, x1, lamp_y, lamp_y + size * 1.3, back - 0.03, back + 0.01, _RED_LAMP, m.LAMP)
    for z in (front + 0.02, back - 0.02):
        b.quad(
            (-0.26, lamp_y - 0.3, z),
            (0.26, lamp_y - 0.3, z),
            (0.26, lamp_y - 0.18, z),
            (-0.26, lamp_y - 0.18, z),
            (0.8, 0.8, 0.72),
        )
    b.quad(
        (-0.5, lamp_y - 0.12, front + 0.015),
        (0.5, lamp_y - 0.12, front + 0.015),
        (0.45, lamp_y + 0.1, front + 0.015),
        (-0.45, lamp_y + 0.1, front + 0.015),
        (0.05, 0.05, 0.055),
    )
