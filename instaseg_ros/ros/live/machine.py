"""Looks at this machine's shared memory, and at the node's processes on it. Needs no ROS."""

from __future__ import annotations

import os
from pathlib import Path

from instaseg_ros.ros.live.observed import SharedMemory
from instaseg_ros.ros.machine import PROFILE_VARIABLES, SHARED_MEMORY

SEGMENTS = ("fastrtps_*", "fastdds_*")
PROGRAMS = ("instaseg_node", "instaseg_ros.ros.node")  # in the command line of a node's process
TEXTS = {  # environment variables whose value is told
    "ROS_DISTRO",
    "ROS_DOMAIN_ID",
    "ROS_AUTOMATIC_DISCOVERY_RANGE",
    "ROS_LOCALHOST_ONLY",
    "ROS_SECURITY_ENABLE",
    "ROS_SECURITY_STRATEGY",
    "RMW_IMPLEMENTATION",
    *PROFILE_VARIABLES,
    "CUDA_VISIBLE_DEVICES",
    "NUMBA_NUM_THREADS",
    "OMP_NUM_THREADS",
    "INSTASEG_CACHE",
}
SET = {  # of which only is told whether they are set: they name hosts, networks or keys
    "CYCLONEDDS_URI",
    "ROS_DISCOVERY_SERVER",
    "ROS_SECURITY_KEYSTORE",
    "ROS_STATIC_PEERS",
}


def declared(variables: dict[str, str]) -> dict[str, str]:
    """What is told of an environment: the values of TEXTS, and which of SET are set."""
    told = {name: variables[name] for name in sorted(TEXTS & variables.keys())}
    return told | dict.fromkeys(sorted(SET & variables.keys()), "(set)")


def environment() -> dict[str, str]:
    """What is told of this process's environment."""
    return declared(dict(os.environ))


def shared_memory() -> SharedMemory | None:
    """The state of /dev/shm; None without it."""
    try:
        whole = os.statvfs(SHARED_MEMORY)
    except OSError:
        return None
    block = whole.f_frsize / 2**20
    taken = [
        _size(path)
        for pattern in SEGMENTS
        for path in SHARED_MEMORY.glob(pattern)
        if not path.name.startswith("sem.")
    ]
    return SharedMemory(
        whole.f_blocks * block, whole.f_bavail * block, sum(taken) / 2**20, len(taken)
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512  # what it takes, not what it could
    except OSError:
        return 0


def processes() -> list[dict[str, object]]:
    """The processes of nodes of this package on this machine, as far as this user may see them."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = path.joinpath("cmdline").read_bytes().decode("utf-8", "replace").split("\0")
            if any(Path(word).name in PROGRAMS for word in words):
                found.append({"pid": int(path.name), **_described(path)})
        except (OSError, ValueError):  # it has just ended
            continue
    return found


def _described(path: Path) -> dict[str, object]:
    """Memory, threads, processor time and niceness, and what is told of its environment."""
    fields = path.joinpath("stat").read_text().rpartition(")")[2].split()
    ticks = os.sysconf("SC_CLK_TCK")
    facts: dict[str, object] = {
        "resident_mb": int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 2**20,
        "threads": int(fields[17]),
        "processor_s": (int(fields[11]) + int(fields[12])) / ticks,
        "nice": int(fields[16]),
        "open_files": sum(1 for _ in path.joinpath("fd").glob("*")),
    }
    try:
        entries = path.joinpath("environ").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:  # of another user
        return facts
    variables = dict(entry.split("=", 1) for entry in entries if "=" in entry)
    return {**facts, "environment": declared(variables)}
