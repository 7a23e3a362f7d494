"""Shades each visible point in one pass over the pixels: its surface, the light on it, the air in
front of it."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from instaseg_ros.numba_cache import cached_njit
from instaseg_ros.synthetic_street import materials as m
from instaseg_ros.synthetic_street.patterns import (
    Look,
    Rgb,
    Street,
    cycle,
    facade,
    panes,
    paving,
    random_of,
    road,
    rough,
    smooth,
)

BUILDING_CELL_M = 4.0


class Light(NamedTuple):
    """Linear RGB (3,) of sun, open sky, horizon and zenith; `to_sun` (3,), y up; fog in 1/m; the
    rest in [0, 1]."""

    to_sun: np.ndarray
    sun: np.ndarray
    ambient: np.ndarray
    horizon: np.ndarray
    zenith: np.ndarray
    fog: float
    clouds: float
    darkness: float
    wetness: float
    drift: float


class Seen(NamedTuple):
    """The rasteriser's output and input quads."""

    inverse_depth: np.ndarray
    surface: np.ndarray
    planes: np.ndarray
    owners: np.ndarray
    vertices: np.ndarray
    attributes: np.ndarray


class Shade(NamedTuple):
    """shadow (H, W) float32: share of sunlight blocked from the ground; contact (H, W) int32: index
    into contact_planes of the patch under a thing, -1 = none; roofs (2, N): metres by
    BUILDING_CELL_M, left and right."""

    shadow: np.ndarray
    contact: np.ndarray
    contact_planes: np.ndarray
    roofs: np.ndarray


class Eye(NamedTuple):
    """World-to-camera rotation (3, 3), camera centre (3,) (y down), intrinsics (fx, fy, cx, cy)."""

    rotation: np.ndarray
    origin: np.ndarray
    intrinsics: np.ndarray


@cached_njit(fastmath=True, error_model="numpy")
def _normals(vertices: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """(Q, 3) unit normals, y up, facing the camera; from the diagonals, as two corners of a quad
    may coincide."""
    normals = np.empty((len(vertices), 3))
    for q in range(len(vertices)):
        a0, a1, a2 = (
            vertices[q, 2, 0] - vertices[q, 0, 0],
            vertices[q, 2, 1] - vertices[q, 0, 1],
            vertices[q, 2, 2] - vertices[q, 0, 2],
        )
        b0, b1, b2 = (
            vertices[q, 3, 0] - vertices[q, 1, 0],
            vertices[q, 3, 1] - vertices[q, 1, 1],
            vertices[q, 3, 2] - vertices[q, 1, 2],
        )
        n0, n1, n2 = a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0
        size = math.sqrt(n0 * n0 + n1 * n1 + n2 * n2) + 1e-12
        if (
            n0 * (origin[0] - vertices[q, 0, 0])
            + n1 * (origin[1] - vertices[q, 0, 1])
            + n2 * (origin[2] - vertices[q, 0, 2])
        ) < 0:
            size = -size
        normals[q, 0], normals[q, 1], normals[q, 2] = n0 / size, -n1 / size, n2 / size
    return normals


@cached_njit(fastmath=True, error_model="numpy")
def _sky(
    dx: float,
    dy: float,
    dz: float,
    horizon: np.ndarray,
    zenith: np.ndarray,
    clouds: float,
    drift: float,
    image: np.ndarray,
    py: int,
    px: int,
) -> None:
    """The colour of a direction (any length, y up): from the horizon to the zenith, with clouds."""
    size = math.sqrt(dx * dx + dy * dy + dz * dz)
    up = max(0.0, dy / size)
    share = 1.0 - math.exp(-3.2 * up)
    scale = 34.0 / (up + 0.12) / size
    puff = smooth(dx * scale + drift, dz * scale)
    puff = min(1.0, max(0.0, (puff + clouds - 0.35) * 1.6)) * min(1.0, up * 9.0) * 0.8
    for j in range(3):
        base = horizon[j] + (zenith[j] - horizon[j]) * share
        image[py, px, j] = base + (min(1.0, horizon[j] * 1.12) - base) * puff


@cached_njit(fastmath=True, error_model="numpy", inline="always")
def _surface(
    kind: int,
    variant: int,
    paint: Rgb,
    wide: float,
    high: float,
    u: float,
    v: float,
    x: float,
    y: float,
    z: float,
    depth: float,
    up: float,
    air: tuple[float, float, float],
    street: Street,
) -> Look:
    """Colour, own light and reflection of a quad of `wide` by `high` metres at (u, v), world point
    (x, y, z), y up.

    air: wetness, darkness, blue of the zenith. Scalars only, as numba counts references to every
    array that it passes, which would cost more than the rest.
    """
    wetness, darkness, blue_sky = air
    red, green, blue = paint
    shade, own, mirror = 1.0, 0.0, 0.0
    if kind == m.ROAD:
        return road(x, z, depth, wetness, street)
    if kind == m.FACADE:
        return facade(u, v, variant, paint, blue_sky, darkness)
    if kind == m.CABIN or kind == m.BAND:
        return panes(kind, u, v, wide, high, variant == 1, paint, darkness)
    if kind == m.PAVEMENT:
        shade = paving(x, z, depth, street.tile)
    elif kind == m.GRASS or kind == m.LEAF:
        shade += 0.5 * rough((x + z) * 15, (y + z) * 15 + x * 9) / (1 + 0.02 * depth)
    elif kind == m.CLOTH:
        shade += 0.22 * rough(x * 60 + variant, y * 45)
    elif kind == m.GLASS:
        mirror = 0.25 + 0.25 * v
    elif kind == m.PAINT:
        mirror = 0.1 * (1 - abs(up)) + 0.12 * max(0.0, up)
    elif kind == m.LAMP:
        own = 0.25 + 1.2 * darkness
    elif kind == m.SIGN and random_of(int(u * 5), int(v * 5), variant) < 0.35:
        return 1 - red, 1 - green, 1 - blue, 0.0, 0.0
    return red * shade, green * shade, blue * shade, own, mirror


@cached_njit(fastmath=True, error_model="numpy")
def _behind_house(
    x: float, y: float, z: float, to_sun: np.ndarray, street: Street, roofs: np.ndarray
) -> bool:
    """Whether a house in the row towards the sun shades the point."""
    if abs(to_sun[0]) < 1e-3:
        return False
    side = 1 if to_sun[0] > 0 else 0
    way = ((street.wall_x if side == 1 else -street.wall_x) - x) / to_sun[0]
    if way <= 0.05:
        return False
    cell = int(math.floor((z + way * to_sun[2] - street.start) / BUILDING_CELL_M))
    return 0 <= cell < roofs.shape[1] and y + way * to_sun[1] < roofs[side, cell]


@cached_njit(fastmath=True, error_model="numpy")
def _shelter(mark: int, planes: np.ndarray, px: int, py: int, depth: float) -> float:
    """The share of open sky visible from the ground under a thing."""
    if mark < 0:
        return 1.0
    u = (planes[mark, 1, 0] * px + planes[mark, 1, 1] * py + planes[mark, 1, 2]) * depth * 2 - 1
    v = (planes[mark, 2, 0] * px + planes[mark, 2, 1] * py + planes[mark, 2, 2]) * depth * 2 - 1
    return 1.0 - 0.75 * min(1.0, 1.6 * max(0.0, 1 - u * u) * max(0.0, 1 - v * v))


@cached_njit(fastmath=True, error_model="numpy")
def _night_light(
    y: float, z: float, depth: float, aside: float, darkness: float, shelter: float
) -> float:
    """Street lamps every 24 m, and our own headlights."""
    along = cycle(z, 24.0) - 0.5
    lamps = 0.55 * math.exp(-18 * along * along) * math.exp(-max(0.0, y) / 5)
    return darkness * (
        lamps + 1.1 * math.exp(-depth / 14) * math.exp(-0.8 * aside * aside) * shelter
    )


@cached_njit(fastmath=True, error_model="numpy")
def shade(
    seen: Seen, occlusion: Shade, light: Light, eye: Eye, street: Street, image: np.ndarray
) -> None:
    """Fill `image` (H, W, 3) float32 with linear colour."""
    rotation, origin, intrinsics = eye
    fx, fy, cx, cy = intrinsics
    inverse_depth, surface, planes, owners, vertices, attributes = seen
    shadow, contact, contact_planes, roofs = occlusion
    to_sun, sun, ambient, horizon, zenith, fog, clouds, darkness, wetness, drift = light
    air = (wetness, darkness, zenith[2])
    normals = _normals(vertices, origin)
    for py in range(surface.shape[0]):
        for px in range(surface.shape[1]):
            rx, ry = (px - cx) / fx, (py - cy) / fy
            dx = rotation[0, 0] * rx + rotation[1, 0] * ry + rotation[2, 0]
            dy = rotation[0, 1] * rx + rotation[1, 1] * ry + rotation[2, 1]
            dz = rotation[0, 2] * rx + rotation[1, 2] * ry + rotation[2, 2]
            t = surface[py, px]
            if t < 0:
                _sky(dx, -dy, dz, horizon, zenith, clouds, drift, image, py, px)
                continue
            depth = 1.0 / inverse_depth[py, px]
            x, y, z = origin[0] + dx * depth, -(origin[1] + dy * depth), origin[2] + dz * depth
            u = (planes[t, 1, 0] * px + planes[t, 1, 1] * py + planes[t, 1, 2]) * depth
            v = (planes[t, 2, 0] * px + planes[t, 2, 1] * py + planes[t, 2, 2]) * depth
            q = owners[t]
            up, kind = normals[q, 1], int(attributes[q, 3])
            paint = (attributes[q, 0], attributes[q, 1], attributes[q, 2])
            red, green, blue, own, mirror = _surface(
                kind,
                int(attributes[q, 6]),
                paint,
                attributes[q, 4],
                attributes[q, 5],
                u,
                v,
                x,
                y,
                z,
                depth,
                up,
                air,
                street,
            )
            lit = max(0.0, normals[q, 0] * to_sun[0] + up * to_sun[1] + normals[q, 2] * to_sun[2])
            if lit > 0.0 and _behind_house(x, y, z, to_sun, street, roofs):
                lit = 0.0
            shelter = 1.0
            if m.ROAD <= kind <= m.GRASS:
                lit *= 1.0 - shadow[py, px]
                shelter = _shelter(contact[py, px], contact_planes, px, py, depth)
            open_sky = (
                (0.62 + 0.38 * up) * shelter * (0.75 + 0.25 * min(1.0, max(0.0, y) / 1.2 + 0.35))
            )
            lamp = _night_light(y, z, depth, dx, darkness, shelter) if darkness > 0.0 else 0.0
            clear = math.exp(-fog * depth)
            for j in range(3):
                colour, warm = (red, green, blue)[j], (1.0, 0.86, 0.62)[j]
                value = colour * (sun[j] * lit + ambient[j] * open_sky + (lamp + 0.7 * own) * warm)
                value += own * colour if kind == m.LAMP else 0.5 * own * warm
                value += mirror * (0.5 * horizon[j] + 0.5 * zenith[j] - value)
                image[py, px, j] = horizon[j] + clear * (value - horizon[j])
