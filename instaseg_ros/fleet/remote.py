"""Recordings that are not on this machine: `s3://` and all that fsspec reads.

They are copied whole into the cache before they are read. A recording is read twice, once for its
stamps and once for its frames, and SQLite, compressed files and damaged ones need a file anyway; a
copy costs one pass over the network, and the next evaluation none.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from instaseg_ros.errors import ConfigError, InputError, MissingExtraError, require
from instaseg_ros.files import cache_dir, written_whole
from instaseg_ros.recordings.recording import reason

URL = re.compile(r"(?P<protocol>[a-z][a-z0-9+.-]*)://")
EXTRA = "remote"
KIND = "recordings"  # folder in the cache
LIMIT = "INSTASEG_COPIES_GB"  # environment variable: how much all copies may take
LIMIT_GB = 100.0
MARKS = ("ETag", "etag", "md5Hash", "LastModified", "mtime", "updated", "created")

log = logging.getLogger(__name__)


class RemoteFile(NamedTuple):
    """A file of a recording: its size in bytes, and text that changes with its content."""

    name: str
    path: str
    size: int
    mark: str


@dataclass(frozen=True)
class Remote:
    """A recording by its URL. Raises ConfigError or MissingExtraError if nothing here reads it."""

    url: str

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigError(f"recording {self.url}: expected the URL of a file or a folder")
        self._opened()

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """Of the file or folder."""
        return PurePosixPath(URL.sub("", self.url, count=1)).name

    def files(self) -> list[RemoteFile]:
        """The file, or those of the folder, by name. Raises InputError if there are none."""
        system, path = self._opened()
        with self._reading():
            system.invalidate_cache()
            found = system.find(path, maxdepth=1, detail=True)
        if not found:
            raise InputError(f"recording {self.url}: no such file or folder")
        return [
            RemoteFile(PurePosixPath(name).name, name, int(one.get("size") or 0), _mark(one))
            for name, one in sorted(found.items())
        ]

    def copy(self, files: list[RemoteFile], path: Path) -> None:
        """Copy the files to `path`, a file or a folder. Raises InputError if one cannot be."""
        system, own = self._opened()
        with self._reading():
            if [one.path for one in files] == [own]:
                system.get_file(own, str(path))
                return
            path.mkdir()
            for one in files:
                system.get_file(one.path, str(path / one.name))

    def _opened(self) -> tuple[Any, str]:
        """The file system of fsspec, and the path in it."""
        require("fsspec", EXTRA, f"reading {self.url}")
        from fsspec.core import url_to_fs

        try:
            system, path = url_to_fs(self.url)
        except ImportError as error:
            package = re.search(r"[Ii]nstall (\w+)", str(error))
            name = package.group(1) if package else str(error.name)
            raise MissingExtraError(name, EXTRA, f"reading {self.url}") from error
        except Exception as error:  # of the file system's own kind: an option, a user, ...
            raise ConfigError(f"{self.url} cannot be read: {reason(error)}") from error
        return system, path

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Whatever a file system raises becomes an InputError with the URL."""
        try:
            yield
        except Exception as error:
            raise InputError(f"recording {self.url} cannot be read: {reason(error)}") from error


Place = Path | Remote


def place_of(text: str) -> Place:
    """Of an argument. Raises ConfigError or MissingExtraError as `Remote` does."""
    return Remote(text) if is_url(text) else Path(text)


def is_url(text: str) -> bool:
    return URL.match(text) is not None


@contextmanager
def local_copy(remote: Remote) -> Iterator[Path]:
    """The path of the recording's copy, which nothing removes within the block.

    One that was made of the same files is used again. When all copies together exceed LIMIT, those
    that have not been used for longest are removed. Raises InputError if it cannot be copied.
    """
    lock, path = _copied(remote)
    with lock:
        yield path


def _copied(remote: Remote) -> tuple[IO[str], Path]:
    """The open lock that keeps the copy, and its path."""
    files = remote.files()
    about = json.dumps([remote.url, files])
    folder = cache_dir() / KIND / hashlib.sha256(about.encode()).hexdigest()[:16]
    path = folder / remote.name
    try:
        folder.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        lock = _lock_of(folder).open("a")
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be copying or removing it
        folder.mkdir(exist_ok=True)
        if not path.exists():
            size = sum(one.size for one in files)
            _make_room(folder.parent, size)
            log.info("copying %s, %.3f GB", remote.url, size / 1e9)
            with written_whole(path) as part:
                remote.copy(files, part)
        os.utime(folder)
        fcntl.flock(lock, fcntl.LOCK_SH)
    except OSError as error:
        raise InputError(
            f"recording {remote.url} cannot be copied to {folder}: {error}; INSTASEG_CACHE names "
            "another folder"
        ) from error
    return lock, path


def _make_room(kind: Path, needed: int) -> None:
    """Remove copies that nobody reads, those not used for longest first, until there is room for
    `needed` bytes."""
    found = [(one.stat().st_mtime_ns, _size(one), one) for one in kind.iterdir() if one.is_dir()]
    total = sum(size for _, size, _ in found)
    limit = limit_bytes()
    for _, size, folder in sorted(found):
        if total + needed <= limit and shutil.disk_usage(kind).free > needed:
            return
        with _lock_of(folder).open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(folder, ignore_errors=True)
            total -= size


def limit_bytes() -> int:
    """How much all copies may take. Raises ConfigError for another value than a number above 0."""
    text = os.environ.get(LIMIT, "")
    try:
        found = float(text) if text else LIMIT_GB
    except ValueError:
        found = 0.0
    if not 0 < found < 1e9:
        raise ConfigError(f"{LIMIT}: expected a number of gigabytes above 0, got {text}")
    return int(found * 1e9)


def _size(folder: Path) -> int:
    return sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())


def _lock_of(folder: Path) -> Path:
    """Beside the folder, so that it outlives it."""
    return folder.with_name(f"{folder.name}.lock")


def _mark(found: dict[str, Any]) -> str:
    return str(next((found[key] for key in MARKS if found.get(key)), ""))
