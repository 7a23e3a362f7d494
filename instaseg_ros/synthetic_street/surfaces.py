"""Puts patterns on what was shaded, for varied streets: stains, stripes, bricks, print."""

from __future__ import annotations

import math

import numpy as np

from instaseg_ros.numba_cache import cached_njit
from instaseg_ros.synthetic_street import materials as m
from instaseg_ros.synthetic_street.geometry import MATERIAL, VARIANT
from instaseg_ros.synthetic_street.patterns import cycle, random_of, rough, smooth
from instaseg_ros.synthetic_street.shading import Eye, Light, Seen

_ROWS = 4096
_NOISE, _STRIPES, _BRICKS, _PRINT, _WAVES, _BLOTS = range(6)
# Of a material: darkest and brightest factor of its colour, spread of the factor between channels,
# most strength of a pattern, least and most repetitions per metre, patterns by weight.
_RANGES = {
    m.PLAIN: (0.5, 1.4, 0.12, 0.7, 0.5, 12, (_NOISE, _NOISE, _STRIPES, _PRINT, _WAVES, _BLOTS)),
    m.ROAD: (0.25, 1.1, 0.05, 0.7, 0.1, 2, (_NOISE, _BLOTS, _BLOTS, _BRICKS)),
    m.PAVEMENT: (0.3, 1.1, 0.08, 0.7, 0.2, 6, (_NOISE, _BLOTS, _BRICKS, _STRIPES)),
    m.GRASS: (0.25, 1.5, 0.3, 0.8, 0.1, 3, (_NOISE, _BLOTS)),
    m.FACADE: (0.15, 1.3, 0.2, 0.9, 0.2, 6, tuple(range(6))),
    m.GLASS: (0.3, 1.6, 0.1, 1.0, 0.3, 3, (_NOISE, _WAVES, _BLOTS)),
    m.LEAF: (0.15, 1.2, 0.25, 0.7, 0.5, 5, (_NOISE, _BLOTS)),
    m.LAMP: (0.25, 1.2, 0.05, 0.3, 1, 5, (_NOISE, _WAVES)),
    m.SIGN: (0.4, 1.3, 0.3, 0.9, 1, 8, (_PRINT, _PRINT, _STRIPES, _NOISE, _BLOTS)),
    m.CLOTH: (0.4, 1.2, 0.15, 0.8, 1, 12, tuple(range(6))),
    m.PAINT: (0.6, 1.3, 0.06, 0.5, 0.2, 3, (_NOISE, _WAVES, _WAVES, _BLOTS, _NOISE, _PRINT)),
    m.CABIN: (0.2, 1.2, 0.06, 0.9, 0.3, 3, (_NOISE, _WAVES, _BLOTS)),
    m.BAND: (0.3, 1.3, 0.06, 0.9, 0.3, 3, (_NOISE, _WAVES, _BLOTS)),
}


def _table(seed: int) -> np.ndarray:
    """(materials, _ROWS, 10) float32: factors (3,), factors at the height of the pattern (3,), its
    strength, repetitions per metre along u and v, and number."""
    rng = np.random.default_rng(seed)
    table = np.empty((len(_RANGES), _ROWS, 10), np.float32)
    for kind, (low, high, spread, strength, least, most, patterns) in _RANGES.items():
        rows = table[kind]
        tone = np.exp(rng.uniform(math.log(low), math.log(high), (_ROWS, 1)))
        rows[:, :3] = tone * np.exp(rng.normal(0, spread, (_ROWS, 3)))
        other = np.exp(rng.uniform(-1.6, 0.9, (_ROWS, 1))) * np.exp(rng.normal(0, 0.2, (_ROWS, 3)))
        rows[:, 3:6] = rows[:, :3] * other
        rows[:, 6] = strength * rng.random(_ROWS) ** 1.5
        per_m = np.exp(rng.uniform(math.log(least), math.log(most), _ROWS))
        rows[:, 7] = per_m
        rows[:, 8] = per_m * np.exp(rng.uniform(-1, 1.6, _ROWS))
        rows[:, 9] = np.array(patterns)[rng.integers(len(patterns), size=_ROWS)]
    return table


_TABLE = _table(5)


def patterned(
    linear: np.ndarray, seen: Seen, owner_of_quad: np.ndarray, seed: int, light: Light, eye: Eye
) -> None:
    """Multiply the colours (H, W, 3) of every surface by a pattern of its own, in place.

    owner_of_quad: (Q,) which thing, prop or part of the street a quad belongs to: with the seed and
    the quad's material it selects the pattern, so that it lasts through a sequence.
    """
    kinds = seen.attributes[:, MATERIAL].astype(np.int64)
    variants = np.where(kinds == m.FACADE, seen.attributes[:, VARIANT], 0).astype(np.int64)
    rows = (seed + owner_of_quad.astype(np.int64) * 389 + variants * 61) % _ROWS
    _multiply(
        linear,
        (seen.inverse_depth, seen.surface, seen.planes, seen.owners),
        kinds,
        rows,
        _TABLE,
        light.horizon,
        light.fog,
        eye,
    )


@cached_njit(fastmath=True, error_model="numpy")
def _height(pattern: int, a: float, b: float) -> float:
    """A pattern at (a, b), in [0, 1]."""
    if pattern == 1:
        return 1.0 if cycle(a, 1.0) < 0.5 else 0.0
    if pattern == 2:
        row = math.floor(b)
        shifted = a + 0.5 * (row % 2)
        if cycle(shifted, 1.0) < 0.08 or cycle(b, 1.0) < 0.12:
            return 1.0
        return 0.6 * random_of(int(math.floor(shifted)), int(row), 5)
    if pattern == 3:
        if cycle(b, 1.0) > 0.6 or random_of(int(math.floor(a * 0.7)), int(math.floor(b)), 2) < 0.3:
            return 0.0
        return 1.0 if random_of(int(math.floor(a * 5)), int(math.floor(b * 5)), 3) < 0.5 else 0.0
    if pattern == 4:
        return 0.5 + 0.5 * math.sin(6.28 * b + 2 * smooth(a * 3, b * 2))
    wide = smooth(a * 3, b * 3)
    if pattern == 5:
        return min(1.0, max(0.0, 0.5 + 4 * (wide + 0.3 * smooth(a * 13, b * 13))))
    return 0.5 + 0.5 * (0.5 * wide + 0.3 * smooth(a * 11, b * 11) + 0.2 * rough(a * 41, b * 41))


@cached_njit(fastmath=True, error_model="numpy")
def _multiply(
    image: np.ndarray,
    drawn: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    kinds: np.ndarray,
    rows: np.ndarray,
    table: np.ndarray,
    horizon: np.ndarray,
    fog: float,
    eye: Eye,
) -> None:
    inverse_depth, surface, planes, owners = drawn
    rotation, origin, intrinsics = eye
    fx, fy, cx, cy = intrinsics
    for py in range(surface.shape[0]):
        for px in range(surface.shape[1]):
            t = surface[py, px]
            if t < 0:
                continue
            q = owners[t]
            kind, row = kinds[q], rows[q]
            depth = 1.0 / inverse_depth[py, px]
            if m.ROAD <= kind <= m.GRASS:  # in metres of the ground
                rx, ry = (px - cx) / fx, (py - cy) / fy
                u = origin[0] + depth * (rotation[0, 0] * rx + rotation[1, 0] * ry + rotation[2, 0])
                v = origin[2] + depth * (rotation[0, 2] * rx + rotation[1, 2] * ry + rotation[2, 2])
            else:
                u = (planes[t, 1, 0] * px + planes[t, 1, 1] * py + planes[t, 1, 2]) * depth
                v = (planes[t, 2, 0] * px + planes[t, 2, 1] * py + planes[t, 2, 2]) * depth
            along_u, along_v = table[kind, row, 7], table[kind, row, 8]
            a, b = u * along_u, v * along_v
            pixel = max(along_u, along_v) * depth / abs(fx)  # in repetitions
            share = table[kind, row, 6] * min(1.0, max(0.25, 1.3 - 2 * pixel))
            share *= _height(int(table[kind, row, 9]), a, b)
            air, leaf = 1.0 - math.exp(-fog * depth), 1.0
            if kind == m.LEAF or kind == m.GRASS:  # fine leaves, dark between them
                fine = 5.0 if kind == m.LEAF else 11.0
                chance = random_of(int(math.floor(u * fine)), int(math.floor(v * fine)), q)
                leaf = 0.2 + 1.5 * chance * chance
            for j in range(3):
                low, high = leaf * table[kind, row, j], leaf * table[kind, row, 3 + j]
                veil = horizon[j] * air
                image[py, px, j] = veil + (image[py, px, j] - veil) * (low + (high - low) * share)
