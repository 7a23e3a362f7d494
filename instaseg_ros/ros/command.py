"""What the commands that use ROS share: its start and end, and their end by a signal."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import rclpy
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from instaseg_ros.errors import ConfigError

SIGNALS = (signal.SIGINT, signal.SIGTERM)
TWICE_S = 1.0  # `timeout` and others send a signal to the process and again to its group


@contextmanager
def ros() -> Iterator[None]:
    """Start ROS, and end it behind the block. Raises ConfigError if it cannot start."""
    try:
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    except Exception as error:  # of many kinds, each about something given from outside
        raise ConfigError(f"ROS cannot start: {error}") from error
    try:
        yield
    finally:
        rclpy.try_shutdown()


class QuietNode(Node):
    """A node without parameters' services and logging topic, which no command needs."""

    def __init__(self, name: str) -> None:
        super().__init__(name, enable_rosout=False, start_parameter_services=False)


class Ending:
    """Whether a signal has asked the command to end. asked: whether it has."""

    def __init__(self) -> None:
        self.asked = False


@contextmanager
def ended_by_signals() -> Iterator[Ending]:
    """Within the block the first SIGINT or SIGTERM only sets `asked`, so that nothing is left
    half-done; one that comes later interrupts."""
    ending = Ending()
    first_s = float("inf")

    def end(number: int, frame: Any) -> None:
        nonlocal first_s
        if time.monotonic() > first_s + TWICE_S:
            raise KeyboardInterrupt
        first_s = min(first_s, time.monotonic())
        ending.asked = True

    before = {number: signal.signal(number, end) for number in SIGNALS}
    try:
        yield ending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
