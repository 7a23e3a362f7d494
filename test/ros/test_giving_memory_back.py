"""Freed memory that glibc keeps between pieces in use."""

from __future__ import annotations

import os
from pathlib import Path

from instaseg_ros.ros.machine import give_memory_back


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
