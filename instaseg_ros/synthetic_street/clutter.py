"""Builds what stands about in varied streets and is no object: bushes, walls, poles, junk."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from instaseg_ros.synthetic_street import materials as m
from instaseg_ros.synthetic_street import people, scenery
from instaseg_ros.synthetic_street.geometry import Builder, Colour, Mesh

_VARIANTS = 128
Prop = tuple[Mesh, float, float, float]  # mesh, x, z, yaw


def _colour(rng: np.random.Generator) -> Colour:
    r, g, b = np.clip(rng.uniform(0.03, 0.8) * np.exp(rng.normal(0, 0.3, 3)), 0.02, 0.9)
    return float(r), float(g), float(b)


def _leaves(
    rng: np.random.Generator, count: int, spread: tuple[float, float, float], size: float
) -> Mesh:
    """A heap of leaf cards, `spread` (x, y, z) metres from its middle at most, on the ground."""
    places = rng.uniform(-1, 1, (count, 3))
    places[:, 1] = np.abs(places[:, 1]) * (1.2 - 0.7 * np.abs(places[:, 0]))
    places *= spread
    along, across = size * rng.normal(0, 1, (2, count, 3))
    corners = np.stack([places - along, places - across, places + along, places + across], 1)
    corners[:, :, 1] = np.maximum(corners[:, :, 1], 0.0)
    attributes = np.zeros((count, 7))
    green = np.array([0.1 + 0.14 * rng.random(), 0.24, 0.06]) * np.exp(rng.normal(0, 0.15, 3))
    tones = rng.uniform(0.5, 1.0, (count, 1)) * (0.5 + 0.6 * places[:, 1:2] / spread[1])
    attributes[:, :3], attributes[:, 3] = tones * green, m.LEAF
    return Mesh(corners.astype(np.float32), attributes.astype(np.float32))


@lru_cache(maxsize=_VARIANTS)
def bush(variant: int) -> Mesh:
    rng = np.random.default_rng((variant, 1))
    spread = rng.uniform(0.4, 1.3), rng.uniform(0.5, 1.8), rng.uniform(0.5, 3.5)
    return _leaves(rng, 110, spread, 0.16)


@lru_cache(maxsize=_VARIANTS)
def grove(variant: int) -> Mesh:
    """Trees that stand so close that they are one dark mass."""
    rng = np.random.default_rng((variant, 2))
    spread = rng.uniform(1.5, 3.5), rng.uniform(4, 11), rng.uniform(3, 8)
    return _leaves(rng, 260, spread, rng.uniform(0.4, 0.7))


@lru_cache(maxsize=_VARIANTS)
def wall(variant: int) -> Mesh:
    """A wall, a hedge, or a fence of bars."""
    rng, b = np.random.default_rng((variant, 3)), Builder()
    kind, high, long = int(rng.integers(3)), rng.uniform(0.6, 2.6), rng.uniform(2, 9)
    colour = _colour(rng)
    if kind == 2:
        for z in np.arange(-long / 2, long / 2, 0.45):
            b.limb((0, 0, z), (0, high, z), 0.025, 0.025, colour)
        for y in (0.2, high):
            b.limb((0, y, -long / 2), (0, y, long / 2), 0.03, 0.03, colour)
        return b.build(4)
    green = (0.08, 0.17, 0.05)
    b.box(
        -0.2, 0.2, 0, high, -long / 2, long / 2, *((green, m.LEAF) if kind else (colour, m.PLAIN))
    )
    return b.build(4)


@lru_cache(maxsize=_VARIANTS)
def pole(variant: int) -> Mesh:
    """A bare pole, or one with boards, a lamp or a box on it."""
    rng, b = np.random.default_rng((variant, 4)), Builder()
    high, radius, colour = rng.uniform(0.8, 8), rng.uniform(0.025, 0.16), _colour(rng)
    b.limb((0, 0, 0), (0, high, 0), radius, radius * 0.8, colour)
    for _ in range(int(rng.integers(4))):
        y, w, h = high * rng.uniform(0.3, 1), rng.uniform(0.1, 0.6), rng.uniform(0.1, 0.9)
        x = rng.normal(0, 0.2)
        b.box(x - w, x + w, max(0.1, y - h), y, -radius - 0.1, -radius, _colour(rng), m.SIGN)
    return b.build(6)


@lru_cache(maxsize=_VARIANTS)
def junk(variant: int) -> Mesh:
    """Boxes, barrels and tapered blocks in a heap: bins, crates, benches, hydrants, barriers."""
    rng, b = np.random.default_rng((variant, 5)), Builder()
    for _ in range(int(rng.integers(1, 5))):
        x, z, y = *rng.normal(0, 0.4, 2), 0.0 if rng.random() < 0.7 else rng.uniform(0, 0.6)
        w, d, h = rng.uniform(0.06, 0.6, 3) * (1, 1, 2)
        material = (m.PLAIN, m.PLAIN, m.PAINT, m.SIGN, m.CLOTH)[int(rng.integers(5))]
        if rng.random() < 0.4:
            b.limb((x, y, z), (x, y + h, z), w, w * rng.uniform(0.5, 1.1), _colour(rng), material)
        else:
            low, s = (y, x - w, x + w, z - d, z + d), rng.uniform(0.5, 1.1)
            high = (y + h, x - s * w, x + s * w, z - s * d, z + s * d)
            b.frustum(low, high, _colour(rng), (material,) * 4)
    return b.build(8)


@lru_cache(maxsize=_VARIANTS)
def kiosk(variant: int) -> Mesh:
    """A shelter, cabin, container or board: as large as vehicles, with glass or print, on feet."""
    rng, b = np.random.default_rng((variant, 6)), Builder()
    w, high, d = rng.uniform(0.1, 1.1), rng.uniform(1.6, 3), rng.uniform(0.5, 2.5)
    y = rng.choice([0.0, 0.0, 0.4, 1.2])
    material = (m.CABIN, m.GLASS, m.SIGN, m.PLAIN, m.FACADE)[int(rng.integers(5))]
    b.box(-w, w, y, high, -d, d, _colour(rng), material, float(rng.integers(1, 400)))
    for z in (-d + 0.1, d - 0.1):
        b.limb((0, 0, z), (0, y + 0.1, z), 0.06, 0.06, (0.2, 0.2, 0.2))
    b.box(-w - 0.2, w + 0.2, high, high + 0.15, -d - 0.2, d + 0.2, _colour(rng))
    return b.build(6)


@lru_cache(maxsize=_VARIANTS)
def parked_bicycle(variant: int) -> Mesh:
    """A bicycle or motorcycle without a rider, which is no object."""
    rng = np.random.default_rng((variant, 7))
    return people.rider(None, 0.0, bool(rng.random() < 0.3), _colour(rng), None, 5)


@lru_cache(maxsize=_VARIANTS)
def wire(variant: int) -> Mesh:
    """Wires across the street."""
    rng, b = np.random.default_rng((variant, 8)), Builder()
    y = rng.uniform(5, 8)
    b.limb((-15, y, 0), (15, y, rng.normal(0, 4)), 0.015, 0.015, (0.03, 0.03, 0.03))
    return b.build(3)


def clutter(rng: np.random.Generator, layout: scenery.Layout) -> list[Prop]:
    """Props of every kind along both pavements, some before houses, few at the edge of the road."""
    props: list[Prop] = []
    half, edge = layout.half_width, layout.wall_x
    kinds = (  # what, from x to x, metres between them, at least and at most
        (bush, half + 1, edge + 1, 4, 60),
        (grove, edge + 1, edge + 5, 6, 120),
        (wall, edge - 0.8, edge + 0.5, 8, 90),
        (pole, half + 0.2, edge, 5, 40),
        (junk, half + 0.3, edge, 5, 40),
        (kiosk, half + 1.2, edge, 15, 120),
        (parked_bicycle, half + 0.4, edge, 8, 90),
        (junk, half - 1, half, 40, 400),
    )
    for make, near, far, least, most in kinds:
        gap = float(np.exp(rng.uniform(np.log(least), np.log(most))))
        for side in (-1, 1):
            z = rng.uniform(3, 3 + gap)
            while z < layout.end:
                yaw = rng.normal(0, 0.2) if rng.random() < 0.7 else rng.uniform(0, 6.28)
                mesh = make(int(rng.integers(_VARIANTS)))
                props.append((mesh, side * rng.uniform(near, far), z, float(yaw)))
                z += gap * rng.uniform(0.3, 1.7)
    if rng.random() < 0.3:
        for z in np.arange(rng.uniform(0, 15), layout.end, rng.uniform(6, 20)):
            props.append((wire(int(rng.integers(_VARIANTS))), 0.0, float(z), 0.0))
    return props
