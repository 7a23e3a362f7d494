"""Limits that the numbers of an evaluation must keep, as in `ap50=0.5,HOTA=0.6,p99_ms=150`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from instaseg_ros.errors import ConfigError, nearest
from instaseg_ros.evaluation.metrics.tracking import TITLES

# Names in the JSON of an evaluation: at its top, and under `tracking`.
AT_LEAST = ("ap", "ap50", "pq", "sq", "rq", "sbd", "apr50", "apr70", "apr_volume")
AT_MOST = ("dic", "dropped", "p50_ms", "p99_ms")
TRACKED_AT_LEAST = (*TITLES, "mostly_tracked")
TRACKED_AT_MOST = ("id_switches", "fragmentations", "mostly_lost")
TRACKED = (*TRACKED_AT_LEAST, *TRACKED_AT_MOST)
NAMES = (*AT_LEAST, *AT_MOST, *TRACKED)


class Limit(NamedTuple):
    """name: one of NAMES; bound: the least value, or of AT_MOST and TRACKED_AT_MOST the largest."""

    name: str
    bound: float

    @property
    def from_above(self) -> bool:
        return self.name in (*AT_MOST, *TRACKED_AT_MOST)


class Checked(NamedTuple):
    """A limit, the number (NaN: unknown) and whether it keeps the limit; an unknown one does
    not."""

    limit: Limit
    value: float
    kept: bool

    def __str__(self) -> str:
        value = "unknown" if math.isnan(self.value) else f"{self.value:.4g}"
        how = "at most" if self.limit.from_above else "at least"
        return f"{self.limit.name} {value}, expected {how} {self.limit.bound:g}"


def parse_limits(text: str, tracking: bool) -> list[Limit]:
    """The limits in a text, names in any case. tracking: whether there will be numbers of tracks.
    Raises ConfigError for a name or number that cannot be used."""
    limits: dict[str, Limit] = {}
    for part in text.split(","):
        given, equals, number = (one.strip() for one in part.partition("="))
        name = given.lower()
        if name not in NAMES:
            near = nearest(name, NAMES)
            hint = f"did you mean {near!r}?" if near else f"known: {', '.join(NAMES)}"
            raise ConfigError(f"--fail-under: expected NAME=NUMBER, got {part.strip()!r}; {hint}")
        if name in limits:
            raise ConfigError(f"--fail-under: expected {name} once, got it twice")
        if name in TRACKED and not tracking:
            raise ConfigError(f"--fail-under: {given} is a number of tracks: give --tracking too")
        try:
            bound = float(number) if equals else math.nan
        except ValueError:
            bound = math.nan
        if not math.isfinite(bound):
            raise ConfigError(f"--fail-under: expected a number after {name}=, got {number!r}")
        limits[name] = Limit(name, bound)
    return list(limits.values())


def check_limits(limits: list[Limit], numbers: Mapping[str, Any]) -> list[Checked]:
    """Compare the numbers of an evaluation, as they are in its JSON."""
    checked = []
    for limit in limits:
        found = numbers["tracking"] if limit.name in TRACKED else numbers
        value = found.get(limit.name)
        value = math.nan if value is None else float(value)
        kept = value <= limit.bound if limit.from_above else value >= limit.bound
        checked.append(Checked(limit, value, kept))
    return checked
