"""Finds the memory and cores available for a training."""

from __future__ import annotations

import os
from pathlib import Path

WORKER_BYTES = 1 << 30  # that a data loading process takes, with a margin


def available_bytes() -> int:
    """Host memory available now: of the machine, or within the container's limit."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        facts = dict(line.split(":", 1) for line in lines)
        free = int(facts["MemAvailable"].split()[0]) << 10
    except (OSError, KeyError, ValueError):  # not Linux
        return 1 << 62
    try:
        group = Path("/sys/fs/cgroup")
        limit, used = ((group / f"memory.{k}").read_text().strip() for k in ("max", "current"))
        return free if limit == "max" else min(free, max(0, int(limit) - int(used)))
    except (OSError, ValueError):  # no such limit
        return free


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_count(wanted: int, on_gpu: bool) -> int:
    """`TrainConfig.workers`, with -1 resolved: on a GPU all cores but one, shared by the processes
    that torchrun started here, if memory allows; on a CPU, whose cores the network keeps busy,
    one."""
    if wanted >= 0:
        return wanted
    if not on_gpu:
        return 1
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return max(1, min(cores() // here - 1, available_bytes() // WORKER_BYTES // here))
