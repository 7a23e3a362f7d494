"""Writes a dataset's files, each whole or not at all, for the one process that holds it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from instaseg_ros.errors import ConfigError
from instaseg_ros.files import publish

DESK = ".labelling"  # name of the folder


class Desk:
    """A hidden folder beside a dataset, which one process at a time holds, until it has ended,
    however it ends. Files are written there, and get their place when they are whole, so that a
    killed process leaves nothing in the dataset that looks like a part of it.

    Raises ConfigError if another process holds it.
    """

    def __init__(self, folder: Path, what: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._part = folder / "unfinished"
        self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise ConfigError(
                f"dataset {what} is open in another `instaseg label`: go on there, or end it first"
            ) from error

    def write(self, path: Path, content: bytes) -> None:
        """Write a file, whole or not at all."""
        try:
            self._part.write_bytes(content)
            self.place(self._part, path)
        finally:
            self._part.unlink(missing_ok=True)

    def place(self, part: Path, path: Path) -> None:
        """Give a finished file or folder of this one its place."""
        publish(part, path)

    def release(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
