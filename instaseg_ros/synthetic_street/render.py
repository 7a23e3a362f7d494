"""Renders a scene at a time through a camera: picture, labels, depth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from instaseg_ros.numba_cache import cached_njit
from instaseg_ros.synthetic_street.camera import Camera, develop
from instaseg_ros.synthetic_street.geometry import U_SCALE, VARIANT, Builder, Mesh
from instaseg_ros.synthetic_street.rasterizer import rasterize
from instaseg_ros.synthetic_street.scene import DRAWN_M, Scene
from instaseg_ros.synthetic_street.shading import Eye, Light, Seen, Shade, shade
from instaseg_ros.synthetic_street.surfaces import patterned
from instaseg_ros.synthetic_street.traffic import SEEN_M
from instaseg_ros.synthetic_street.weather import Weather

MIN_PIXELS = 12  # objects with fewer visible pixels get no label


@dataclass(frozen=True, slots=True)
class View:
    """image (H, W, 3) uint8; labels (H, W) uint16; ignore (H, W) bool; inverse_depth (H, W) float32
    1/m, 0 = sky."""

    image: np.ndarray
    labels: np.ndarray
    ignore: np.ndarray
    inverse_depth: np.ndarray

    @property
    def depth(self) -> np.ndarray:
        """(H, W) float32 metres along the optical axis; 0 = sky."""
        depth = np.zeros_like(self.inverse_depth)
        return np.divide(1, self.inverse_depth, out=depth, where=self.inverse_depth > 0)


def _contact_patch(length: float, width: float) -> Mesh:
    b = Builder()
    x, z = width / 2 + 0.25, length / 2 + 0.25
    b.quad((-x, 0, -z), (x, 0, -z), (x, 0, z), (-x, 0, z), (0.0, 0.0, 0.0))
    return b.build()


def _gather(
    scene: Scene, time_s: float, pose: np.ndarray
) -> tuple[list[Mesh], list[int], list[int], list[Mesh]]:
    """The meshes in the street, the label of each (-1: too far away for one), a number of each that
    lasts, and the patches of contact shadow."""
    here, forward = pose[[0, 2], 3], pose[[0, 2], 2]
    meshes, labels, numbers = [scene.ground, scene.houses], [0, 0], [0, 0]
    patches: list[Mesh] = []
    for number, (mesh, x, z, yaw) in enumerate(scene.props, 1):
        ahead = (x - here[0]) * forward[0] + (z - here[1]) * forward[1]
        if -3 < ahead < DRAWN_M:
            meshes.append(mesh.placed(x, 0, z, yaw))
            labels.append(0)
            numbers.append(number)
    for index, thing in enumerate(scene.things):
        x, z = thing.position(time_s)
        ahead = (x - here[0]) * forward[0] + (z - here[1]) * forward[1]
        aside = abs((x - here[0]) * forward[1] - (z - here[1]) * forward[0])
        if not -thing.length < ahead < DRAWN_M or aside > 1.1 * max(ahead, 0) + 8:
            continue
        sideways = abs((x - here[0]) * math.cos(thing.yaw) - (z - here[1]) * math.sin(thing.yaw))
        lengthways = abs((x - here[0]) * math.sin(thing.yaw) + (z - here[1]) * math.cos(thing.yaw))
        if sideways < thing.width / 2 + 0.5 and lengthways < thing.length / 2 + 0.8:
            continue  # the camera would stand in it
        meshes.append(thing.mesh(time_s, ahead).placed(x, thing.base, z, thing.yaw))
        labels.append(index + 1 if ahead < SEEN_M else -1)
        numbers.append(len(scene.props) + index + 1)
        patches.append(
            _contact_patch(thing.length, thing.width).placed(
                x, thing.base + 0.004 * len(patches) % 0.03, z, thing.yaw
            )
        )
    return meshes, labels, numbers, patches


def _world(meshes: list[Mesh]) -> tuple[np.ndarray, np.ndarray]:
    vertices = np.concatenate([mesh.vertices for mesh in meshes])
    vertices[:, :, 1] *= -1
    return vertices, np.concatenate([mesh.attributes for mesh in meshes])


def _shadow(
    to_sun: np.ndarray, vertices: np.ndarray, eye: Eye, shape: tuple[int, int]
) -> np.ndarray:
    """(H, W) float32 in [0, 1]: shadows on the ground, from things projected along the sun's
    rays."""
    flat = vertices.copy()
    height = -flat[:, :, 1]
    flat[:, :, 0] -= height * np.float32(to_sun[0] / to_sun[1])
    flat[:, :, 2] -= height * np.float32(to_sun[2] / to_sun[1])
    flat[:, :, 1] = -0.06
    surface = np.full(shape, -1, np.int32)
    rasterize(
        flat, np.zeros((len(flat), 2), np.float32), *eye, np.zeros(shape, np.float32), surface
    )
    return (surface >= 0).astype(np.float32)


def _contact(
    patches: list[Mesh], eye: Eye, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The patch of contact shadow that covers each ground pixel (-1: none), and the planes of the
    patches' uv."""
    contact = np.full(shape, -1, np.int32)
    if not patches:
        return contact, np.zeros((0, 3, 3))
    flat, _ = _world(patches)
    planes, _ = rasterize(
        flat, np.ones((len(flat), 2), np.float32), *eye, np.zeros(shape, np.float32), contact
    )
    return contact, planes


def _light(weather: Weather, time_s: float) -> Light:
    return Light(
        weather.to_sun,
        weather.sun,
        weather.ambient,
        weather.horizon,
        weather.zenith,
        weather.fog,
        weather.clouds,
        weather.darkness,
        weather.wetness,
        2.0 * time_s,
    )


def render(scene: Scene, time_s: float, camera: Camera, grain_seed: int = 0) -> View:
    """Draw the scene; the cost grows with the pixels of `camera`, which may be a window of a larger
    view."""
    pose = scene.pose(time_s)
    eye = Eye(
        np.ascontiguousarray(pose[:3, :3].T),
        np.ascontiguousarray(pose[:3, 3]),
        np.array([camera.fx, camera.fy, camera.cx, camera.cy]),
    )
    shape = (camera.height, camera.width)
    meshes, mesh_labels, numbers, patches = _gather(scene, time_s, pose)
    vertices, attributes = _world(meshes)
    scales = np.ascontiguousarray(attributes[:, U_SCALE:VARIANT])
    inverse_depth, surface = np.zeros(shape, np.float32), np.full(shape, -1, np.int32)
    planes, owners = rasterize(vertices, scales, *eye, inverse_depth, surface)

    shadow = np.zeros(shape, np.float32)
    if scene.weather.sun.max() > 0.2:
        movable = len(scene.ground.vertices) + len(scene.houses.vertices)
        shadow = _shadow(scene.weather.to_sun, vertices[movable:], eye, shape)
    linear = np.empty((*shape, 3), np.float32)
    seen = Seen(inverse_depth, surface, planes, owners, vertices, attributes)
    occlusion = Shade(shadow, *_contact(patches, eye, shape), scene.roofs)
    light = _light(scene.weather, time_s)
    shade(seen, occlusion, light, eye, scene.street, linear)
    if scene.surfaces is not None:
        of_quad = np.repeat(numbers, [len(mesh.vertices) for mesh in meshes])
        patterned(linear, seen, of_quad, scene.surfaces, light, eye)
    image = develop(
        linear, scene.weather, time_s, np.random.default_rng((grain_seed, int(time_s * 1000)))
    )
    labels, ignore = _labels(surface, owners, meshes, mesh_labels)
    return View(image, labels, ignore, inverse_depth)


@cached_njit()
def _label_pixels(
    surface: np.ndarray, by_triangle: np.ndarray, labels: np.ndarray, ignore: np.ndarray
) -> None:
    """Write labels, and ignore pixels of objects that are too far (-1) or too little visible."""
    height, width = surface.shape
    counts = np.zeros(max(0, by_triangle.max()) + 1, np.int64)
    for y in range(height):
        for x in range(width):
            label = by_triangle[surface[y, x]] if surface[y, x] >= 0 else 0
            ignore[y, x] = label < 0
            labels[y, x] = max(0, label)
            counts[labels[y, x]] += 1
    if counts[counts > 0].min() >= MIN_PIXELS:
        return
    for y in range(height):
        for x in range(width):
            if labels[y, x] > 0 and counts[labels[y, x]] < MIN_PIXELS:
                labels[y, x] = 0
                ignore[y, x] = True


def _labels(
    surface: np.ndarray, owners: np.ndarray, meshes: list[Mesh], mesh_labels: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    by_quad = np.repeat(np.array(mesh_labels, np.int32), [len(mesh.vertices) for mesh in meshes])
    labels, ignore = np.empty(surface.shape, np.uint16), np.empty(surface.shape, np.bool_)
    _label_pixels(surface, by_quad[owners], labels, ignore)
    return labels, ignore
