"""Builds cars, trucks and buses, in metres, centred on the ground, with the front towards z."""

from __future__ import annotations

import numpy as np

from instaseg_ros.synthetic_street import materials as m
from instaseg_ros.synthetic_street.geometry import Builder, Colour, Mesh
from instaseg_ros.synthetic_street.vehicle_parts import (
    BUS_PAINTS,
    CAR_PAINTS,
    CARGO,
    ends,
    pick,
    wheels,
)

_PAINTED = (m.PAINT,) * 4
_BLACK, _GLASS, _STEEL = (0.05, 0.05, 0.05), (0.07, 0.08, 0.09), (0.35, 0.35, 0.36)
_SUV = 3  # after hatchback, saloon, estate
# the shortest length, and how much more at most
_CAR_LENGTHS = ((3.7, 0.5), (4.4, 0.5), (4.4, 0.5), (4.3, 0.5))


def car(rng: np.random.Generator) -> tuple[Mesh, float, float]:
    """A hatchback, saloon, estate or SUV: (mesh, length, width) in metres."""
    kind = int(rng.integers(4))
    length = [rng.uniform(low, low + extra) for low, extra in _CAR_LENGTHS][kind]
    width = rng.uniform(1.7, 1.85) + (0.08 if kind == _SUV else 0)
    height = (1.48, 1.44, 1.47, 1.7)[kind] + rng.uniform(-0.05, 0.05)
    paint = pick(rng, CAR_PAINTS)
    w, front, back = width / 2, length / 2, -length / 2
    belt, floor = height * 0.6, 0.3 if kind == _SUV else 0.22
    hood, waist = belt - 0.06, belt * 0.62
    cowl = front - length * (0.22 if kind == _SUV else 0.24)
    tail = back + length * (0.04, 0.17, 0.03, 0.03)[kind]
    b = Builder()
    # three lofts upwards; the bonnet falls towards the front
    sill, bumper = (floor, -w, w, back + 0.08, front - 0.1), (waist, -w, w, back, front)
    bonnet = (hood, -w + 0.05, w - 0.05, back + 0.06, front - 0.18)
    shoulder = (hood, -w + 0.05, w - 0.05, back + 0.06, cowl + 0.1)
    b.frustum(sill, bumper, paint, _PAINTED)
    b.frustum(bumper, bonnet, paint, _PAINTED)
    b.frustum(shoulder, (belt, -w + 0.07, w - 0.07, tail - 0.02, cowl), paint, _PAINTED)
    windscreen = length * rng.uniform(0.13, 0.17)
    rear_slopes = (rng.uniform(0.07, 0.1), rng.uniform(0.12, 0.16), 0.05, 0.04)
    cabin = (belt, -w + 0.07, w - 0.07, tail, cowl)
    roof = (height, -w + 0.24, w - 0.24, tail + length * rear_slopes[kind], cowl - windscreen)
    b.frustum(cabin, roof, paint, (m.CABIN, m.CABIN, m.CABIN, m.PAINT), 1.0)
    axles = (front - length * 0.19, back + length * 0.2)
    wheels(b, w, axles, 0.36 if kind == _SUV else 0.31)
    ends(b, w, front - 0.03, back + 0.02, belt * 0.7, 0.15)
    for side in (-1, 1):  # door mirrors
        x = side * (w - 0.02)
        b.box(x - 0.09, x + 0.09, belt, belt + 0.13, cowl - 0.35, cowl - 0.25, paint)
    b.quad((-w, 0.2, back), (w, 0.2, back), (w, 0.2, front), (-w, 0.2, front), (0.02, 0.02, 0.02))
    return b.build(8), length, width


def truck(rng: np.random.Generator) -> tuple[Mesh, float, float]:
    """A cab with a cargo box, a tarpaulin or a tipper behind it: (mesh, length, width)."""
    length, width = rng.uniform(6.2, 9.0), rng.uniform(2.2, 2.5)
    height = rng.uniform(2.9, 3.6)
    w, front, back = width / 2, length / 2, -length / 2
    cab, cargo = pick(rng, CAR_PAINTS, 0.06), pick(rng, CARGO)
    z0 = front - rng.uniform(1.7, 2.1)
    cab_height = height * rng.uniform(0.76, 0.88)
    b = Builder()
    b.box(-w * 0.5, w * 0.5, 0.5, 0.85, back + 0.1, front - 0.3, (0.07, 0.07, 0.075))
    waist = (1.35, -w, w, z0, front)
    b.frustum((0.45, -w, w, z0, front), waist, cab, _PAINTED)
    roof = (cab_height, -w + 0.08, w - 0.08, z0, front - 0.3)
    b.frustum(waist, roof, cab, (m.CABIN, m.CABIN, m.PLAIN, m.PAINT))
    b.box(-w * 0.8, w * 0.8, 0.62, 0.95, front, front + 0.04, _BLACK)
    _cargo(b, rng, cargo, w, rng.uniform(0.85, 1.05), height, back, z0 - 0.12)
    b.box(-w, w, 0.45, 0.6, back - 0.02, back + 0.08, (0.6, 0.1, 0.08))
    axles = (front - 0.95, back + 1.2, back + 2.3) if length > 7.8 else (front - 0.95, back + 1.4)
    wheels(b, w, axles, 0.47)
    ends(b, w, front + 0.02, back, 0.75, 0.18)
    return b.build(8), length, width


def _cargo(
    b: Builder,
    rng: np.random.Generator,
    paint: Colour,
    w: float,
    floor: float,
    height: float,
    back: float,
    end: float,
) -> None:
    """What a truck carries, from back to end: a box, a tarpaulin, or an open tipper with ribs."""
    style = int(rng.integers(3))
    if style == 2:
        top, load = height * 0.72, height * 0.72 + 0.01
        b.box(-w, w, floor, top, back, end, paint)
        earth = (-w, load, back), (w, load, back), (w, load, end), (-w, load, end)
        b.quad(*earth, (0.3, 0.24, 0.17), m.GRASS)
        for z in np.linspace(back + 0.1, end - 0.2, 6):
            b.box(-w - 0.05, w + 0.05, floor, top, z, z + 0.12, paint)
        return
    b.box(-w - 0.03, w + 0.03, floor, height, back, end, paint, m.CLOTH if style else m.PLAIN)
    stripe, low = pick(rng, CAR_PAINTS), floor + 0.35 * (height - floor)
    for x in (-w - 0.04, w + 0.04):
        high = floor + rng.uniform(0.5, 0.7) * (height - floor)
        z0, z1 = back + 0.5, end - 0.5
        b.quad((x, low, z0), (x, low, z1), (x, high, z1 - 0.3), (x, high, z0), stripe)
    for x in (-0.02, w - 0.06, -w):  # door frame at the back
        b.box(x, x + 0.06, floor, height, back - 0.03, back, _STEEL)


def bus(rng: np.random.Generator) -> tuple[Mesh, float, float]:
    """A city bus, one or two decks: (mesh, length, width)."""
    length, width = rng.uniform(9.0, 11.5), 2.5
    two_decks = rng.random() < 0.18
    height = 4.1 if two_decks else rng.uniform(2.95, 3.2)
    w, front, back = width / 2, length / 2, -length / 2
    paint = pick(rng, BUS_PAINTS)
    skirt = pick(rng, BUS_PAINTS) if rng.random() < 0.4 else paint
    b = Builder()
    deck, top = (1.15, -w, w, back, front), (2.5, -w, w, back, front - 0.08)
    b.frustum((0.32, -w, w, back, front), deck, skirt, _PAINTED)
    b.frustum(deck, top, paint, (m.BAND, m.GLASS, m.CABIN, m.PAINT))
    if two_decks:
        upper = (2.85, -w, w, back, front - 0.1)
        b.frustum(top, upper, paint, _PAINTED)
        b.frustum(
            upper, (3.75, -w, w, back, front - 0.15), paint, (m.BAND, m.BAND, m.CABIN, m.PAINT)
        )
    eaves = (3.75 if two_decks else 2.5, -w, w, back, front - 0.1)
    roof = (height, -w + 0.1, w - 0.1, back + 0.1, front - 0.2)
    b.frustum(eaves, roof, paint, _PAINTED)
    _bus_front(b, w, height, front)
    for z in (front - 1.4, 0.2):  # doors on the kerb side
        x, end = w + 0.012, z + 1.1
        door = (x, 0.38, z), (x, 0.38, end), (x, 2.45, end), (x, 2.45, z)
        b.quad(*door, _GLASS, m.CABIN, (1.1, 2.07), 1.0)
    for side in (-1, 1):  # mirrors
        x = side * (w + 0.12)
        b.box(x - 0.1, x + 0.1, 1.9, 2.35, front - 0.05, front + 0.08, _BLACK)
    wheels(b, w, (front - 2.3, back + 2.6), 0.48)
    ends(b, w, front, back, 0.75, 0.2)
    return b.build(8), length, width


def _bus_front(b: Builder, w: float, height: float, front: float) -> None:
    """The destination sign and the windscreen."""
    case_x, sign_x, x = w * 0.75, w * 0.6, w - 0.12
    b.box(-case_x, case_x, height - 0.4, height - 0.12, front - 0.14, front - 0.04, _BLACK)
    amber = (0.95, 0.6, 0.1)
    low, high = height - 0.36, height - 0.16
    b.box(-sign_x, w * 0.5, low, high, front - 0.05, front - 0.02, amber, m.LAMP)
    z, z_top = front - 0.01, front - 0.05
    b.quad((-x, 1.25, z), (x, 1.25, z), (x, 2.45, z_top), (-x, 2.45, z_top), _GLASS, m.GLASS)
