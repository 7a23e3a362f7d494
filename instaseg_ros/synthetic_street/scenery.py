"""Builds the background of a street: ground, houses, trees, lamps, signs, bins."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from instaseg_ros.synthetic_street import materials as m
from instaseg_ros.synthetic_street.geometry import Builder, Mesh
from instaseg_ros.synthetic_street.shading import BUILDING_CELL_M

KERB_M = 0.13
_WALLS = (
    (0.62, 0.56, 0.48),
    (0.55, 0.36, 0.28),
    (0.7, 0.68, 0.62),
    (0.48, 0.48, 0.5),
    (0.66, 0.52, 0.36),
    (0.42, 0.3, 0.26),
    (0.75, 0.72, 0.6),
    (0.5, 0.56, 0.58),
)


@dataclass(frozen=True, slots=True)
class Layout:
    """The cross section of a street, metres; x = 0 is the middle of the road."""

    lanes: int  # per direction
    lane_width: float
    parking: float
    sidewalk: float
    start: float
    end: float

    @property
    def half_width(self) -> float:
        return self.lanes * self.lane_width + self.parking

    @property
    def wall_x(self) -> float:
        return self.half_width + self.sidewalk


def random_layout(rng: np.random.Generator, start: float, end: float) -> Layout:
    return Layout(
        lanes=1 if rng.random() < 0.65 else 2,
        lane_width=rng.uniform(3.0, 3.5),
        parking=rng.uniform(2.0, 2.4) if rng.random() < 0.75 else 0.5,
        sidewalk=rng.uniform(2.8, 5.5),
        start=start,
        end=end,
    )


def ground(layout: Layout, rng: np.random.Generator) -> Mesh:
    b = Builder()
    half, wall, z0, z1 = layout.half_width, layout.wall_x, layout.start - 10, layout.end + 400
    grey = rng.uniform(0.36, 0.52)
    stone = (grey, grey * rng.uniform(0.94, 1.0), grey * rng.uniform(0.85, 1.0))
    kerb = (grey * 1.2,) * 3
    b.quad((-half, 0, z0), (half, 0, z0), (half, 0, z1), (-half, 0, z1), (0.25, 0.25, 0.25), m.ROAD)
    for side in (-1, 1):
        h, w = side * half, side * wall
        b.quad((h, 0, z0), (h, 0, z1), (h, KERB_M, z1), (h, KERB_M, z0), kerb)
        edge = h + side * 0.2
        b.quad(
            (h, KERB_M, z0),
            (edge, KERB_M, z0),
            (edge, KERB_M, z1),
            (h, KERB_M, z1),
            kerb,
            m.PAVEMENT,
        )
        b.quad(
            (edge, KERB_M, z0),
            (w, KERB_M, z0),
            (w, KERB_M, z1),
            (edge, KERB_M, z1),
            stone,
            m.PAVEMENT,
        )
        far = side * 300
        b.quad(
            (w, KERB_M - 0.02, z0),
            (far, KERB_M - 0.02, z0),
            (far, KERB_M - 0.02, z1),
            (w, KERB_M - 0.02, z1),
            (0.16, 0.25, 0.09),
            m.GRASS,
        )
    return b.build()


def houses(
    layout: Layout, rng: np.random.Generator, most_gaps: float = 0.3
) -> tuple[Mesh, np.ndarray]:
    """Both rows of houses, and their heights (2, N) metres by cell along z from `layout.start`.

    most_gaps: at most this share of the places is empty.
    """
    b = Builder()
    cells = int((layout.end + 80 - layout.start) / BUILDING_CELL_M) + 1
    roofs = np.zeros((2, cells), np.float64)
    tall = rng.uniform(7, 22)
    gaps = rng.uniform(0.03, most_gaps)
    for row, side in enumerate((-1, 1)):
        z = layout.start - rng.uniform(0, 10)
        while z < layout.end + 80:
            width, height = rng.uniform(8, 20), tall * rng.uniform(0.6, 1.35)
            if rng.random() < gaps:
                z += width * 0.8
                continue
            _house(b, rng, layout.wall_x, side, z, width, height)
            first, last = (int((at - layout.start) / BUILDING_CELL_M) for at in (z, z + width))
            roofs[row, max(0, first) : max(0, last)] = height
            z += width
    return b.build(), roofs


def _house(
    b: Builder,
    rng: np.random.Generator,
    wall_x: float,
    side: int,
    z: float,
    width: float,
    top: float,
) -> None:
    """One house with its front to the street, from z to z + width."""
    x0 = side * (wall_x + (0.0 if rng.random() < 0.75 else rng.uniform(0.5, 3)))
    x1, end = x0 + side * 12, z + width
    tint = np.array(_WALLS[int(rng.integers(len(_WALLS)))]) + rng.normal(0, 0.04, 3)
    red, green, blue = np.clip(tint, 0.1, 0.85).tolist()
    wall = (red, green, blue)
    variant = float(rng.integers(1, 4000))
    front = (x0, 0, z), (x0, 0, end), (x0, top, end), (x0, top, z)
    b.quad(*front, wall, m.FACADE, (width, top), variant)
    for at in (z, end):
        gable = (x0, 0, at), (x1, 0, at), (x1, top, at), (x0, top, at)
        b.quad(*gable, wall, m.FACADE, (12, top), variant)
    if rng.random() < 0.5:  # a tiled roof, else a ledge
        tiles = (0.32, 0.14, 0.1) if rng.random() < 0.5 else (0.17, 0.17, 0.19)
        eaves, ridge = x0 - side * 0.4, x0 + side * 5
        roof = (eaves, top, z), (eaves, top, end), (ridge, top + 3.5, end), (ridge, top + 3.5, z)
        b.quad(*roof, tiles)
        for at in (z, end):
            corner = (x0, top, at)
            b.quad(corner, (ridge, top + 3.4, at), (x0 + side * 10, top, at), corner, wall)
    else:
        xa, xb = sorted((x0 - side * 0.3, x0 + side * 0.3))
        b.box(xa, xb, top - 0.3, top + 0.2, z, end, (red * 0.8, green * 0.8, blue * 0.8))


@lru_cache(maxsize=64)
def tree(variant: int) -> Mesh:
    """A trunk with boughs, and a crown of randomly turned leaf cards, lighter on top."""
    rng = np.random.default_rng(variant)
    height, spread, count = rng.uniform(5, 8.5), rng.uniform(1.2, 2.2), 150
    b = Builder()
    fork = (0.0, height * 0.5, 0.0)
    b.limb((0, 0, 0), fork, 0.16, 0.11, (0.2, 0.15, 0.1))
    for angle in rng.uniform(0, 6.28, 3):
        b.limb(
            fork,
            (0.5 * spread * math.cos(angle), height * 0.75, 0.5 * spread * math.sin(angle)),
            0.08,
            0.03,
            (0.2, 0.15, 0.1),
        )
    wood = b.build(4)
    places = rng.normal(0, 1, (count, 3))
    places /= np.linalg.norm(places, axis=1, keepdims=True)
    places *= rng.uniform(0.3, 1, (count, 1)) ** 0.5
    tones = rng.uniform(0.75, 1.15, (count, 1)) * (1 + 0.35 * places[:, 1:2])
    places = places * [spread, height * 0.27, spread] + [0, height * 0.72, 0]
    size = rng.uniform(0.16, 0.36, (count, 1))
    along, across = size * rng.normal(0, 0.8, (count, 3)), size * rng.normal(0, 0.8, (count, 3))
    vertices = np.stack([places - along, places - across, places + along, places + across], 1)
    attributes = np.zeros((count, 7))
    hue = rng.random()
    attributes[:, :3] = tones * [0.12 + 0.14 * hue, 0.25 + 0.04 * hue, 0.06]
    attributes[:, 3] = m.LEAF
    return Mesh(
        np.concatenate([wood.vertices, vertices.astype(np.float32)]),
        np.concatenate([wood.attributes, attributes.astype(np.float32)]),
    )


@lru_cache(maxsize=2)
def lamp_post(side: int) -> Mesh:
    """A street lamp; its arm reaches over the road."""
    b = Builder()
    b.limb((0, 0, 0), (0, 6.5, 0), 0.09, 0.06, (0.25, 0.26, 0.27))
    b.limb((0, 6.5, 0), (-side * 1.6, 6.8, 0), 0.05, 0.04, (0.25, 0.26, 0.27))
    b.box(-side * 1.6 - 0.35, -side * 1.6 + 0.35, 6.68, 6.8, -0.12, 0.12, (0.95, 0.85, 0.6), m.LAMP)
    return b.build(5)


@lru_cache(maxsize=64)
def traffic_light(variant: int) -> Mesh:
    rng, b = np.random.default_rng(variant), Builder()
    b.limb((0, 0, 0), (0, 3.3, 0), 0.07, 0.06, (0.2, 0.21, 0.22))
    b.box(-0.17, 0.17, 2.4, 3.3, -0.14, 0.14, (0.04, 0.045, 0.04))
    on = int(rng.integers(3))
    for k, shine in enumerate(((0.1, 0.95, 0.4), (0.95, 0.7, 0.1), (0.95, 0.1, 0.08))):
        colour = shine if k == on else (shine[0] * 0.15, shine[1] * 0.15, shine[2] * 0.15)
        y = 2.55 + 0.29 * k
        b.limb((0, y, -0.145), (0, y, -0.17), 0.105, 0.1, colour, m.LAMP if k == on else m.PLAIN)
    return b.build(8)


@lru_cache(maxsize=64)
def sign(variant: int) -> Mesh:
    rng, b = np.random.default_rng(variant), Builder()
    b.limb((0, 0, 0), (0, 2.4, 0), 0.035, 0.035, (0.5, 0.5, 0.5))
    kind = int(rng.integers(3))
    if kind == 0:
        b.limb((0, 2.4, -0.04), (0, 2.4, -0.05), 0.33, 0.33, (0.75, 0.06, 0.06))
        b.limb((0, 2.4, -0.05), (0, 2.4, -0.06), 0.24, 0.24, (0.88, 0.88, 0.86))
    elif kind == 1:
        b.box(-0.3, 0.3, 2.1, 2.7, -0.05, -0.03, (0.06, 0.2, 0.6))
        b.quad(
            (-0.1, 2.2, -0.06),
            (0.1, 2.2, -0.06),
            (0.1, 2.6, -0.06),
            (-0.1, 2.6, -0.06),
            (0.9, 0.9, 0.9),
        )
    else:
        b.quad(
            (-0.4, 2.1, -0.05),
            (0.4, 2.1, -0.05),
            (0, 2.8, -0.05),
            (0, 2.8, -0.05),
            (0.75, 0.06, 0.06),
        )
        b.quad(
            (-0.25, 2.18, -0.06),
            (0.25, 2.18, -0.06),
            (0, 2.62, -0.06),
            (0, 2.62, -0.06),
            (0.9, 0.9, 0.88),
        )
    return b.build(10)


@lru_cache(maxsize=64)
def furniture(variant: int) -> Mesh:
    """A bin, a letter box, a row of bollards, a poster pillar or a statue: as tall as people, but
    background."""
    rng = np.random.default_rng(variant)
    b = Builder()
    kind = int(rng.integers(5))
    grey = rng.uniform(0.15, 0.5)
    if kind == 0:
        b.frustum((0, -0.28, 0.28, -0.3, 0.3), (1.05, -0.32, 0.32, -0.36, 0.36), (0.12, 0.2, 0.14))
    elif kind == 1:
        b.box(-0.25, 0.25, 0.5, 1.3, -0.2, 0.2, (0.75, 0.6, 0.08))
        b.limb((0, 0, 0), (0, 0.5, 0), 0.05, 0.05, (0.2, 0.2, 0.2))
    elif kind == 2:
        for z in (-1.5, 0.0, 1.5):
            b.limb((0, 0, z), (0, 0.95, z), 0.07, 0.06, (grey, grey, grey))
    elif kind == 3:
        b.limb((0, 0, 0), (0, 2.6, 0), 0.55, 0.55, (0.7, 0.66, 0.5), m.SIGN)
        b.limb((0, 2.6, 0), (0, 2.9, 0), 0.62, 0.2, (0.1, 0.25, 0.15))
    else:
        b.box(-0.5, 0.5, 0, 0.9, -0.5, 0.5, (0.4, 0.4, 0.38))
        b.limb((0, 0.9, 0), (0, 1.9, 0), 0.2, 0.24, (0.22, 0.27, 0.24))
        b.limb((0, 1.95, 0), (0, 2.25, 0), 0.11, 0.09, (0.22, 0.27, 0.24))
    return b.build(8)
