"""Builds cars with curved outlines of many proportions, for varied streets."""

from __future__ import annotations

import numpy as np

from instaseg_ros.synthetic_street import materials as m
from instaseg_ros.synthetic_street.geometry import Builder, Colour, Mesh
from instaseg_ros.synthetic_street.vehicle_parts import CAR_PAINTS, ends, pick, wheels

# The outline from the front to the back, as shares of length and of height. The cabin lies between
# the points of _CABIN, which are counted.
_OUTLINES = {
    "hatchback": (
        (0, 0.02, 0.12, 0.26, 0.45, 0.6, 0.82, 0.96, 0.99, 1),
        (0.38, 0.5, 0.58, 0.64, 0.96, 1.0, 0.95, 0.62, 0.55, 0.4),
    ),
    "saloon": (
        (0, 0.02, 0.12, 0.28, 0.44, 0.56, 0.7, 0.84, 0.97, 1),
        (0.38, 0.5, 0.58, 0.65, 0.97, 1.0, 0.95, 0.7, 0.66, 0.42),
    ),
    "estate": (
        (0, 0.02, 0.1, 0.26, 0.42, 0.55, 0.88, 0.97, 0.99, 1),
        (0.38, 0.5, 0.58, 0.65, 0.96, 1.0, 0.96, 0.64, 0.58, 0.4),
    ),
    "van": (
        (0, 0.02, 0.08, 0.16, 0.3, 0.4, 0.95, 0.985, 0.995, 1),
        (0.32, 0.42, 0.5, 0.55, 0.93, 1.0, 0.99, 0.6, 0.5, 0.35),
    ),
}
_CABIN = (3, 7)
_SIZES = {  # least and most length, width, height in metres; how often
    "hatchback": ((3.5, 4.4), (1.62, 1.85), (1.4, 1.6), 0.34),
    "saloon": ((4.3, 5.1), (1.72, 1.95), (1.35, 1.5), 0.22),
    "estate": ((4.2, 5.0), (1.72, 2.0), (1.42, 1.85), 0.3),
    "van": ((4.3, 5.4), (1.8, 2.05), (1.75, 2.2), 0.14),
}


def _paint(rng: np.random.Generator) -> Colour:
    """Most cars are black, grey, silver or white."""
    kind = rng.random()
    if kind < 0.7:
        low, high = ((0.02, 0.1), (0.12, 0.5), (0.6, 0.9))[int(kind / 0.7 * 3)]
        grey = rng.uniform(low, high)
        r, g, b = np.clip(grey * (1 + rng.normal(0, 0.05, 3)), 0.01, 0.92)
        return float(r), float(g), float(b)
    return pick(rng, CAR_PAINTS, 0.1)


def rounded_car(rng: np.random.Generator) -> tuple[Mesh, float, float]:
    """A hatchback, saloon, estate (or SUV) or van: (mesh, length, width) in metres."""
    names = tuple(_SIZES)
    name = names[int(rng.choice(len(names), p=[size[3] for size in _SIZES.values()]))]
    length, width, height = (rng.uniform(*span) for span in _SIZES[name][:3])
    first, last = _CABIN
    outline = np.array(_OUTLINES[name], np.float64).T
    outline[1:-1] += rng.normal(0, (0.012, 0.014), (len(outline) - 2, 2))
    outline[:, 0] = np.maximum.accumulate(np.clip(outline[:, 0], 0, 1))
    z = (0.5 - outline[:, 0]) * length
    top = np.minimum(outline[:, 1], 1.02) * height
    belt = min(top[first], top[last]) - 0.01
    taper = rng.uniform(0.06, 0.2)  # of the plan, towards both ends
    half = width / 2 * (1 - taper * np.abs(2 * outline[:, 0] - 1) ** 4)
    floor, waist = rng.uniform(0.16, 0.32), belt * rng.uniform(0.55, 0.75)
    paint, lean = _paint(rng), rng.uniform(0.12, 0.28)
    trim = paint if rng.random() < 0.6 else (0.05, 0.05, 0.055)
    b = Builder()
    roof = half * (1 - lean * np.clip((top - belt) / (height - belt), 0, 1))
    for i in range(len(z) - 1):
        cabin = first <= i < last
        _slice(b, (z[i], z[i + 1]), (half[i], half[i + 1]), (floor, waist), paint, trim)
        edge = tuple(min(belt, y) for y in top[i : i + 2])
        for side in (-1, 1):
            low = (side * half[i], waist, z[i]), (side * half[i + 1], waist, z[i + 1])
            high = (side * half[i + 1], edge[1], z[i + 1]), (side * half[i], edge[0], z[i])
            b.quad(*low, *high, paint, m.PAINT, (z[i] - z[i + 1], belt - waist))
            if cabin:
                above = (side * roof[i + 1], top[i + 1], z[i + 1]), (side * roof[i], top[i], z[i])
                panes = m.CABIN if name != "van" or i < first + 2 or rng.random() < 0.5 else m.PAINT
                scale = (max(0.3, z[i] - z[i + 1]), height - belt)
                b.quad(high[1], high[0], *above, paint, panes, scale)
        steep = cabin and i in (first, last - 1)
        corners = (-roof[i], top[i], z[i]), (roof[i], top[i], z[i])
        behind = (roof[i + 1], top[i + 1], z[i + 1]), (-roof[i + 1], top[i + 1], z[i + 1])
        scale = (2 * roof[i], float(np.hypot(top[i + 1] - top[i], z[i] - z[i + 1])))
        b.quad(*corners, *behind, paint, m.CABIN if steep else m.PAINT, scale)
    for at, y, x in ((z[0], top[0], half[0]), (z[-1], top[-1], half[-1])):
        b.quad((-x, floor, at), (x, floor, at), (x, y, at), (-x, y, at), trim, m.PAINT)
    radius = rng.uniform(0.28, 0.38)
    axles = (length * rng.uniform(0.28, 0.33), -length * rng.uniform(0.27, 0.33))
    wheels(b, width / 2 * (1 - taper * 0.16), axles, radius)
    ends(b, half[0] - 0.02, z[0] + 0.02, z[-1] - 0.01, belt * 0.72, rng.uniform(0.1, 0.17))
    for side in (-1, 1):  # door mirrors
        x, at = side * half[first], z[first] - 0.3
        b.box(x - 0.1, x + 0.1, belt, belt + 0.14, at, at + 0.1, paint if side > 0 else trim)
    x, y, front, back = float(half.min()) - 0.1, floor + 0.01, z[0] - 0.2, z[-1] + 0.2
    b.quad((-x, y, back), (x, y, back), (x, y, front), (-x, y, front), (0.02, 0.02, 0.02))
    return b.build(8), length, width


def _slice(
    b: Builder,
    z: tuple[float, float],
    half: tuple[float, float],
    y: tuple[float, float],
    paint: Colour,
    trim: Colour,
) -> None:
    """Both sides of a slice of the body, from the sill (narrower) to the waist."""
    middle = y[0] + 0.25 * (y[1] - y[0])
    for side in (-1, 1):
        sill = tuple((side * (x - 0.05), y[0], at) for x, at in zip(half, z, strict=True))
        low = tuple((side * x, middle, at) for x, at in zip(half, z, strict=True))
        high = tuple((side * x, y[1], at) for x, at in zip(half, z, strict=True))
        b.quad(sill[0], sill[1], low[1], low[0], trim)
        b.quad(low[0], low[1], high[1], high[0], paint, m.PAINT, (z[0] - z[1], y[1] - middle))
