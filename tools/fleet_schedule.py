#!/usr/bin/env python3
"""Simulates in which order a fleet's recordings are best evaluated, without evaluating any:

    python tools/fleet_schedule.py

1,000 recordings of uneven length (log-normal, median five minutes, a tenth longer than 36, at 10
Hz; the seed is fixed) go to workers of one speed: as given, longest first, and cut into ranges as
`instaseg_ros.fleet.schedule` does. What is lost is the share of the workers' time until the last
one ends in which they had no frame to label.
"""

from __future__ import annotations

import argparse
import heapq
from collections.abc import Iterable, Sequence

import numpy as np

from instaseg_ros.fleet.schedule import pieces
from instaseg_ros.tables import text_table

HZ, MEDIAN_S, SPREAD = 10, 300, 1.55  # of the logarithm: a drive to the shop, and a day of tests
BETWEEN_S = 0.05  # from the end of a task to the next one's first frame: asking, opening a file


def lengths_of(count: int, seed: int) -> list[int]:
    """Frames of each recording."""
    seconds = np.random.default_rng(seed).lognormal(np.log(MEDIAN_S), SPREAD, count)
    return np.maximum(1, (seconds * HZ).astype(int)).tolist()


def makespan_s(tasks: Iterable[int], workers: int, frames_per_s: float) -> float:
    """When the last worker ends, if each takes the next task of so many frames when it is free."""
    free = [0.0] * workers
    for frames in tasks:
        heapq.heapreplace(free, free[0] + BETWEEN_S + frames / frames_per_s)
    return max(free)


def plans(lengths: Sequence[int], workers: int) -> dict[str, list[int]]:
    """Tasks in order, by the name of the schedule."""
    whole, cut = (
        [len(piece.frames) for piece in pieces(lengths, workers, may_cut)]
        for may_cut in (False, True)
    )
    return {"as given": list(lengths), "longest first": whole, "ranges": cut}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--recordings", type=int, default=1000)
    parser.add_argument("--frames-per-s", type=float, default=10.0, help="of one worker")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    lengths = lengths_of(args.recordings, args.seed)
    hours = np.array(lengths) / HZ / 3600
    median = np.median(hours) * 60
    print(
        f"{len(lengths)} recordings, {hours.sum():.0f} hours; the median {median:.0f} minutes, the "
        f"longest {hours.max():.1f} hours"
    )
    rows = []
    for workers in (2, 8, 32, 128):
        best_s = sum(lengths) / args.frames_per_s / workers
        row: list[float] = [workers, best_s / 3600]
        for tasks in plans(lengths, workers).values():
            row.append(100 * (1 - best_s / makespan_s(tasks, workers, args.frames_per_s)))
        rows.append((*row, len(plans(lengths, workers)["ranges"])))
    heads = ("workers", "hours at best", *(f"{name}: lost %" for name in plans([1], 1)), "ranges")
    print(text_table(heads, rows, ("d", ".2f", ".1f", ".1f", ".1f", "d")))


if __name__ == "__main__":
    main()
