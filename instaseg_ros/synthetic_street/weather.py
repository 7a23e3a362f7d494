"""Defines the light and weather of a scene, and the camera's response to them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class _Typical(NamedTuple):
    sun: tuple[float, float, float]
    ambient: tuple[float, float, float]
    horizon: tuple[float, float, float]
    zenith: tuple[float, float, float]
    fog: float
    clouds: float
    darkness: float
    wetness: float


_DULL, _OFF = (0.05, 0.05, 0.05), (0.0, 0.0, 0.0)
_TYPICAL = {
    "clear": _Typical(
        (1.25, 1.16, 0.98),
        (0.36, 0.42, 0.52),
        (0.72, 0.82, 0.92),
        (0.2, 0.42, 0.78),
        0.0015,
        0.45,
        0,
        0,
    ),
    "overcast": _Typical(
        (0.1, 0.1, 0.1), (0.72, 0.74, 0.78), (0.8, 0.82, 0.85), (0.6, 0.64, 0.7), 0.003, 0.6, 0, 0
    ),
    "fog": _Typical(
        _DULL, (0.72, 0.73, 0.75), (0.78, 0.79, 0.8), (0.7, 0.72, 0.74), 0.018, 0.1, 0.1, 0.2
    ),
    "rain": _Typical(
        _DULL, (0.55, 0.58, 0.62), (0.6, 0.63, 0.67), (0.42, 0.46, 0.52), 0.007, 0.7, 0.2, 1
    ),
    "dusk": _Typical(
        (0.75, 0.42, 0.22),
        (0.32, 0.3, 0.36),
        (0.9, 0.6, 0.42),
        (0.25, 0.28, 0.5),
        0.003,
        0.5,
        0.5,
        0,
    ),
    "night": _Typical(
        _OFF, (0.2, 0.2, 0.25), (0.1, 0.1, 0.14), (0.03, 0.03, 0.06), 0.002, 0.2, 1, 0.3
    ),
}
KINDS = tuple(_TYPICAL)
_CHANCES = (0.38, 0.24, 0.08, 0.12, 0.1, 0.08)


@dataclass(frozen=True, slots=True)
class Weather:
    """Colours are linear RGB; `to_sun` (3,) points at the sun, y up; fog in 1/m; the rest in [0,
    1]."""

    kind: str
    to_sun: np.ndarray
    sun: np.ndarray
    ambient: np.ndarray
    horizon: np.ndarray
    zenith: np.ndarray
    fog: float
    clouds: float
    darkness: float
    wetness: float
    exposure: float
    white_balance: np.ndarray
    noise: float


def random_weather(rng: np.random.Generator) -> Weather:
    kind = KINDS[int(rng.choice(len(KINDS), p=_CHANCES))]
    azimuth = rng.uniform(0, 2 * math.pi)
    elevation = math.radians(rng.uniform(25, 65) if kind != "dusk" else rng.uniform(8, 20))
    to_sun = np.array(
        [
            math.cos(elevation) * math.sin(azimuth),
            math.sin(elevation),
            math.cos(elevation) * math.cos(azimuth),
        ]
    )
    typical = _TYPICAL[kind]
    tint = 1 + rng.normal(0, 0.03, 3)
    return Weather(
        kind=kind,
        to_sun=to_sun,
        sun=np.array(typical.sun) * rng.uniform(0.8, 1.15),
        ambient=np.array(typical.ambient) * tint * rng.uniform(0.85, 1.15),
        horizon=np.array(typical.horizon) * tint,
        zenith=np.array(typical.zenith) * tint,
        fog=typical.fog * rng.uniform(0.6, 1.4),
        clouds=typical.clouds * rng.uniform(0.3, 1.3),
        darkness=typical.darkness,
        wetness=typical.wetness,
        exposure=rng.uniform(0.8, 1.25),
        white_balance=1 + rng.normal(0, 0.04, 3),
        noise=rng.uniform(0.004, 0.014) * (1.6 if kind == "night" else 1.0),
    )
