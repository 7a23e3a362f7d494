"""Composes a scene: one street, everything on it, and the camera that drives along it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from instaseg_ros.synthetic_street import scenery
from instaseg_ros.synthetic_street.clutter import clutter
from instaseg_ros.synthetic_street.geometry import Mesh
from instaseg_ros.synthetic_street.patterns import Street
from instaseg_ros.synthetic_street.traffic import Thing, traffic
from instaseg_ros.synthetic_street.weather import Weather, random_weather

DRAWN_M = 85.0


@dataclass
class Scene:
    """Everything a picture needs. The label of things[i] is i + 1 in every frame."""

    layout: scenery.Layout
    weather: Weather
    things: list[Thing]
    ground: Mesh
    houses: Mesh
    roofs: np.ndarray
    props: list[tuple[Mesh, float, float, float]]  # mesh, x, z, yaw
    street: Street
    ego: dict[str, float]
    surfaces: int | None = None  # seed of the patterns on everything; None: none

    def pose(self, time_s: float) -> np.ndarray:
        """(4, 4) float64 camera to world; both x right, y down, z forward; the road is y = 0."""
        e = self.ego
        yaw = (
            e["yaw"]
            + 0.012 * math.sin(0.9 * time_s + e["phase"])
            + e["turn"] * math.sin(0.35 * time_s)
        )
        pitch = e["pitch"] + 0.006 * math.sin(5.1 * time_s + e["phase"])
        cy, sy, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
        pose = np.eye(4)
        pose[:3, :3] = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]]) @ np.array(
            [[1, 0, 0], [0, cp, -sp], [0, sp, cp]]
        )
        pose[:3, 3] = (
            e["x"] + 0.15 * math.sin(0.5 * time_s + e["phase"]),
            -e["height"] + 0.015 * math.sin(5.1 * time_s),
            e["speed"] * time_s,
        )
        return pose


def _props(
    rng: np.random.Generator, layout: scenery.Layout
) -> list[tuple[Mesh, float, float, float]]:
    props: list[tuple[Mesh, float, float, float]] = []
    trees = rng.random() < 0.65
    for side in (-1, 1):
        kerb = side * (layout.half_width + 0.6)
        for k in range(math.floor(layout.start / 24), math.ceil(layout.end / 24)):
            props.append((scenery.lamp_post(side), kerb, (k + 0.5) * 24, 0.0))
        z = rng.uniform(2, 12)
        while trees and z < layout.end:
            props.append((scenery.tree(int(rng.integers(64))), kerb + side * 0.3, z, 0.0))
            z += rng.uniform(9, 20)
        for make, gap in ((scenery.traffic_light, 70), (scenery.sign, 28), (scenery.furniture, 25)):
            z = rng.uniform(5, gap)
            while z < layout.end:
                x = kerb if make is not scenery.furniture else side * (layout.wall_x - 0.6)
                props.append((make(int(rng.integers(64))), x, z, rng.normal(0, 0.15)))
                z += rng.uniform(0.5, 1.5) * gap
    return props


def make_scene(seed: tuple[int, ...], duration_s: float = 0.0, variation: bool = False) -> Scene:
    """The scene of a seed; the camera starts at z = 0 and drives `duration_s`.

    variation: patterns on all surfaces, rounder cars, clutter, crowds, groves instead of houses.
    """
    rng = np.random.default_rng(seed)
    ego = {
        "speed": float(rng.uniform(3, 10)),
        "yaw": float(rng.normal(0, 0.06)),
        "pitch": float(rng.normal(0, 0.015)),
        "height": float(rng.uniform(1.35, 1.9)),
        "phase": float(rng.uniform(0, 6.28)),
        "turn": float(rng.normal(0, 0.03)),
    }
    travel = ego["speed"] * duration_s
    layout = scenery.random_layout(rng, -12.0, travel + DRAWN_M)
    ego["x"] = (int(rng.integers(layout.lanes)) + 0.5) * layout.lane_width + float(
        rng.normal(0, 0.25)
    )
    weather = random_weather(rng)
    if variation:
        weather = replace(
            weather,
            noise=weather.noise * rng.uniform(0, 1),
            fog=weather.fog * rng.uniform(0.2, 2),
            wetness=weather.wetness if rng.random() < 0.7 else rng.random(),
            ambient=weather.ambient * np.exp(rng.normal(0, 0.15, 3)),
            zenith=weather.zenith + (weather.horizon - weather.zenith) * rng.random(),
        )
        ego["height"] *= rng.uniform(0.75, 1.3)
        ego["pitch"] += rng.normal(0, 0.02)
    things = traffic(rng, layout, ego, duration_s, variation)
    houses, roofs = scenery.houses(layout, rng, 0.95 if variation else 0.3)
    crossings = [
        float(rng.uniform(6, travel + 60)) if rng.random() < 0.5 else -1e6 for _ in range(2)
    ]
    street = Street(
        layout.half_width,
        float(layout.lanes),
        layout.lane_width,
        layout.wall_x,
        rng.uniform(2.5, 4.0),
        rng.uniform(0.7, 1.3),
        crossings[0],
        crossings[1],
        rng.uniform(0.4, 1.2),
        layout.start,
    )
    ground, props = scenery.ground(layout, rng), _props(rng, layout)
    surfaces = None
    if variation:
        props, surfaces = props + clutter(rng, layout), int(rng.integers(1 << 20))
    return Scene(layout, weather, things, ground, houses, roofs, props, street, ego, surfaces)
