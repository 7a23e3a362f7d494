"""Builds articulated people, on foot and on two wheels, of sticks that move with the gait."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from instaseg_ros.synthetic_street import materials as m
from instaseg_ros.synthetic_street.geometry import Builder, Colour, Mesh, Point

_SKIN = ((0.85, 0.62, 0.5), (0.7, 0.48, 0.36), (0.45, 0.29, 0.2), (0.25, 0.16, 0.11))
_HAIR = ((0.06, 0.05, 0.04), (0.2, 0.12, 0.06), (0.5, 0.38, 0.18), (0.45, 0.44, 0.43))


def _cloth(rng: np.random.Generator) -> Colour:
    if rng.random() < 0.45:
        grey = rng.uniform(0.04, 0.8)
        return grey, grey, min(0.9, grey * rng.uniform(1.0, 1.2))
    r, g, b = rng.uniform(0.05, 0.8, 3)
    return float(r), float(g), float(b)


@dataclass(frozen=True, slots=True)
class Look:
    """A person's clothes and build; height in metres."""

    height: float
    girth: float
    skin: Colour
    hair: Colour
    top: Colour
    legs: Colour
    shoes: Colour
    bag: Colour | None
    skirt: bool
    long_hair: bool


def random_look(rng: np.random.Generator) -> Look:
    child = rng.random() < 0.1
    return Look(
        height=rng.uniform(1.15, 1.4) if child else rng.uniform(1.55, 1.92),
        girth=rng.uniform(0.85, 1.25),
        skin=_SKIN[int(rng.integers(4))],
        hair=_HAIR[int(rng.integers(4))],
        top=_cloth(rng),
        legs=_cloth(rng),
        shoes=(0.06, 0.05, 0.05) if rng.random() < 0.7 else (0.8, 0.8, 0.8),
        bag=_cloth(rng) if rng.random() < 0.3 else None,
        skirt=rng.random() < 0.2,
        long_hair=rng.random() < 0.4,
    )


def muted(look: Look, rng: np.random.Generator) -> Look:
    """The look in darker clothes, as most people wear, and of any build."""
    top, legs, shoes = (
        (r * dark, g * dark, b * dark)
        for (r, g, b), dark in zip(
            (look.top, look.legs, look.shoes), np.exp(rng.uniform(-2.3, 0.1, 3)), strict=True
        )
    )
    girth = look.girth * rng.uniform(0.85, 1.3)
    return replace(look, top=top, legs=legs, shoes=shoes, girth=girth)


def _head(b: Builder, look: Look, neck: Point, s: float, helmet: Colour | None = None) -> None:
    x, y, z = neck
    b.limb((x, y - 0.03 * s, z), (x, y + 0.07 * s, z + 0.01 * s), 0.055 * s, 0.05 * s, look.skin)
    b.limb(
        (x, y + 0.05 * s, z + 0.02 * s),
        (x, y + 0.15 * s, z + 0.02 * s),
        0.065 * s,
        0.1 * s,
        look.skin,
    )
    b.limb(
        (x, y + 0.15 * s, z + 0.02 * s),
        (x, y + 0.21 * s, z + 0.01 * s),
        0.1 * s,
        0.09 * s,
        look.skin,
    )
    cover = helmet or look.hair
    b.limb(
        (x, y + 0.18 * s, z - 0.005 * s),
        (x, y + 0.27 * s, z - 0.01 * s),
        0.112 * s,
        0.05 * s,
        cover,
    )
    b.limb(
        (x, y + (0.0 if look.long_hair and not helmet else 0.1) * s, z - 0.045 * s),
        (x, y + 0.22 * s, z - 0.03 * s),
        0.08 * s,
        0.095 * s,
        cover,
    )


def _torso(b: Builder, look: Look, hip: Point, neck: Point, s: float) -> None:
    """Two sticks side by side, so that a body is wider than it is deep."""
    g = look.girth * s
    for side in (-1, 1):
        b.limb(
            (hip[0] + side * 0.06 * g, hip[1], hip[2]),
            (neck[0] + side * 0.1 * g, neck[1] - 0.05 * s, neck[2]),
            0.115 * g,
            0.095 * g,
            look.top,
            m.CLOTH,
        )


def _bent(p: Point, q: Point, upper: float, lower: float, forward: float) -> Point:
    """The knee or elbow between p and q (in the plane of height and z), bent towards `forward` (+1
    or -1)."""
    dy, dz = q[1] - p[1], q[2] - p[2]
    distance = min(math.hypot(dy, dz), (upper + lower) * 0.999)
    along = (upper * upper - lower * lower + distance * distance) / (2 * max(distance, 1e-6))
    off = math.sqrt(max(0.0, upper * upper - along * along))
    ey, ez = dy / max(distance, 1e-6), dz / max(distance, 1e-6)
    return (
        (p[0] + q[0]) / 2,
        p[1] + ey * along + forward * ez * off,
        p[2] + ez * along - forward * ey * off,
    )


def walker(look: Look, phase: float, stride: float, sides: int) -> Mesh:
    """A person on foot, facing along z, at gait `phase` in radians; stride 0 stands, 1 walks."""
    b = Builder()
    s, g = look.height / 1.75, look.girth * look.height / 1.75
    sway = 0.02 * math.sin(2 * phase) * stride
    hip_y, neck_y = (0.93 + sway) * s, (1.46 + sway) * s
    lean = 0.04 * stride
    _torso(b, look, (0, hip_y, 0), (0, neck_y, lean), s)
    _head(b, look, (0, neck_y, lean), s)
    for side in (-1, 1):
        swing = math.sin(phase + (0 if side > 0 else math.pi)) * stride
        lift = max(0.0, math.cos(phase + (0 if side > 0 else math.pi))) * stride
        hip = (side * 0.085 * g, hip_y, 0.0)
        foot = (side * 0.09 * g, (0.08 + 0.12 * lift) * s, 0.36 * swing * s)
        knee = _bent(hip, foot, 0.45 * s, 0.44 * s, 1)
        b.limb(hip, knee, 0.095 * g, 0.065 * g, look.legs, m.CLOTH)
        b.limb(knee, foot, 0.065 * g, 0.045 * g, look.legs, m.CLOTH)
        b.limb(
            (foot[0], foot[1] - 0.03 * s, foot[2] - 0.05 * s),
            (foot[0], foot[1] - 0.04 * s, foot[2] + 0.17 * s),
            0.045 * s,
            0.035 * s,
            look.shoes,
        )
        shoulder = (side * 0.21 * g, neck_y - 0.07 * s, lean)
        hand = (side * 0.26 * g, (0.86 + 0.05 * abs(swing)) * s, -0.3 * swing * s + 0.05)
        elbow = _bent(shoulder, hand, 0.29 * s, 0.3 * s, -1)
        b.limb(shoulder, elbow, 0.06 * g, 0.05 * g, look.top, m.CLOTH)
        b.limb(elbow, hand, 0.048 * g, 0.038 * g, look.top, m.CLOTH)
        b.limb(hand, (hand[0], hand[1] - 0.1 * s, hand[2]), 0.04 * s, 0.03 * s, look.skin)
    if look.skirt:
        b.limb((0, hip_y + 0.05 * s, 0), (0, 0.55 * s, 0), 0.17 * g, 0.26 * g, look.legs, m.CLOTH)
    if look.bag is not None:
        b.box(-0.15 * g, 0.15 * g, hip_y + 0.1 * s, neck_y - 0.04 * s, -0.3 * g, -0.1 * g, look.bag)
    return b.build(sides)


def _ring(b: Builder, y: float, z: float, radius: float, width: float, colour: Colour) -> None:
    previous = (0.0, y, z + radius)
    for k in range(1, 9):
        angle = k * math.pi / 4
        point = (0.0, y + radius * math.sin(angle), z + radius * math.cos(angle))
        b.limb(previous, point, width, width, colour)
        previous = point


def rider(
    look: Look | None,
    phase: float,
    motor: bool,
    paint: Colour,
    helmet: Colour | None,
    sides: int,
) -> Mesh:
    """A bicycle or motorcycle (front towards z) with its rider; `phase` turns the pedals.

    look: None: it stands alone.
    """
    b = Builder()
    dark = (0.04, 0.04, 0.04)
    radius, thick, base = (0.31, 0.075, 0.68) if motor else (0.34, 0.022, 0.53)
    _ring(b, radius, -base, radius - thick, thick, dark)
    _ring(b, radius, base, radius - thick, thick, dark)
    saddle, bar = (
        ((0.0, 0.8, -0.3), (0.0, 1.02, 0.38)) if motor else ((0.0, 0.93, -0.22), (0.0, 1.02, 0.38))
    )
    pedal = (0.0, 0.35 if motor else 0.28, -0.05)
    if motor:
        b.frustum(
            (0.35, -0.13, 0.13, -0.5, 0.4), (0.78, -0.16, 0.16, -0.75, 0.35), paint, (m.PAINT,) * 4
        )
        b.frustum((0.7, -0.16, 0.16, 0.1, 0.5), (1.05, -0.2, 0.2, 0.3, 0.52), paint, (m.PAINT,) * 4)
        b.limb((0, 0.9, 0.52), (0, 0.9, 0.56), 0.1, 0.08, (0.95, 0.93, 0.85), m.LAMP)
        b.limb((0, 0.72, -0.76), (0, 0.72, -0.8), 0.07, 0.05, (0.7, 0.05, 0.04), m.LAMP)
    else:
        rod = 0.022
        for p, q in (
            ((0, radius, -base), pedal),
            (pedal, (0, 0.85, 0.36)),
            (pedal, saddle),
            ((0, 0.8, -0.18), (0, 0.83, 0.36)),
            ((0, radius, -base), (0, 0.8, -0.18)),
            ((0, radius, base), bar),
        ):
            b.limb(p, q, rod, rod, paint)
        b.limb((0, 0.93, -0.34), (0, 0.94, -0.1), 0.07, 0.03, dark)
    b.limb((-0.27, bar[1], bar[2]), (0.27, bar[1], bar[2]), 0.02, 0.02, dark)
    if look is not None:
        _mount(b, look, phase, motor, helmet, saddle, bar, pedal)
    return b.build(sides)


def _mount(
    b: Builder,
    look: Look,
    phase: float,
    motor: bool,
    helmet: Colour | None,
    saddle: Point,
    bar: Point,
    pedal: Point,
) -> None:
    s, g = look.height / 1.75, look.girth * look.height / 1.75
    hip = (0.0, saddle[1] + 0.1, saddle[2])
    neck = (0.0, hip[1] + 0.5 * s, hip[2] + (0.15 if motor else 0.24) * s)
    reach = 0.0 if motor else 0.16  # of the pedals
    _torso(b, look, hip, neck, s)
    _head(b, look, (0.0, neck[1], neck[2] + 0.02), s * (1.12 if motor else 1.0), helmet)
    for side in (-1, 1):
        turn = phase + (0 if side > 0 else math.pi)
        y, z = pedal[1] + reach * math.sin(turn), pedal[2] + reach * math.cos(turn)
        foot = (side * 0.13, y, z + 0.1 if motor else z)
        thigh = (side * 0.09 * g, hip[1], hip[2])
        knee = _bent(thigh, foot, 0.45 * s, 0.44 * s, 1)
        b.limb(thigh, knee, 0.09 * g, 0.065 * g, look.legs, m.CLOTH)
        b.limb(knee, foot, 0.06 * g, 0.045 * g, look.legs, m.CLOTH)
        heel, toe = (foot[0], y - 0.03, foot[2] - 0.06), (foot[0], y - 0.03, foot[2] + 0.17)
        b.limb(heel, toe, 0.045, 0.035, look.shoes)
        shoulder = (side * 0.2 * g, neck[1] - 0.06 * s, neck[2])
        hand = (side * 0.24, bar[1] + 0.03, bar[2])
        elbow = _bent(shoulder, hand, 0.3 * s, 0.3 * s, -1)
        b.limb(shoulder, elbow, 0.058 * g, 0.048 * g, look.top, m.CLOTH)
        b.limb(elbow, hand, 0.045 * g, 0.038 * g, look.top, m.CLOTH)
    if look.bag is not None:
        x, z = 0.15 * g, neck[2]
        b.box(-x, x, hip[1] + 0.12, neck[1] - 0.04, z - 0.35, z - 0.14, look.bag)
