"""Outputs that get their name when they are whole."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from instaseg_ros.errors import ConfigError


class OutputFile:
    """A file or folder written as `name.part.suffix` (`part`) until `commit`.

    Refuses, with ConfigError, to replace what exists unless `overwrite`; and in any case a folder
    that does not hold `marker`, the file by which such an output is known.
    """

    def __init__(self, path: str | Path, overwrite: bool, marker: str = "") -> None:
        self.path = Path(path)
        self.part = self.path.with_name(f"{self.path.stem}.part{self.path.suffix}")
        if self.path.exists() and not overwrite:
            raise ConfigError(f"output {path} exists: choose another name, or give --overwrite")
        ours = self.path.is_file() if not marker else (self.path / marker).is_file()
        if self.path.exists() and not ours:
            expected = f"a folder with {marker}" if marker else "a file"
            raise ConfigError(f"output {path} is not replaced: expected {expected}")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _remove(self.part)  # what a killed run left

    def commit(self) -> None:
        """Give the whole output its name."""
        if self.path.is_dir():
            _remove(self.path)
        os.replace(self.part, self.path)

    def discard(self) -> None:
        """Remove what was written."""
        _remove(self.part)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def cache_dir() -> Path:
    """Folder for what can be made again: `INSTASEG_CACHE`, else `$XDG_CACHE_HOME/instaseg_ros`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("INSTASEG_CACHE") or Path(base) / "instaseg_ros")
