"""Defers Ctrl-C until the current step is done."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

WAITING = (
    "\nstopping after this step, and its validation if one is due; a second Ctrl-C stops at once, "
    "and loses the steps since the last saved state\n"
)


@contextmanager
def finishing_the_step(alone: bool = True) -> Iterator[list[int]]:
    """Within the block, Ctrl-C is noted in the list instead of being raised. A second one is
    raised, except with several processes, to which torchrun forwards the signal that the terminal
    has already sent them. Outside the main thread nothing changes."""
    seen: list[int] = []

    def note(number: int, frame: object) -> None:
        seen.append(number)
        if len(seen) == 1 and alone:
            os.write(2, WAITING.encode())  # print may be in the middle of a line
        elif alone:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield seen
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)
