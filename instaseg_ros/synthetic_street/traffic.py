"""Places traffic, parked vehicles and people on the street, each with a straight path."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from instaseg_ros.synthetic_street import people, rounded_cars, scenery, vehicles
from instaseg_ros.synthetic_street.geometry import Mesh

CLASS_NAMES = ("person", "rider", "car", "truck", "bus")
PERSON, RIDER, CAR, TRUCK, BUS = range(5)
SEEN_M = 60.0  # objects farther than this get no label
_VEHICLES = {CAR: vehicles.car, TRUCK: vehicles.truck, BUS: vehicles.bus}


_VARIANTS = 512


@lru_cache(maxsize=3 * _VARIANTS)
def _varied_vehicle(class_id: int, variant: int) -> tuple[Mesh, float, float]:
    """One of many vehicles (mesh, length, width), kept as building one takes milliseconds."""
    rng = np.random.default_rng((variant, class_id))
    rounded = class_id == CAR and variant % 5
    return rounded_cars.rounded_car(rng) if rounded else _VEHICLES[class_id](rng)


@dataclass(frozen=True, slots=True)
class Thing:
    """One labelled object: a mesh for each time in seconds, and its straight path.

    x, z: metres at time 0; speed in m/s along `yaw` (0 = along z, pi/2 = to the right).
    """

    class_id: int
    mesh: Callable[[float, float], Mesh]  # (time_s, distance) -> local mesh
    x: float
    z: float
    yaw: float
    speed: float
    length: float
    width: float
    base: float = 0.0

    def position(self, time_s: float) -> tuple[float, float]:
        way = self.speed * time_s
        return self.x + math.sin(self.yaw) * way, self.z + math.cos(self.yaw) * way


class _Crowd:
    """Fills a street with things, and keeps them from standing in each other."""

    def __init__(
        self,
        rng: np.random.Generator,
        layout: scenery.Layout,
        ego: dict[str, float],
        duration_s: float,
        varied: bool,
    ):
        self.varied = varied
        self.rng, self.layout, self.ego, self.duration_s = rng, layout, ego, duration_s
        self.things: list[Thing] = []
        self.travel = ego["speed"] * duration_s

    def vehicle(
        self, class_id: int, x: float, z: float, yaw: float, speed: float, base: float = 0.0
    ) -> float:
        if self.varied:
            mesh, length, width = _varied_vehicle(class_id, int(self.rng.integers(_VARIANTS)))
        else:
            mesh, length, width = _VEHICLES[class_id](self.rng)
        self.things.append(
            Thing(
                class_id,
                lambda time_s, distance: mesh,
                x,
                z + length / 2,
                yaw,
                speed,
                length,
                width,
                base,
            )
        )
        return length

    def look(self) -> people.Look:
        look = people.random_look(self.rng)
        return people.muted(look, self.rng) if self.varied else look

    def person(self, x: float, z: float, yaw: float, speed: float, base: float) -> None:
        look, phase = self.look(), float(self.rng.uniform(0, 6.28))
        stride = min(1.0, speed / 1.2)

        def mesh(time_s: float, distance: float) -> Mesh:
            return people.walker(
                look, phase + 5.2 * speed * time_s / 1.3, stride, 6 if distance < 22 else 4
            )

        self.things.append(Thing(PERSON, mesh, x, z, yaw, speed, 0.6, 0.6, base))

    def rider(self, x: float, z: float, yaw: float, speed: float) -> None:
        rng = self.rng
        look, phase, motor = (
            self.look(),
            float(rng.uniform(0, 6.28)),
            bool(rng.random() < 0.35),
        )
        paint = tuple(rng.uniform(0.05, 0.75, 3).tolist())
        helmet = tuple(rng.uniform(0.05, 0.85, 3).tolist()) if motor or rng.random() < 0.5 else None

        def mesh(time_s: float, distance: float) -> Mesh:
            return people.rider(
                look, phase + 7 * time_s, motor, paint, helmet, 6 if distance < 18 else 4
            )

        self.things.append(Thing(RIDER, mesh, x, z, yaw, speed, 1.8, 0.6))

    def lane(
        self,
        x: float,
        yaw: float,
        speed: float,
        gap: tuple[float, float],
        chances: tuple[float, ...],
        first: float,
    ) -> None:
        """A row of traffic that keeps its distances, as far as the camera can get in the
        duration."""
        forward = speed * math.cos(yaw)
        start = first - max(0.0, forward * self.duration_s - self.travel)
        end = SEEN_M + 8 + max(0.0, self.travel - forward * self.duration_s)
        z = start + self.rng.uniform(0, gap[1] - gap[0])
        while z < end:
            kind = (RIDER, CAR, TRUCK, BUS)[int(self.rng.choice(4, p=chances))]
            if kind == RIDER:
                self.rider(x + self.rng.uniform(-0.4, 0.4), z + 1, yaw, speed)
                z += 2.0
            else:
                z += self.vehicle(kind, x + self.rng.normal(0, 0.15), z, yaw, speed)
            z += self.rng.uniform(*gap)

    def parked(self, side: int) -> None:
        rng, z = self.rng, -6.0
        x = side * (self.layout.half_width - 1.05)
        fill = rng.uniform(0.2, 0.95 if self.varied else 0.65)
        if self.varied and rng.random() < 0.25:
            self.parked_across(side, fill)
            return
        while z < self.travel + SEEN_M + 8:
            if rng.random() > fill:
                z += rng.uniform(4, 9)
                continue
            shares = (0.93, 0.05, 0.02) if self.varied else (0.8, 0.13, 0.07)
            kind = (CAR, TRUCK, BUS)[int(rng.choice(3, p=shares))]
            yaw = (0.0 if side > 0 else math.pi) + rng.normal(0, 0.03)
            z += self.vehicle(
                kind, x - side * (0.15 if kind != CAR else 0.0), z, yaw, 0.0
            ) + rng.uniform(0.9, 2.5)

    def parked_across(self, side: int, fill: float) -> None:
        """A row of cars at an angle to the road, half on the pavement."""
        rng, z = self.rng, 0.0
        x = side * (self.layout.half_width + 0.7)
        yaw = side * rng.uniform(0.8, 1.57) + (math.pi if rng.random() < 0.5 else 0.0)
        while z < self.travel + SEEN_M:
            if rng.random() < fill:
                turned = yaw + rng.normal(0, 0.04)
                self.vehicle(CAR, x + rng.normal(0, 0.2), z, turned, 0.0, scenery.KERB_M)
            z += rng.uniform(2.6, 3.2)

    def sidewalks(self) -> None:
        rng = self.rng
        rate = float(rng.choice([1.6, 4, 9])) if self.varied else 1.6
        for side in (-1, 1):
            count = int(rng.poisson(rate * (1 + self.travel / SEEN_M)))
            for _ in range(count):
                z = rng.uniform(4, self.travel + 45)
                x = side * (self.layout.half_width + rng.uniform(0.7, self.layout.sidewalk - 0.6))
                yaw = rng.choice([0.0, math.pi]) + rng.normal(0, 0.1)
                speed = 0.0 if rng.random() < 0.25 else float(rng.uniform(0.8, 1.6))
                yaw = yaw if speed else rng.uniform(0, 6.28)
                for k in range(int(rng.choice([1, 2, 3], p=(0.65, 0.25, 0.1)))):
                    dx = (
                        k
                        * rng.uniform(0.55, 0.8)
                        * (-side if abs(x) + 1 > self.layout.wall_x else side)
                    )
                    self.person(x + dx, z + rng.normal(0, 0.25), yaw, speed, scenery.KERB_M)

    def crossing(self) -> None:
        """People, riders and sometimes a vehicle crossing in front of the camera."""
        rng, half = self.rng, self.layout.half_width
        for _ in range(int(rng.poisson(1.1 * (1 + self.travel / SEEN_M)))):
            meet = rng.uniform(0, self.duration_s)
            z = self.ego["speed"] * meet + rng.uniform(7, 32)
            direction, speed = float(rng.choice([-1, 1])), float(rng.uniform(0.9, 1.7))
            x = rng.uniform(-half, half) - direction * speed * meet
            self.person(x, z, direction * math.pi / 2 + rng.normal(0, 0.2), speed, 0.0)
        for _ in range(int(rng.poisson(2.5)) if self.varied else 0):
            yaw = rng.uniform(0, 2 * math.pi)
            speed = 0.0 if rng.random() < 0.5 else float(rng.uniform(0, 5))
            shares = (0.12, 0.7, 0.1, 0.08)
            kind = (RIDER, CAR, TRUCK, BUS)[int(rng.choice(4, p=shares))]
            x, z = rng.uniform(-1.2 * half, 1.2 * half), rng.uniform(9, self.travel + 45)
            if kind == RIDER:
                self.rider(x, z, yaw, speed)
            else:
                self.vehicle(kind, x, z, yaw, speed)
        if rng.random() < 0.3:
            meet = rng.uniform(0, self.duration_s)
            kind = (RIDER, CAR, TRUCK, BUS)[int(rng.choice(4, p=(0.4, 0.3, 0.15, 0.15)))]
            direction, speed = float(rng.choice([-1, 1])), float(rng.uniform(2, 5))
            x = rng.uniform(-6, 6) - direction * speed * meet
            z = self.ego["speed"] * meet + rng.uniform(14, 38)
            yaw = direction * (math.pi / 2 + rng.uniform(-0.6, 0.6))
            if kind == RIDER:
                self.rider(x, z, yaw, speed)
            else:
                self.vehicle(kind, x, z, yaw, speed)


def traffic(
    rng: np.random.Generator,
    layout: scenery.Layout,
    ego: dict[str, float],
    duration_s: float,
    varied: bool = False,
) -> list[Thing]:
    """All labelled things that the camera can meet while driving for `duration_s`.

    varied: more cars and of more shapes, crowds, darker clothes, and rows parked at an angle.
    """
    crowd = _Crowd(rng, layout, ego, duration_s, varied)
    for lane in range(layout.lanes):
        x = (lane + 0.5) * layout.lane_width
        own = abs(x - ego["x"]) < 1.5
        mix = (0.1, 0.66, 0.12, 0.12) if varied else (0.1, 0.3, 0.3, 0.3)
        oncoming = (0.1, 0.66, 0.12, 0.12) if varied else (0.1, 0.4, 0.25, 0.25)
        speed = ego["speed"] + (rng.uniform(-0.5, 0.5) if own else rng.uniform(-3, 3))
        crowd.lane(x, 0.0, max(0.0, speed), (9, 40), mix, 9.0 if own else 3.0)
        crowd.lane(-x, math.pi, rng.uniform(3, 11), (8, 36), oncoming, 6.0)
    edge = layout.half_width - (layout.parking + 0.75 if layout.parking > 1 else 0.7)
    crowd.lane(edge, 0.0, rng.uniform(2.5, 7), (12, 60), (1, 0, 0, 0), 5.0)
    crowd.lane(-edge, math.pi, rng.uniform(2.5, 7), (18, 80), (1, 0, 0, 0), 5.0)
    if layout.parking > 1:
        crowd.parked(-1)
        crowd.parked(1)
    crowd.sidewalks()
    crowd.crossing()
    return _apart(crowd.things, ego, duration_s, varied)


def _apart(
    things: list[Thing], ego: dict[str, float], duration_s: float, rows_across: bool
) -> list[Thing]:
    """Drop things that would at some time overlap another thing or the ego car. People on foot have
    priority.

    rows_across: vehicles that stand across the road may stand side by side.
    """
    things = sorted(things, key=lambda thing: thing.class_id != PERSON)
    # rows: x and z at time 0, speed along x and z, length, width, whether across the road, whether
    # a person
    rows = np.array(
        [(ego["x"], -1.5, 0.0, ego["speed"], 4.5, 1.8, 0, 0)]
        + [
            (
                t.x,
                t.z,
                t.speed * math.sin(t.yaw),
                t.speed * math.cos(t.yaw),
                t.length,
                t.width,
                abs(math.sin(t.yaw)) > 0.7,
                t.class_id == PERSON,
            )
            for t in things
        ]
    )
    times = np.arange(0, duration_s + 0.4, 0.4)
    xs, zs = (rows[:, k, None] + rows[:, k + 2, None] * times for k in (0, 1))
    kept = [0]
    for i in range(1, len(rows)):
        others = rows[kept]
        room = np.where(others[:, 7] * rows[i, 7], 0.45, 1.15)
        long = (others[:, 4] + rows[i, 4]) / 2
        wide = np.where(others[:, 6] + rows[i, 6] > 0, long, (others[:, 5] + rows[i, 5]) / 2)
        if rows_across and rows[i, 6] and not rows[i, 2]:
            beside = (others[:, 6] > 0) & (others[:, 2] == 0) & (others[:, 7] == 0)
            long = np.where(beside, (others[:, 5] + rows[i, 5]) / 2, long)
        hit = (np.abs(xs[kept] - xs[i]) < (wide * room)[:, None]) & (
            np.abs(zs[kept] - zs[i]) < (long * room)[:, None]
        )
        if not hit.any():
            kept.append(i)
    return [things[i - 1] for i in kept[1:]]
