"""When recorded messages are due, and how they are read in time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from instaseg_ros.recordings.recording import RawMessage

AHEAD = 32  # messages read before they are due: 200 MB of 6 MB images


@dataclass(frozen=True, slots=True)
class Timeline:
    """Maps recorded times to those of playback.

    first_ns: recorded time that is due at `begin_s`, in seconds of any clock. rate: recorded
    seconds per second.
    """

    first_ns: int
    begin_s: float
    rate: float = 1.0

    def due_s(self, recorded_ns: int) -> float:
        """When a recorded moment is due."""
        return self.begin_s + (recorded_ns - self.first_ns) / 1e9 / self.rate

    def recorded_ns(self, now_s: float) -> int:
        """The recorded moment that is due now."""
        return self.first_ns + round((now_s - self.begin_s) * self.rate * 1e9)


def read_ahead(messages: Iterator[RawMessage]) -> Iterator[RawMessage]:
    """The same messages, and the same error at their end, read by another thread before they are
    asked for."""
    with ThreadPoolExecutor(1) as reader:
        pending = deque(reader.submit(next, messages, None) for _ in range(AHEAD))
        while (message := pending.popleft().result()) is not None:
            pending.append(reader.submit(next, messages, None))
            yield message
