"""Forwards the package's Python `logging` to ROS log messages."""

from __future__ import annotations

import logging

from rclpy.impl.rcutils_logger import RcutilsLogger


class RosHandler(logging.Handler):
    """Forwards records to a node's logger. newest: the last message."""

    def __init__(self, logger: RcutilsLogger) -> None:
        super().__init__()
        self.newest = ""
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        self.newest = record.getMessage()
        # One line of code each: rclpy allows one severity per line.
        if record.levelno >= logging.ERROR:
            self._logger.error(self.newest)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(self.newest)
        elif record.levelno >= logging.INFO:
            self._logger.info(self.newest)
        else:
            self._logger.debug(self.newest)
