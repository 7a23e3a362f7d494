"""Freed memory that glibc keeps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from instaseg_ros.ros.memory import give_memory_back

POOLS = """
import ctypes, threading
from instaseg_ros.ros.memory import share_arenas
share_arenas()
def allocate():
    kept = bytearray(10_000)
    together.wait()
together = threading.Barrier(8)
threads = [threading.Thread(target=allocate) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
libc = ctypes.CDLL(None)
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""


@pytest.mark.parametrize(("chosen", "pools"), [("", 2), ("3", 3)])
def test_threads_share_pools(chosen: str, pools: int) -> None:
    environment = {
        **os.environ,
        "MALLOC_ARENA_MAX": chosen,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-c", POOLS]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.count("<heap nr=") == pools


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def test_what_is_freed_between_pieces_in_use_goes_back() -> None:
    pieces = [bytearray(4000) for _ in range(20_000)]
    in_use = pieces[::50]
    del pieces
    before_mb = resident_mb()
    give_memory_back()
    assert resident_mb() < before_mb - 40
    assert len(in_use) == 400
