"""Generates procedural surfaces: asphalt with markings, house fronts, paving, clouds."""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

from instaseg_ros.numba_cache import cached_njit
from instaseg_ros.synthetic_street import materials as m


class Street(NamedTuple):
    """The properties of a street that its ground depends on. Metres; lanes per direction; mark_wear
    0 to about 1.3."""

    half_width: float
    lanes: float
    lane_width: float
    wall_x: float
    dash: float
    mark_wear: float
    crossing_0: float
    crossing_1: float
    tile: float
    start: float


Rgb = tuple[float, float, float]
Look = tuple[
    float, float, float, float, float
]  # red, green, blue, own light, share of the sky reflected


def _noise_tile(size: int = 256) -> np.ndarray:
    """(size, size) float32 in [-1, 1]: fractal value noise that tiles."""
    rng = np.random.default_rng(7)
    total = np.zeros((size, size), np.float32)
    octaves = ((8, 0.5), (16, 0.4), (32, 0.35), (64, 0.3), (128, 0.3), (256, 0.35))
    for octave, weight in octaves:
        values = np.tile(rng.standard_normal((octave, octave)).astype(np.float32), (3, 3))
        big = cv2.resize(values, (3 * size, 3 * size), interpolation=cv2.INTER_CUBIC)
        total += weight * big[size : 2 * size, size : 2 * size]
    return np.ascontiguousarray(np.clip(total / (2.5 * total.std()), -1, 1))


NOISE = _noise_tile()


@cached_njit(fastmath=True, error_model="numpy")
def cycle(value: float, period: float) -> float:
    """The phase of a value in its period, [0, 1); faster than %."""
    return value / period - math.floor(value / period)


@cached_njit(fastmath=True, error_model="numpy")
def random_of(a: int, b: int, c: int) -> float:
    """A random number in [0, 1) that depends only on the three integers."""
    n = (a * 374761393 + b * 668265263 + c * 2147483647) & 0xFFFFFFFF
    n = ((n ^ (n >> 13)) * 1274126177) & 0xFFFFFFFF
    return ((n ^ (n >> 16)) & 0xFFFF) / 65536.0


@cached_njit(fastmath=True, error_model="numpy")
def rough(u: float, v: float) -> float:
    """Noise at the nearest lattice point, as grain."""
    return NOISE[int(math.floor(v)) & 255, int(math.floor(u)) & 255]


@cached_njit(fastmath=True, error_model="numpy")
def smooth(u: float, v: float) -> float:
    """Noise interpolated between lattice points, as patches."""
    u0, v0 = math.floor(u), math.floor(v)
    i, j, fu, fv = int(v0), int(u0), u - u0, v - v0
    top = NOISE[i & 255, j & 255] * (1 - fu) + NOISE[i & 255, (j + 1) & 255] * fu
    low = NOISE[(i + 1) & 255, j & 255] * (1 - fu) + NOISE[(i + 1) & 255, (j + 1) & 255] * fu
    return top * (1 - fv) + low * fv


@cached_njit(fastmath=True, error_model="numpy")
def road(x: float, z: float, depth: float, wetness: float, street: Street) -> Look:
    """Asphalt with lane lines, edge lines, zebra crossings and, when wet, puddles."""
    grain = rough(x * 23, z * 23) / (1 + 0.06 * depth) * 0.05
    grey = 0.25 + grain + smooth(x * 2.2, z * 0.7) * 0.035
    lane, across = street.lane_width, abs(x)
    k = int(across / lane + 0.5)
    mark = 0.0
    painted = cycle(z, 2 * street.dash) < 0.5 or (k == 0 and street.lanes > 1.5)
    if painted and k < street.lanes and abs(across - k * lane) < 0.07:
        mark = 1.0
    if abs(across - street.lanes * lane - 0.05) < 0.06:
        mark = 0.8
    for crossing in (street.crossing_0, street.crossing_1):
        if abs(z - crossing) < 1.7:
            mark = 1.0 if cycle(x, 1.0) < 0.5 and across < street.half_width - 0.2 else 0.0
    mark *= min(1.0, max(0.0, street.mark_wear + 0.25 * rough(x * 9, z * 9)))
    red, blue = grey + mark * 0.5, grey * 1.02 + mark * 0.46
    puddle = max(0.0, smooth(x * 1.5, z * 1.5))
    mirror = wetness * (0.12 + 0.3 * puddle) * min(1.0, depth / 12)
    dark = 1 - 0.35 * wetness
    return red * dark, red * dark, blue * (1 - 0.3 * wetness), 0.0, mirror


@cached_njit(fastmath=True, error_model="numpy")
def paving(x: float, z: float, depth: float, tile: float) -> float:
    """The lightness of a paving slab, about 1."""
    joint = 0.88 if cycle(x, tile) < 0.06 or cycle(z, tile) < 0.06 else 1.0
    slab = random_of(int(x / tile + 500), int(z / tile), 3)
    return joint + (0.1 * rough(x * 17, z * 17) + 0.1 * slab) / (1 + 0.04 * depth)


@cached_njit(fastmath=True, error_model="numpy")
def facade(u: float, v: float, variant: int, wall: Rgb, sky: float, darkness: float) -> Look:
    """A house front at u, v metres; `variant` selects storeys, windows, shops and doors."""
    pitch, storey = 1.8 + 1.6 * random_of(variant, 1, 0), 2.9 + 0.6 * random_of(variant, 2, 0)
    column, row = int(math.floor(u / pitch)), int(math.floor(v / storey))
    pu, pv = u / pitch - column, v / storey - row
    shade = 1.0 + 0.1 * rough(u * 7, v * 7) + 0.06 * rough(u, v)
    half = 0.22 + 0.2 * random_of(variant, 3, 0)
    off = abs(pu - 0.5)
    glass = False
    if row == 0 and random_of(variant, 4, 0) < 0.6:  # shops below an awning
        if pv > 0.84:
            return (
                0.3 + 0.5 * random_of(variant, 5, 0),
                0.25 + 0.4 * random_of(variant, 6, 0),
                0.25 + 0.4 * random_of(variant, 7, 0),
                0.0,
                0.0,
            )
        glass = pv > 0.08 and off < 0.44
        shade *= 0.7
    elif row == 0 and column % 3 == 1:
        if pv < 0.72 and off < 0.25:  # a door
            return 0.22 + 0.2 * random_of(variant, column, 8), 0.16, 0.12, 0.0, 0.0
    elif off < half and 0.25 < pv < 0.8:
        glass = True
        if off < 0.025 or pv > 0.77:  # the frame
            return 0.75, 0.74, 0.7, 0.0, 0.0
    elif off < half + 0.05 and 0.2 < pv < 0.25:  # the sill
        shade = 0.75
    if glass:
        lit = 0.9 if random_of(variant + column * 13, row, 9) < 0.4 * darkness else 0.0
        tone = 0.1 + 0.14 * random_of(variant, column, row) + 0.12 * sky
        return tone, tone * 1.05, tone * 1.15, lit, 0.0
    if pv > 0.97 and row % 2 == 0:
        shade *= 0.85
    return wall[0] * shade, wall[1] * shade, wall[2] * shade, 0.0, 0.0


@cached_njit(fastmath=True, error_model="numpy")
def panes(
    kind: int,
    u: float,
    v: float,
    wide: float,
    high: float,
    pillar: bool,
    paint: Rgb,
    darkness: float,
) -> Look:
    """Glass with a painted frame: a cabin, or a bus's row of windows."""
    if kind == m.BAND:
        if cycle(u, 1.3) > 0.07 and 0.04 < v < high - 0.04:
            return 0.06, 0.065, 0.08, 0.35 * darkness, 0.15 + 0.25 * v
        return paint[0], paint[1], paint[2], 0.0, 0.0
    if (
        0.09 < u < wide - 0.09
        and 0.05 < v < high - 0.07
        and not (pillar and abs(u - 0.5 * wide) < 0.06)
    ):
        return 0.05, 0.055, 0.065, 0.0, 0.12 + 0.3 * v / high
    return paint[0], paint[1], paint[2], 0.0, 0.08
