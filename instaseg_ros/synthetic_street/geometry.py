"""Builds meshes of quads, the renderer's only primitive, also from boxes and limbs.

Local and street coordinates of the builders are metres, x right, y *up*, z forward; the renderer
turns y down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from instaseg_ros.numba_cache import cached_njit
from instaseg_ros.synthetic_street.materials import PLAIN

Point = tuple[float, float, float]
Colour = tuple[float, float, float]

# Columns of Mesh.attributes.
RED, GREEN, BLUE, MATERIAL, U_SCALE, V_SCALE, VARIANT = range(7)


@dataclass(frozen=True, slots=True)
class Mesh:
    """vertices (Q, 4, 3) float32 metres; attributes (Q, 7) float32: colour, material, uv scale,
    variant."""

    vertices: np.ndarray
    attributes: np.ndarray

    def placed(self, x: float, y: float, z: float, yaw: float) -> Mesh:
        """The mesh rotated about the vertical axis (yaw 0 faces along z, positive turns right) and
        moved."""
        return Mesh(_place(self.vertices, math.cos(yaw), math.sin(yaw), x, y, z), self.attributes)


@cached_njit()
def _place(vertices: np.ndarray, c: float, s: float, x: float, y: float, z: float) -> np.ndarray:
    placed = np.empty_like(vertices)
    for q in range(len(vertices)):
        for k in range(4):
            placed[q, k, 0] = c * vertices[q, k, 0] + s * vertices[q, k, 2] + x
            placed[q, k, 1] = vertices[q, k, 1] + y
            placed[q, k, 2] = c * vertices[q, k, 2] - s * vertices[q, k, 0] + z
    return placed


class Builder:
    """Collects quads and limbs, and makes one Mesh of them."""

    def __init__(self) -> None:
        self._vertices: list[tuple[Point, Point, Point, Point]] = []
        self._attributes: list[tuple[float, ...]] = []
        self._limbs: list[tuple[float, ...]] = []

    def quad(
        self,
        a: Point,
        b: Point,
        c: Point,
        d: Point,
        colour: Colour,
        material: int = PLAIN,
        scale: tuple[float, float] = (1.0, 1.0),
        variant: float = 0.0,
    ) -> None:
        """Add a quad with corners in order; uv runs (0, 0), (u, 0), (u, v), (0, v) from a to d."""
        self._vertices.append((a, b, c, d))
        self._attributes.append((*colour, material, *scale, variant))

    def frustum(
        self,
        low: tuple[float, float, float, float, float],
        high: tuple[float, float, float, float, float],
        colour: Colour,
        materials: tuple[int, int, int, int] = (PLAIN, PLAIN, PLAIN, PLAIN),
        variant: float = 0.0,
    ) -> None:
        """Add a box between two level rectangles (y, x0, x1, z0, z1); materials: sides, front (z1),
        back (z0), top."""
        y, x0, x1, z0, z1 = low
        yh, xh0, xh1, zh0, zh1 = high
        side, front, back, top = materials
        faces = (  # lower edge from p to q, (x, z); the same edge above; material
            ((x0, z0), (x0, z1), (xh0, zh0), (xh0, zh1), side),
            ((x1, z0), (x1, z1), (xh1, zh0), (xh1, zh1), side),
            ((x0, z1), (x1, z1), (xh0, zh1), (xh1, zh1), front),
            ((x0, z0), (x1, z0), (xh0, zh0), (xh1, zh0), back),
        )
        for (px, pz), (qx, qz), (pxh, pzh), (qxh, qzh), material in faces:
            corners = (px, y, pz), (qx, y, qz), (qxh, yh, qzh), (pxh, yh, pzh)
            self.quad(*corners, colour, material, (qx - px + qz - pz, yh - y), variant)
        lid = (xh0, yh, zh0), (xh1, yh, zh0), (xh1, yh, zh1), (xh0, yh, zh1)
        self.quad(*lid, colour, top, (x1 - x0, z1 - z0), variant)

    def box(
        self,
        x0: float,
        x1: float,
        y0: float,
        y1: float,
        z0: float,
        z1: float,
        colour: Colour,
        material: int = PLAIN,
        variant: float = 0.0,
    ) -> None:
        self.frustum((y0, x0, x1, z0, z1), (y1, x0, x1, z0, z1), colour, (material,) * 4, variant)

    def limb(
        self,
        p: Point,
        q: Point,
        radius_p: float,
        radius_q: float,
        colour: Colour,
        material: int = PLAIN,
    ) -> None:
        """Add a round, tapered stick from p to q, closed at both ends."""
        self._limbs.append((*p, *q, radius_p, radius_q, *colour, material))

    def build(self, sides: int = 6) -> Mesh:
        vertices = np.array(self._vertices, np.float32).reshape(-1, 4, 3)
        attributes = np.array(self._attributes, np.float32).reshape(-1, 7)
        if not self._limbs:
            return Mesh(vertices, attributes)
        limb_vertices, limb_attributes = _expand_limbs(np.array(self._limbs, np.float64), sides)
        return Mesh(
            np.concatenate([vertices, limb_vertices]), np.concatenate([attributes, limb_attributes])
        )


@cached_njit()
def _expand_limbs(limbs: np.ndarray, sides: int) -> tuple[np.ndarray, np.ndarray]:
    """Expand rows (p, q, radius at p, radius at q, colour, material) to `sides` quads each, with a
    lid at both ends."""
    per_limb = sides + 2 * (sides // 2 - 1)
    vertices = np.empty((len(limbs) * per_limb, 4, 3), np.float32)
    attributes = np.zeros((len(limbs) * per_limb, 7), np.float32)
    ring = np.empty((2, sides, 3))
    out = 0
    for i in range(len(limbs)):
        axis = limbs[i, 3:6] - limbs[i, :3]
        axis = axis / max(1e-9, math.sqrt((axis * axis).sum()))
        helper = np.array([1.0, 0.0, 0.0]) if abs(axis[0]) < 0.8 else np.array([0.0, 0.0, 1.0])
        first = np.cross(axis, helper)
        first = first / math.sqrt((first * first).sum())
        second = np.cross(axis, first)
        for k in range(sides):
            angle = 2.0 * math.pi * k / sides
            direction = math.cos(angle) * first + math.sin(angle) * second
            ring[0, k] = limbs[i, :3] + limbs[i, 6] * direction
            ring[1, k] = limbs[i, 3:6] + limbs[i, 7] * direction
        start = out
        for k in range(sides):
            n = (k + 1) % sides
            vertices[out, 0] = ring[0, k]
            vertices[out, 1] = ring[0, n]
            vertices[out, 2] = ring[1, n]
            vertices[out, 3] = ring[1, k]
            out += 1
        for end in range(2):
            for k in range(sides // 2 - 1):
                vertices[out, 0] = ring[end, 0]
                vertices[out, 1] = ring[end, 2 * k + 1]
                vertices[out, 2] = ring[end, 2 * k + 2]
                vertices[out, 3] = ring[end, (2 * k + 3) % sides]
                out += 1
        for k in range(start, out):
            attributes[k, :4] = limbs[i, 8:12]
            attributes[k, 4:6] = 1.0
    return vertices, attributes
