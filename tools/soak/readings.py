"""What Linux says about a process. Needs no ROS."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

TICKS = os.sysconf("SC_CLK_TCK")


class Reading(NamedTuple):
    """rss_mb, pss_mb: resident memory in 2**20 bytes, whole and with its share of common pages.
    own_mb: what of it belongs to no file, hence not the middleware's segments in /dev/shm, of which
    more and more is touched until all of their size is. shm_files: files of /dev/shm that it has
    mapped. processor_s: seconds of processor time."""

    rss_mb: float
    pss_mb: float
    own_mb: float
    threads: int
    descriptors: int
    shm_files: int
    processor_s: float


def read(pid: int) -> Reading:
    """Raises OSError if there is no such process."""
    process = Path(f"/proc/{pid}")
    rollup = (process / "smaps_rollup").read_text().splitlines()[1:]
    kb = {line.split(":")[0]: int(line.split()[1]) for line in rollup}
    status = (process / "status").read_text()
    own_kb = int(status.partition("RssAnon:")[2].split()[0])
    stat = (process / "stat").read_text().rpartition(")")[2].split()
    mapped = {line.split()[5] for line in (process / "maps").open() if " /dev/shm/" in line}
    return Reading(
        rss_mb=kb["Rss"] / 1024,
        pss_mb=kb["Pss"] / 1024,
        own_mb=own_kb / 1024,
        threads=int(stat[17]),
        descriptors=len(os.listdir(process / "fd")),
        shm_files=len(mapped),
        processor_s=(int(stat[11]) + int(stat[12])) / TICKS,
    )
