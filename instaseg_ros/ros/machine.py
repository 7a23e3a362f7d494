"""Observes middleware, shared memory and processor use of this process. Needs no ROS."""

from __future__ import annotations

import os
import time
from collections import deque
from pathlib import Path
from typing import NamedTuple

# Fast DDS 2 (Humble, Jazzy) reads the first, Fast DDS 3 (Kilted and later) the second.
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
SHARED_MEMORY = Path("/dev/shm")
READINGS = 6  # of the processor; at one per second they span 5 s


class Machine(NamedTuple):
    """The machine at one moment.

    middleware: rmw's name. profile: the Fast DDS profile file configured for this process, empty
    without one; has_profile: whether it exists. shm_mb: size of /dev/shm, in 2**20 bytes, None
    without it. waiting: share in [0, 1] of its threads' runnable time spent waiting for a
    processor, 0 if unknown. used: share of its processors that this process used.
    """

    middleware: str = "rmw_fastrtps_cpp"
    profile: str = ""
    has_profile: bool = False
    shm_mb: float | None = None
    waiting: float = 0.0
    used: float = 0.0


class MachineWatch:
    """Observes the machine from time to time; `waiting` and `used` span the newest READINGS."""

    def __init__(self, middleware: str) -> None:
        self._middleware = middleware
        self._readings = deque([_processor_ns()], maxlen=READINGS)

    def look(self) -> Machine:
        """The current state."""
        profile = next(filter(None, (os.environ.get(name) for name in PROFILE_VARIABLES)), "")
        self._readings.append(_processor_ns())
        passed_ns, ran_ns, waited_ns = (
            max(0, now - then)  # a thread that ended takes its times with it
            for then, now in zip(self._readings[0], self._readings[-1], strict=True)
        )
        return Machine(
            self._middleware,
            profile,
            Path(profile).is_file(),
            _shm_mb(),
            waited_ns / max(ran_ns + waited_ns, 1),
            # Linux counts in steps, which may be longer than a short interval.
            min(1.0, ran_ns / max(passed_ns * len(os.sched_getaffinity(0)), 1)),
        )


def _processor_ns() -> tuple[int, int, int]:
    """The current time, and how long this process's threads have run and waited for a processor."""
    ran_ns = waited_ns = 0
    for path in Path("/proc/self/task").glob("*/schedstat"):
        try:
            ran, waited, _ = path.read_text().split()
        except (OSError, ValueError):  # that thread has just ended
            continue
        ran_ns += int(ran)
        waited_ns += int(waited)
    return time.monotonic_ns(), ran_ns, waited_ns


def _shm_mb() -> float | None:
    try:
        size = os.statvfs(SHARED_MEMORY)
    except OSError:
        return None
    return size.f_blocks * size.f_frsize / 2**20
