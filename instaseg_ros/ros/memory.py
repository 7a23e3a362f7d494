"""Keeps the process from growing by what it has freed.

Needs no ROS; without glibc nothing happens.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

M_ARENA_MAX = -8  # of malloc.h
ARENAS = 2
CHOSEN = "MALLOC_ARENA_MAX"  # glibc's own variable: what somebody has set there stays


def share_arenas() -> None:
    """Let all threads allocate from ARENAS pools; call it before they begin.

    glibc gives threads one of up to eight pools for each processor, each of which keeps the most
    that was ever free at its end. Threads come and go with every activation, and OpenCV loads a
    font of 6 MB in each that writes: a node grew by 100 MB in its first hour.
    """
    if not os.environ.get(CHOSEN):
        with suppress(AttributeError):
            ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS)


def give_memory_back() -> None:
    """Return freed memory to the system, in some milliseconds: glibc keeps what lies between pieces
    in use."""
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
