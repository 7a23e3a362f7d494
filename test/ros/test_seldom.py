"""When the executor looks for rare events."""

import pytest

pytest.importorskip("rclpy")

from instaseg_ros.ros import seldom
from instaseg_ros.ros.seldom import EVERY_S, SeldomGroup

pytestmark = pytest.mark.ros


def test_events_are_looked_for_until_a_message_came_and_then_once_in_a_while(monkeypatch):
    now_s = 100.0
    monkeypatch.setattr(seldom.time, "monotonic", lambda: now_s)
    group = SeldomGroup()
    assert group.can_execute(None)
    now_s += 50  # no message comes
    assert group.can_execute(None)
    group.looked()
    for _ in range(9):  # messages do not put it off
        now_s += EVERY_S / 10
        assert not group.can_execute(None)
        group.looked()
    now_s += EVERY_S / 5
    assert group.can_execute(None)
    group.looked()
    assert not group.can_execute(None)
