"""Which frames make a task, in which order tasks begin, and what share of a machine does them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from instaseg_ros.errors import ConfigError

# Frames of a piece of a recording. Each worker gets at least EACH pieces, so that all end at nearly
# one time; one that must be done again loses at most MOST frames.
LEAST, MOST, EACH = 50, 2000, 16
CORES = 4  # of a worker without a GPU, unless the number of workers is given: more help less


class Piece(NamedTuple):
    """Frames of a recording, by its number."""

    recording: int
    frames: range


def pieces(lengths: Sequence[int], workers: int, may_cut: bool) -> list[Piece]:
    """The pieces of recordings of so many frames, those of the longest recording first: what is
    begun last should be short. may_cut: whether a recording may be cut into ranges."""
    most = max(LEAST, min(MOST, math.ceil(sum(lengths) / (workers * EACH))))
    order = sorted(range(len(lengths)), key=lambda number: (-lengths[number], number))
    return [
        Piece(number, frames)
        for number in order
        for frames in (_ranges(lengths[number], most) if may_cut else [range(lengths[number])])
    ]


def _ranges(length: int, most: int) -> list[range]:
    """Ranges of at most `most` frames, of equal length or one less."""
    count = max(1, math.ceil(length / most))
    edges = [length * k // count for k in range(count + 1)]
    return [range(*edges[k : k + 2]) for k in range(count)]


class Machine(NamedTuple):
    """What a machine of a cluster has."""

    cores: int
    gpus: int


class Share(NamedTuple):
    """What one of `workers` gets: cores, and a GPU or a part of one (0: none)."""

    workers: int
    cores: int
    gpus: float


def share_of(machines: Sequence[Machine], workers: int | None, gpus: bool) -> Share:
    """What each of so many workers gets of a cluster; None: one for each GPU, or for each CORES.

    gpus: whether GPUs are used where there are any, in which case machines without one get no
    worker. Raises ConfigError for more workers than cores.
    """
    having = [one for one in machines if one.gpus] if gpus else []
    there = having or list(machines)
    cores, count = sum(one.cores for one in there), sum(one.gpus for one in having)
    if workers is None:
        workers = count or max(1, sum(one.cores // CORES for one in there))
    if not 0 < workers <= cores:
        raise ConfigError(f"--workers: expected 1 to {cores}, one a core, got {workers}")
    for_each = math.ceil(workers / count) if count else 0

    def fit(share: int) -> bool:
        places = (one.cores // share for one in there)
        if for_each:
            places = (min(one.cores // share, one.gpus * for_each) for one in there)
        return sum(places) >= workers

    most = max(one.cores for one in there)
    largest = next((share for share in range(most, 0, -1) if fit(share)), 0)
    if not largest:
        raise ConfigError(
            f"--workers: expected at most what {count} GPUs on machines of "
            f"{', '.join(str(one.cores) for one in there)} cores can hold, got {workers}"
        )
    return Share(workers, largest, 1 / for_each if for_each else 0.0)
