"""When recorded messages are due, and that reading ahead changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import pytest

from instaseg_ros.errors import TruncatedInputError
from instaseg_ros.recordings.playback import AHEAD, Timeline, read_ahead
from instaseg_ros.recordings.recording import RawMessage


def test_a_timeline() -> None:
    timeline = Timeline(5_000_000_000, 100.0, 4.0)
    assert timeline.due_s(5_000_000_000) == 100.0
    assert timeline.due_s(7_000_000_000) == pytest.approx(100.5)
    assert timeline.due_s(1_000_000_000) == pytest.approx(99.0)
    assert timeline.recorded_ns(100.5) == 7_000_000_000


def messages(count: int, broken: bool = False) -> Iterator[RawMessage]:
    for i in range(count):
        yield RawMessage("/a", i, b"")
    if broken:
        raise TruncatedInputError("it ends")


@pytest.mark.parametrize("count", [0, 1, AHEAD, 3 * AHEAD])
def test_reading_ahead_keeps_the_order(count: int) -> None:
    assert [m.received_ns for m in read_ahead(messages(count))] == list(range(count))


def test_what_comes_before_a_break_is_read() -> None:
    read = []
    with pytest.raises(TruncatedInputError):
        read.extend(read_ahead(messages(50, broken=True)))
    assert len(read) == 50


def test_only_so_many_are_read_before_they_are_asked_for() -> None:
    asked = iter(range(10**9))
    endless = (RawMessage("/a", i, b"") for i in asked)
    few = read_ahead(endless)
    assert [m.received_ns for m in islice(few, 3)] == [0, 1, 2]
    few.close()  # type: ignore[attr-defined]
    assert next(asked) <= AHEAD + 3
