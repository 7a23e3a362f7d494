"""The folder of a run: one Parquet file of rows for each recording, `NAME.parquet`."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from instaseg_ros.errors import ConfigError, InputError
from instaseg_ros.fleet.parquet import SUFFIX, read_facts, read_rows, write_rows
from instaseg_ros.fleet.rows import Table
from instaseg_ros.fleet.source import Source

SUMMARY = "evaluation.json"
OURS = ("key", "settings")  # entries of the facts that the folder adds

log = logging.getLogger(__name__)


def key_of(source: Source, settings: Mapping[str, Any]) -> str:
    """Digits that change with everything that the rows of a recording depend on, save the classes
    of other recordings."""
    about = json.dumps([source.identity(), dict(settings)], sort_keys=True, default=str)
    return hashlib.sha256(about.encode("utf-8", "surrogateescape")).hexdigest()[:16]


class RunFolder:
    """Keeps the rows of recordings that are evaluated with the same settings.

    settings: for JSON, all that the rows depend on besides the recordings. Raises ConfigError if
    the folder has something else in it, recordings that were evaluated with other settings and are
    not among `sources`, which may be done again, or another recording of the same name.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], sources: Sequence[Source]) -> None:
        self.path, self._settings = path, dict(settings)
        self._facts = _facts_in(path)
        own = {source.name for source in sources}
        others = [
            name
            for name, facts in self._facts.items()
            if name not in own and facts.get("settings") != _plain(self._settings)
        ]
        if others:
            raise ConfigError(
                f"output {path} has recordings that were evaluated with other weights or options "
                f"({', '.join(others[:5])}): choose another folder"
            )
        for source in sources:
            there = self._facts.get(source.name, {}).get("recording")
            if there not in (None, source.where):
                raise ConfigError(
                    f"output {path} has rows of another recording named {source.name}, {there}: "
                    f"choose another folder, or if it has moved, remove {self._file(source.name)}"
                )
        path.mkdir(parents=True, exist_ok=True)

    def done(self, sources: Sequence[Source]) -> dict[str, dict[str, Any]]:
        """The facts of those sources whose rows are there, made of the same files with the same
        settings."""
        found = {}
        for source in sources:
            facts = self._facts.get(source.name)
            if facts is None:
                continue
            try:
                key = key_of(source, self._settings)
            except (InputError, OSError):
                continue  # it is gone: whoever opens it says so
            if facts.get("key") == key:
                found[source.name] = {k: v for k, v in facts.items() if k not in OURS}
            else:
                log.info("%s: done again, as its files or the options have changed", source.name)
        return found

    def keep(self, source: Source, rows: Mapping[str, Table], facts: Mapping[str, Any]) -> None:
        """Write the rows of one recording."""
        about = {**facts, "key": key_of(source, self._settings), "settings": self._settings}
        write_rows(self._file(source.name), rows, about)

    def rows(self, name: str) -> dict[str, Table]:
        """The rows of a recording that was done."""
        return read_rows(self._file(name))

    def _file(self, name: str) -> Path:
        return file_of(self.path, name)


def file_of(run: Path, name: str) -> Path:
    """The rows of a recording."""
    return run / f"{name}{SUFFIX}"


def files_in(path: Path) -> list[Path]:
    """The files of rows in a folder, or the one that `path` is. Raises InputError for none."""
    files = [path] if path.is_file() else sorted(path.glob(f"[!.]*{SUFFIX}"))
    if not files:
        raise InputError(
            f"run {path}: expected a folder that `instaseg evaluate -o` has written, "
            f"{'found no .parquet in it' if path.is_dir() else 'no such folder'}"
        )
    return files


def _facts_in(path: Path) -> dict[str, dict[str, Any]]:
    """By recording, of all the rows in a folder, which may not exist."""
    if path.exists() and not path.is_dir():
        raise ConfigError(f"output {path}: expected a folder, found a file")
    there = sorted(path.glob(f"[!.]*{SUFFIX}"))
    if path.exists() and not there and any(path.iterdir()):
        raise ConfigError(f"output {path}: expected an empty folder or one of an earlier run")
    return {file.stem: read_facts(file) for file in there}


def _plain(value: Mapping[str, Any]) -> Any:
    """As it comes back from JSON."""
    return json.loads(json.dumps(value, default=str))
