"""What this process has of the machine: middleware, shared memory, processor. Needs no ROS."""

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
    """At one moment.

    middleware: as rmw names it. profile: file of Fast DDS profiles that this process was given,
    empty without one; has_profile: whether it is there. shm_mb: size of /dev/shm, in 2**20 bytes,
    None without it. waiting: share in [0, 1] of the time in which its threads could have run that
    they waited for a processor, 0 where the system does not tell. used: share of its processors
    that it had itself.
    """

    middleware: str = "rmw_fastrtps_cpp"
    profile: str = ""
    has_profile: bool = False
    shm_mb: float | None = None
    waiting: float = 0.0
    used: float = 0.0


class MachineWatch:
    """Looks at the machine now and then; `waiting` and `used` are those between the first and the
    last look of the newest READINGS."""

    def __init__(self, middleware: str) -> None:
        self._middleware = middleware
        self._readings = deque([_processor_ns()], maxlen=READINGS)

    def look(self) -> Machine:
        """How it is now."""
        profile = next(filter(None, (os.environ.get(name) for name in PROFILE_VARIABLES)), "")
        self._readings.append(_processor_ns())
        passed_ns, ran_ns, waited_ns = (
            max(0, now - then)  # a thread that ended takes its time along
            for then, now in zip(self._readings[0], self._readings[-1], strict=True)
        )
        return Machine(
            self._middleware,
            profile,
            Path(profile).is_file(),
            _shm_mb(),
            waited_ns / max(ran_ns + waited_ns, 1),
            # Linux counts in steps, which in a short time may be longer than that.
            min(1.0, ran_ns / max(passed_ns * len(os.sched_getaffinity(0)), 1)),
        )


def _processor_ns() -> tuple[int, int, int]:
    """The time, and for how long this process's threads ran, and waited for a processor."""
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
