"""Leaves processors to other programs: which this process uses, and how eagerly. Needs no ROS."""

from __future__ import annotations

import os
import re
import threading
from contextlib import suppress
from pathlib import Path

from instaseg_ros.errors import ConfigError

THREADS = Path("/proc/self/task")
AT_START = frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset()
RANGE = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?")


def use_processors(text: str) -> None:
    """Move all threads of this process to the processors that `text` names, such as "0-2,6"; if it
    is empty, to those that the process started with. Threads made later begin where their maker is.

    Raises ConfigError if the process started with another set, or the system knows none.
    """
    if text and not AT_START:
        raise ConfigError("node.cpus: this system cannot tie a program to processors; leave it ''")
    wanted = numbers_in(text) if text else AT_START
    if missing := wanted - AT_START:
        raise ConfigError(
            f"node.cpus: expected some of {ranges(AT_START)}, which this process was started with, "
            f"got {ranges(missing)} too; see taskset, or the container's cpuset"
        )
    for thread in THREADS.iterdir() if THREADS.exists() else ():
        with suppress(ProcessLookupError):  # it has just ended
            os.sched_setaffinity(int(thread.name), wanted)


def be_nice(niceness: int) -> None:
    """Give this thread, and those that it makes from now on, a nice value; 0 changes nothing.

    Raises ConfigError if the process has no right to be less nice than it is.
    """
    if not niceness:
        return
    thread = threading.get_native_id()
    try:
        os.setpriority(os.PRIO_PROCESS, thread, niceness)
    except PermissionError as error:
        now = os.getpriority(os.PRIO_PROCESS, thread)
        raise ConfigError(
            f"node.niceness: expected 0 or at least {now}, its value now, which this user may not "
            f"lower, got {niceness}; allow it with nice in /etc/security/limits.conf, LimitNICE="
            " of systemd, or docker run --cap-add SYS_NICE"
        ) from error


def processors() -> str:
    """Those that this thread may use, such as "0-2,6"; empty where the system knows none."""
    return ranges(frozenset(os.sched_getaffinity(0))) if AT_START else ""


def numbers_in(text: str) -> frozenset[int]:
    """The numbers of a list such as "0-2,6". Raises ConfigError if it is none."""
    numbers: set[int] = set()
    for part in text.replace(" ", "").split(","):
        found = RANGE.fullmatch(part)
        first, last = (int(one or found[1]) for one in found.groups()) if found else (1, 0)
        if last < first:
            raise ConfigError(f"node.cpus: expected a list such as 0-2,6, got '{text}'")
        numbers.update(range(first, last + 1))
    return frozenset(numbers)


def ranges(numbers: frozenset[int]) -> str:
    """The numbers as such a list."""
    firsts = sorted(n for n in numbers if n - 1 not in numbers)
    lasts = sorted(n for n in numbers if n + 1 not in numbers)
    pairs = zip(firsts, lasts, strict=True)
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in pairs)
