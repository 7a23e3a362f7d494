"""What colour each seen point has: materials, light, shadow, sky and fog, in one pass over the pixels."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numba import njit

from . import materials as m

# Layout of the `street` vector that the kernel gets.
(HALF_WIDTH, LANES, LANE_WIDTH, WALL_X, DASH, MARK_WEAR, CROSSING_0, CROSSING_1, TILE) = range(9)
BUILDING_CELL_M = 4.0


def _noise_tile(size: int = 256) -> np.ndarray:
    """(size, size) float32 in about [-1, 1]: fractal value noise that tiles."""
    rng = np.random.default_rng(7)
    total = np.zeros((size, size), np.float32)
    for octave, weight in ((8, 0.5), (16, 0.4), (32, 0.35), (64, 0.3), (128, 0.3), (256, 0.35)):
        values = rng.standard_normal((octave, octave)).astype(np.float32)
        values = np.tile(values, (3, 3))
        big = cv2.resize(values, (3 * size, 3 * size), interpolation=cv2.INTER_CUBIC)
        total += weight * big[size:2 * size, size:2 * size]
    return np.ascontiguousarray(np.clip(total / (2.5 * total.std()), -1, 1))


NOISE = _noise_tile()


@njit(cache=True, fastmath=True)
def _hash(a: int, b: int, c: int) -> float:
    """[0, 1), the same for the same three integers."""
    n = (a * 374761393 + b * 668265263 + c * 2147483647) & 0xFFFFFFFF
    n = ((n ^ (n >> 13)) * 1274126177) & 0xFFFFFFFF
    return ((n ^ (n >> 16)) & 0xFFFF) / 65536.0


@njit(cache=True, fastmath=True)
def _noise(noise: np.ndarray, u: float, v: float) -> float:
    return noise[int(math.floor(v)) & 255, int(math.floor(u)) & 255]


@njit(cache=True, fastmath=True)
def _road(x: float, z: float, street: np.ndarray, noise: np.ndarray, far: float) -> tuple[float, float, float]:
    """Colour of asphalt with lane lines, edge lines and zebra crossings."""
    grain = _noise(noise, x * 23, z * 23) / (1 + 0.06 * far) * 0.05 + _bilinear(noise, x * 2.2, z * 0.7) * 0.035
    grey = 0.25 + grain
    wear = street[MARK_WEAR] + 0.25 * _noise(noise, x * 9, z * 9)
    lane = street[LANE_WIDTH]
    mark = 0.0
    across = abs(x)
    k = int(across / lane + 0.5)
    if abs(across - k * lane) < 0.07 and k < street[LANES]:
        if (z / street[DASH]) % 2.0 < 1.0 or (k == 0 and street[LANES] > 1.5):
            mark = 1.0
    if abs(across - street[LANES] * lane - 0.05) < 0.06:
        mark = 0.8
    for j in (CROSSING_0, CROSSING_1):
        if abs(z - street[j]) < 1.7:
            mark = 1.0 if (x / 0.5) % 2.0 < 1.0 and across < street[HALF_WIDTH] - 0.2 else 0.0
    mark *= min(1.0, max(0.0, wear))
    return grey + mark * 0.5, grey + mark * 0.5, grey * 1.02 + mark * 0.46


@njit(cache=True, fastmath=True)
def _facade(u: float, v: float, variant: int, red: float, green: float, blue: float, sky: float,
            darkness: float, noise: np.ndarray) -> tuple[float, float, float, float]:
    """Colour and own light of a house front at u, v metres; `variant` picks the pattern."""
    pitch = 1.8 + 1.6 * _hash(variant, 1, 0)
    storey = 2.9 + 0.6 * _hash(variant, 2, 0)
    column, row = int(math.floor(u / pitch)), int(math.floor(v / storey))
    pu, pv = u / pitch - column, v / storey - row
    grime = 1.0 + 0.1 * _noise(noise, u * 7, v * 7) + 0.06 * _noise(noise, u, v)
    red, green, blue = red * grime, green * grime, blue * grime
    wide = 0.22 + 0.2 * _hash(variant, 3, 0)
    glass = 0.0
    if row == 0 and _hash(variant, 4, 0) < 0.6:  # shops
        if 0.84 < pv:
            return 0.3 + 0.5 * _hash(variant, 5, 0), 0.25 + 0.4 * _hash(variant, 6, 0), 0.25 + 0.4 * _hash(
                variant, 7, 0), 0.0
        if 0.08 < pv and abs(pu - 0.5) < 0.44:
            glass = 1.0
        red, green, blue = red * 0.7, green * 0.7, blue * 0.7
    elif row == 0 and column % 3 == 1:  # a door
        if pv < 0.72 and abs(pu - 0.5) < 0.25:
            return 0.22 + 0.2 * _hash(variant, column, 8), 0.16, 0.12, 0.0
    elif abs(pu - 0.5) < wide and 0.25 < pv < 0.8:
        glass = 1.0
        if abs(pu - 0.5) < 0.025 or pv > 0.77:
            return 0.75, 0.74, 0.7, 0.0
    elif 0.2 < pv < 0.25 and abs(pu - 0.5) < wide + 0.05:
        return red * 0.75, green * 0.75, blue * 0.75, 0.0
    if pv > 0.97 and row % 2 == 0:
        red, green, blue = red * 0.85, green * 0.85, blue * 0.85
    if glass > 0.0:
        lit = 1.0 if _hash(variant + column * 13, row, 9) < 0.4 * darkness else 0.0
        tone = (0.1 + 0.14 * _hash(variant, column, row)) + 0.12 * sky
        return tone, tone * 1.05, tone * 1.15, lit * 0.9
    return red, green, blue, 0.0


@njit(cache=True, fastmath=True)
def _sky(dx: float, dy: float, dz: float, horizon: np.ndarray, zenith: np.ndarray, clouds: float,
         noise: np.ndarray, drift: float, out: np.ndarray) -> None:
    up = max(0.0, dy)
    share = 1.0 - math.exp(-3.2 * up)
    scale = 34.0 / (up + 0.12)
    puff = _bilinear(noise, dx * scale + drift, dz * scale)
    puff = min(1.0, max(0.0, (puff + clouds - 0.35) * 1.6)) * min(1.0, up * 9.0) * 0.8
    for j in range(3):
        base = horizon[j] + (zenith[j] - horizon[j]) * share
        out[j] = base + (min(1.0, horizon[j] * 1.12) - base) * puff


@njit(cache=True, fastmath=True)
def _bilinear(noise: np.ndarray, u: float, v: float) -> float:
    u0, v0 = math.floor(u), math.floor(v)
    i, j, fu, fv = int(v0), int(u0), u - u0, v - v0
    top = noise[i & 255, j & 255] * (1 - fu) + noise[i & 255, (j + 1) & 255] * fu
    low = noise[(i + 1) & 255, j & 255] * (1 - fu) + noise[(i + 1) & 255, (j + 1) & 255] * fu
    return top * (1 - fv) + low * fv


@njit(cache=True, fastmath=True)
def shade(inverse_depth, surface, planes, owners, vertices, attributes, shadow, contact, contact_planes,  # type: ignore[no-untyped-def]
          rotation, origin, intrinsics, street, roofs, to_sun, light, scalars, noise, image):
    """Fill `image` (H, W, 3) float32 with linear colour.

    roofs (2, N): height of the houses left and right per BUILDING_CELL_M of the street, from z = 0.
    light (4, 3): sun, ambient, horizon, zenith; scalars: fog, clouds, darkness, wetness, drift of the clouds.
    shadow (H, W) float32: share of the sun kept from the ground; contact (H, W) int32: index into contact_planes.
    """
    height, width = surface.shape
    fx, fy, cx, cy = intrinsics
    fog, clouds, darkness, wetness, drift = scalars
    sun, ambient, horizon, zenith = light[0], light[1], light[2], light[3]
    normals = np.empty((len(vertices), 3))
    for q in range(len(vertices)):
        # diagonals, so that a quad with two equal corners has a normal as well
        a0, a1, a2 = (vertices[q, 2, 0] - vertices[q, 0, 0], vertices[q, 2, 1] - vertices[q, 0, 1],
                      vertices[q, 2, 2] - vertices[q, 0, 2])
        b0, b1, b2 = (vertices[q, 3, 0] - vertices[q, 1, 0], vertices[q, 3, 1] - vertices[q, 1, 1],
                      vertices[q, 3, 2] - vertices[q, 1, 2])
        n0, n1, n2 = a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0
        size = math.sqrt(n0 * n0 + n1 * n1 + n2 * n2) + 1e-12
        to_camera = 0.0
        for j in range(3):
            to_camera += (n0, n1, n2)[j] * (origin[j] - vertices[q, 0, j])
        if to_camera < 0:
            size = -size
        normals[q, 0], normals[q, 1], normals[q, 2] = n0 / size, -n1 / size, n2 / size  # y up from here
    colour = np.empty(3)
    for py in range(height):
        for px in range(width):
            rx, ry = (px - cx) / fx, (py - cy) / fy
            dx = rotation[0, 0] * rx + rotation[1, 0] * ry + rotation[2, 0]
            dy = rotation[0, 1] * rx + rotation[1, 1] * ry + rotation[2, 1]
            dz = rotation[0, 2] * rx + rotation[1, 2] * ry + rotation[2, 2]
            triangle = surface[py, px]
            if triangle < 0:
                size = math.sqrt(dx * dx + dy * dy + dz * dz)
                _sky(dx / size, -dy / size, dz / size, horizon, zenith, clouds, noise, drift, image[py, px])
                continue
            depth = 1.0 / inverse_depth[py, px]
            x, y, z = origin[0] + dx * depth, -(origin[1] + dy * depth), origin[2] + dz * depth
            q = owners[triangle]
            plane = planes[triangle]
            u = (plane[1, 0] * px + plane[1, 1] * py + plane[1, 2]) * depth
            v = (plane[2, 0] * px + plane[2, 1] * py + plane[2, 2]) * depth
            red, green, blue = attributes[q, 0], attributes[q, 1], attributes[q, 2]
            kind, variant = int(attributes[q, 3]), int(attributes[q, 6])
            nx, ny, nz = normals[q, 0], normals[q, 1], normals[q, 2]
            own, mirror = 0.0, 0.0
            if kind == m.ROAD:
                red, green, blue = _road(x, z, street, noise, depth)
                red, green, blue = red * (1 - 0.35 * wetness), green * (1 - 0.35 * wetness), blue * (1 - 0.3 * wetness)
                mirror = wetness * (0.12 + 0.3 * max(0.0, _bilinear(noise, x * 1.5, z * 1.5))) * min(1.0, depth / 12)
            elif kind == m.PAVEMENT:
                tile = street[TILE]
                joint = 0.88 if (x / tile) % 1.0 < 0.06 or (z / tile) % 1.0 < 0.06 else 1.0
                joint += (0.1 * _noise(noise, x * 17, z * 17) + 0.1 * _hash(int(x / tile + 500), int(z / tile), 3)
                          ) / (1 + 0.04 * depth)
                red, green, blue = red * joint, green * joint, blue * joint
            elif kind == m.GRASS or kind == m.LEAF:
                grain = 1.0 + 0.5 * _noise(noise, (x + z) * 15, (y + z) * 15 + x * 9) / (1 + 0.02 * depth)
                red, green, blue = red * grain, green * grain, blue * grain
            elif kind == m.FACADE:
                red, green, blue, own = _facade(u, v, variant, red, green, blue, zenith[2], darkness, noise)
            elif kind == m.GLASS:
                mirror = 0.25 + 0.25 * v
            elif kind == m.CABIN:
                su, sv = attributes[q, 4], attributes[q, 5]
                edge = 0.09
                if u > edge and u < su - edge and v > 0.05 and v < sv - 0.07 and not (
                        variant == 1 and abs(u - 0.5 * su) < 0.06):
                    red, green, blue = 0.05, 0.055, 0.065
                    mirror = 0.12 + 0.3 * v / sv
                else:
                    mirror = 0.08
            elif kind == m.BAND:
                pane = 1.3
                if (u / pane) % 1.0 > 0.07 and v > 0.04 and v < attributes[q, 5] - 0.04:
                    red, green, blue = 0.06, 0.065, 0.08
                    mirror = 0.15 + 0.25 * v
                    own = 0.35 * darkness
            elif kind == m.PAINT:
                mirror = 0.1 * (1 - abs(ny)) + 0.12 * max(0.0, ny)
            elif kind == m.LAMP:
                own = 0.25 + 1.2 * darkness
            elif kind == m.SIGN:
                if _hash(int(u * 5), int(v * 5), variant) < 0.35:
                    red, green, blue = 1 - red, 1 - green, 1 - blue
            elif kind == m.CLOTH:
                fold = 1.0 + 0.22 * _noise(noise, x * 60 + variant, y * 45)
                red, green, blue = red * fold, green * fold, blue * fold
            # light from the sun, unless a house or an object stands in the way
            facing = nx * to_sun[0] + ny * to_sun[1] + nz * to_sun[2]
            lit = max(0.0, facing)
            if lit > 0.0 and abs(to_sun[0]) > 1e-3:
                side = 1 if to_sun[0] > 0 else 0
                wall = street[WALL_X] if side == 1 else -street[WALL_X]
                way = (wall - x) / to_sun[0]
                if way > 0.05:
                    cell = int((z + way * to_sun[2]) / BUILDING_CELL_M)
                    if 0 <= cell < roofs.shape[1] and y + way * to_sun[1] < roofs[side, cell]:
                        lit = 0.0
            shelter = 1.0
            if kind >= m.ROAD and kind <= m.GRASS:
                lit *= 1.0 - shadow[py, px]
                mark = contact[py, px]
                if mark >= 0:
                    cp = contact_planes[mark]
                    cu = (cp[1, 0] * px + cp[1, 1] * py + cp[1, 2]) * depth * 2 - 1
                    cv = (cp[2, 0] * px + cp[2, 1] * py + cp[2, 2]) * depth * 2 - 1
                    shelter = 1.0 - 0.75 * min(1.0, 1.6 * max(0.0, 1 - cu * cu) * max(0.0, 1 - cv * cv))
            open_sky = (0.62 + 0.38 * ny) * shelter * (0.75 + 0.25 * min(1.0, max(0.0, y) / 1.2 + 0.35))
            lamp = 0.0
            if darkness > 0.0:  # street lamps every 24 m, and our own headlights
                along = (z % 24.0) / 24.0 - 0.5
                lamp = darkness * (0.55 * math.exp(-18 * along * along) * math.exp(-max(0.0, y) / 5)
                                   + 1.1 * math.exp(-depth / 14) * math.exp(-0.8 * (dx * dx)) * shelter)
            colour[0], colour[1], colour[2] = red, green, blue
            for j in range(3):
                warm = (1.0, 0.86, 0.62)[j]
                value = colour[j] * (sun[j] * lit + ambient[j] * open_sky + lamp * warm + own * 0.7 * warm
                                     + (own if kind == m.LAMP else 0.0))
                if kind != m.LAMP and own > 0:
                    value += 0.5 * own * warm
                value += mirror * (0.5 * horizon[j] + 0.5 * zenith[j] - value)
                haze = 1.0 - math.exp(-fog * depth)
                image[py, px, j] = value + haze * (horizon[j] - value)
