"""Lets the executor look for rare events once in a while instead of with every message."""

from __future__ import annotations

import time
from typing import Any

from rclpy.callback_groups import CallbackGroup

EVERY_S = 1.0


class SeldomGroup(CallbackGroup):
    """For events of publishers, such as a subscriber with another QoS; they come EVERY_S late.

    Before each message rclpy lists all that may become ready, some 10 µs for each event of each
    publisher: with the outputs of eight cameras a millisecond for each of their images.
    """

    def __init__(self) -> None:
        super().__init__()
        self._due_s = 0.0

    def looked(self) -> None:
        """A message has come; if events were due, the executor has looked for them with it."""
        now_s = time.monotonic()
        if now_s >= self._due_s:
            self._due_s = now_s + EVERY_S

    def can_execute(self, entity: Any) -> bool:
        return time.monotonic() >= self._due_s

    def beginning_execution(self, entity: Any) -> bool:
        return True

    def ending_execution(self, entity: Any) -> None:
        pass
