"""Cars, trucks and buses: local metres, origin on the ground in the middle, front towards z."""

from __future__ import annotations

import numpy as np

from . import materials as m
from .geometry import Builder, Mesh
from .vehicle_parts import BUS_PAINTS, CAR_PAINTS, CARGO, ends, pick, wheels


def car(rng: np.random.Generator) -> tuple[Mesh, float, float]:
    """A hatchback, saloon, estate or SUV: (mesh, length, width) in metres."""
    kind = int(rng.integers(4))
    length = (
        rng.uniform(3.7, 4.2),
        rng.uniform(4.4, 4.9),
        rng.uniform(4.4, 4.9),
        rng.uniform(4.3, 4.8),
    )[kind]
    width = rng.uniform(1.7, 1.85) + (0.08 if kind == 3 else 0)
    height = (1.48, 1.44, 1.47, 1.7)[kind] + rng.uniform(-0.05, 0.05)
    w, front, back = width / 2, length / 2, -length / 2
    belt, floor = height * 0.6, 0.22 if kind < 3 else 0.3
    paint = pick(rng, CAR_PAINTS)
    b = Builder()
    # lower body in three lofts: tail, middle, bonnet that falls towards the front
    hood = belt - 0.06
    cowl = front - length * (0.24 if kind != 3 else 0.22)
    tail = back + length * (0.04, 0.17, 0.03, 0.03)[kind]
    body = (m.PAINT,) * 4
    b.frustum(
        (floor, -w, w, back + 0.08, front - 0.1), (belt * 0.62, -w, w, back, front), paint, body
    )
    b.frustum(
        (belt * 0.62, -w, w, back, front),
        (hood, -w + 0.05, w - 0.05, back + 0.06, front - 0.18),
        paint,
        body,
    )
    b.frustum(
        (hood, -w + 0.05, w - 0.05, back + 0.06, cowl + 0.1),
        (belt, -w + 0.07, w - 0.07, tail - 0.02, cowl),
        paint,
        body,
    )
    slope_front = length * rng.uniform(0.13, 0.17)
    slope_back = length * (rng.uniform(0.07, 0.1), rng.uniform(0.12, 0.16), 0.05, 0.04)[kind]
    b.frustum(
        (belt, -w + 0.07, w - 0.07, tail, cowl),
        (height, -w + 0.24, w - 0.24, tail + slope_back, cowl - slope_front),
        paint,
        (m.CABIN, m.CABIN, m.CABIN, m.PAINT),
        1.0,
    )
    wheels(b, w, (front - length * 0.19, back + length * 0.2), 0.31 if kind < 3 else 0.36)
    ends(b, w, front - 0.03, back + 0.02, belt * 0.7, 0.15)
    for side in (-1, 1):  # door mirrors
        b.box(
            side * (w - 0.02) - 0.09,
            side * (w - 0.02) + 0.09,
            belt,
            belt + 0.13,
            cowl - 0.35,
            cowl - 0.25,
            paint,
        )
    b.quad((-w, 0.2, back), (w, 0.2, back), (w, 0.2, front), (-w, 0.2, front), (0.02, 0.02, 0.02))
    return b.build(8), length, width


def truck(rng: np.random.Generator) -> tuple[Mesh, float, float]:
    """A cab with a cargo box, a tarpaulin or a tipper behind it: (mesh, length, width)."""
    length, width = rng.uniform(6.2, 9.0), rng.uniform(2.2, 2.5)
    height = rng.uniform(2.9, 3.6)
    w, front, back = width / 2, length / 2, -length / 2
    cab, cargo = pick(rng, CAR_PAINTS, 0.06), pick(rng, CARGO)
    cab_length, cab_height = rng.uniform(1.7, 2.1), height * rng.uniform(0.76, 0.88)
    b = Builder()
    b.box(-w * 0.5, w * 0.5, 0.5, 0.85, back + 0.1, front - 0.3, (0.07, 0.07, 0.075))
    z0 = front - cab_length
    b.frustum((0.45, -w, w, z0, front), (1.35, -w, w, z0, front), cab, (m.PAINT,) * 4)
    b.frustum(
        (1.35, -w, w, z0, front),
        (cab_height, -w + 0.08, w - 0.08, z0, front - 0.3),
        cab,
        (m.CABIN, m.CABIN, m.PLAIN, m.PAINT),
    )
    b.box(-w * 0.8, w * 0.8, 0.62, 0.95, front, front + 0.04, (0.05, 0.05, 0.05))
    box_end, box_floor = z0 - 0.12, rng.uniform(0.85, 1.05)
    style = int(rng.integers(3))
    if style == 2:  # tipper: open, low sides with ribs
        top = height * 0.72
        b.box(-w, w, box_floor, top, back, box_end, cargo)
        b.quad(
            (-w, top + 0.01, back),
            (w, top + 0.01, back),
            (w, top + 0.01, box_end),
            (-w, top + 0.01, box_end),
            (0.3, 0.24, 0.17),
            m.GRASS,
        )
        ribs = np.linspace(back + 0.1, box_end - 0.2, 6)
        for z in ribs:
            b.box(-w - 0.05, w + 0.05, box_floor, top, z, z + 0.12, cargo)
    else:
        b.box(
            -w - 0.03,
            w + 0.03,
            box_floor,
            height,
            back,
            box_end,
            cargo,
            m.CLOTH if style else m.PLAIN,
        )
        stripe = pick(rng, CAR_PAINTS)
        for x in (-w - 0.04, w + 0.04):
            low, high = (
                box_floor + 0.35 * (height - box_floor),
                box_floor + rng.uniform(0.5, 0.7) * (height - box_floor),
            )
            b.quad(
                (x, low, back + 0.5),
                (x, low, box_end - 0.5),
                (x, high, box_end - 0.8),
                (x, high, back + 0.5),
                stripe,
            )
        for x in (-0.02, w - 0.06, -w):  # door frame at the back
            b.box(x, x + 0.06, box_floor, height, back - 0.03, back, (0.35, 0.35, 0.36))
    b.box(-w, w, 0.45, 0.6, back - 0.02, back + 0.08, (0.6, 0.1, 0.08))
    axles = (front - 0.95, back + 1.2, back + 2.3) if length > 7.8 else (front - 0.95, back + 1.4)
    wheels(b, w, axles, 0.47)
    ends(b, w, front + 0.02, back, 0.75, 0.18)
    return b.build(8), length, width


def bus(rng: np.random.Generator) -> tuple[Mesh, float, float]:
    """A city bus, one or two decks: (mesh, length, width)."""
    length, width = rng.uniform(9.0, 11.5), 2.5
    two_decks = rng.random() < 0.18
    height = 4.1 if two_decks else rng.uniform(2.95, 3.2)
    w, front, back = width / 2, length / 2, -length / 2
    paint = pick(rng, BUS_PAINTS)
    low = pick(rng, BUS_PAINTS) if rng.random() < 0.4 else paint
    b = Builder()
    deck = 1.15
    pane_top = 2.5
    b.frustum((0.32, -w, w, back, front), (deck, -w, w, back, front), low, (m.PAINT,) * 4)
    b.frustum(
        (deck, -w, w, back, front),
        (pane_top, -w, w, back, front - 0.08),
        paint,
        (m.BAND, m.GLASS, m.CABIN, m.PAINT),
    )
    if two_decks:
        b.frustum(
            (pane_top, -w, w, back, front - 0.08),
            (2.85, -w, w, back, front - 0.1),
            paint,
            (m.PAINT,) * 4,
        )
        b.frustum(
            (2.85, -w, w, back, front - 0.1),
            (3.75, -w, w, back, front - 0.15),
            paint,
            (m.BAND, m.BAND, m.CABIN, m.PAINT),
        )
        pane_top = 3.75
    b.frustum(
        (pane_top, -w, w, back, front - 0.1),
        (height, -w + 0.1, w - 0.1, back + 0.1, front - 0.2),
        paint,
        (m.PAINT,) * 4,
    )
    b.box(
        -w * 0.75,
        w * 0.75,
        height - 0.4,
        height - 0.12,
        front - 0.14,
        front - 0.04,
        (0.05, 0.05, 0.05),
    )
    b.box(
        -w * 0.6,
        w * 0.5,
        height - 0.36,
        height - 0.16,
        front - 0.05,
        front - 0.02,
        (0.95, 0.6, 0.1),
        m.LAMP,
    )
    glass = (0.07, 0.08, 0.09)
    b.quad(
        (-w + 0.12, deck + 0.1, front - 0.01),
        (w - 0.12, deck + 0.1, front - 0.01),
        (w - 0.12, 2.45, front - 0.05),
        (-w + 0.12, 2.45, front - 0.05),
        glass,
        m.GLASS,
    )
    for z in (front - 1.4, 0.2):  # doors on the kerb side
        b.quad(
            (w + 0.012, 0.38, z),
            (w + 0.012, 0.38, z + 1.1),
            (w + 0.012, 2.45, z + 1.1),
            (w + 0.012, 2.45, z),
            glass,
            m.CABIN,
            (1.1, 2.07),
            1.0,
        )
    for side in (-1, 1):
        b.box(
            side * (w + 0.12) - 0.1,
            side * (w + 0.12) + 0.1,
            1.9,
            2.35,
            front - 0.05,
            front + 0.08,
            (0.05, 0.05, 0.05),
        )
    wheels(b, w, (front - 2.3, back + 2.6), 0.48)
    ends(b, w, front, back, 0.75, 0.2)
    return b.build(8), length, width
