"""Counts messages that never arrived, by their senders' sequence numbers. Needs no ROS."""

from __future__ import annotations

from collections.abc import Collection


class LossCounter:
    """Each sender numbers its messages; gaps between two numbers of a sender are losses.

    If messages do not identify their sender, only certain losses count: those between two calls of
    `settle` with one and the same sender, if the numbers only increased in between.
    """

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Treat the next message of each sender as its first."""
        self._last_of: dict[bytes, int] = {}  # number by sender
        self._only: bytes | None = None  # sender at the last `settle`
        self._last: int | None = None  # last number, of any sender
        self._missing = 0  # since the last `settle`, if there is one sender
        self._rose = True

    def arrived(self, number: int, sender: bytes | None) -> int:
        """The number of this sender's messages now known to be lost before this one."""
        if sender is not None:
            last = self._last_of.get(sender, number)
            self._last_of[sender] = number
            return max(0, number - last - 1)
        if self._last is not None:
            self._rose &= number > self._last
            self._missing += max(0, number - self._last - 1)
        self._last = number
        return 0

    def settle(self, senders: Collection[bytes]) -> int:
        """The number of further messages now known to be lost; call this a few times per second.

        senders: the current publishers; others are forgotten.
        """
        self._last_of = {one: last for one, last in self._last_of.items() if one in senders}
        only = next(iter(senders)) if len(senders) == 1 else None
        certain = only is not None and only == self._only and self._rose
        lost = self._missing if certain else 0
        if not certain:
            self._last = None
        self._only, self._missing, self._rose = only, 0, True
        return lost
