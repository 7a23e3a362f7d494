"""Writes files whole or not at all: outputs, and a cache of what can be made again."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import logging
import os
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from instaseg_ros.errors import ConfigError

MAX_CACHE_BYTES = 256 << 20  # per kind of cached file; the least recently used go first
PART = ".part-"  # in the name of a file that is being written
DAY_S = 86400

log = logging.getLogger(__name__)
_warned: set[str] = set()  # troubles with the cache already warned of


class OutputFile:
    """A file or folder that is written under a temporary name (`part`, beside it) until `commit`.

    Raises ConfigError rather than replace what exists, unless `overwrite` is set; a folder without
    `marker`, the file that identifies such an output, is never replaced.
    """

    def __init__(self, path: str | Path, overwrite: bool, marker: str = "") -> None:
        self.path = Path(path)
        self.part = part_of(self.path)
        if self.path.exists() and not overwrite:
            raise ConfigError(f"output {path} exists: choose another name, or give --overwrite")
        ours = self.path.is_file() if not marker else (self.path / marker).is_file()
        if self.path.exists() and not ours:
            expected = f"a folder with {marker}" if marker else "a file"
            raise ConfigError(f"output {path} is not replaced: expected {expected}")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for left in _parts_of(self.path):
            log.warning("%s exists: another run is writing it, or was killed and left this", left)

    def commit(self) -> None:
        """Give the finished output its name."""
        publish(self.part, self.path)

    def discard(self) -> None:
        """Remove the unfinished output."""
        _remove(self.part)


def part_of(path: Path) -> Path:
    """A unique name beside `path`, with the same suffix."""
    return path.with_name(f"{path.stem}{PART}{uuid.uuid4().hex[:8]}{path.suffix}")


def _parts_of(path: Path) -> list[Path]:
    """Unfinished outputs for `path` of other runs, running or killed."""
    stem, suffix = glob.escape(path.stem), glob.escape(path.suffix)
    return sorted(path.parent.glob(f"{stem}{PART}{'[0-9a-f]' * 8}{suffix}"))


def publish(part: Path, path: Path) -> None:
    """Rename the file or folder `part` to `path`, replacing what is there.

    It is flushed to disk first, so that not even a power failure leaves half of it under that name.
    """
    for written in (part, *part.rglob("*")):
        _sync(written)
    replaced = part_of(path)
    if part.is_dir() and path.is_dir():  # a rename cannot replace a folder
        os.replace(path, replaced)
    os.replace(part, path)
    _sync(path.parent)
    _remove(replaced)


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary name to write a file under; it becomes `path` if the block ends without error."""
    part = part_of(path)
    try:
        yield part
        publish(part, path)
    finally:
        _remove(part)


def write_whole(path: Path, content: bytes) -> None:
    """Write the file, whole or not at all."""
    with written_whole(path) as part:
        part.write_bytes(content)


def _sync(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder that may be written but not read
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (
            errno.EINVAL,
            errno.ENOTSUP,
        ):  # this file system cannot flush folders
            raise
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def cache_dir() -> Path:
    """The cache folder: `INSTASEG_CACHE`, else `$XDG_CACHE_HOME/instaseg_ros`."""
    if given := os.environ.get("INSTASEG_CACHE"):
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    # Without a home `~` stays as it is.
    return _temporary() if base.startswith("~") else Path(base) / "instaseg_ros"


def _temporary() -> Path:
    """The cache of a user without a home; unused unless only this user can write (`_untrusted`)."""
    # Not tempfile.gettempdir(), which fails if nothing can be written.
    return Path(os.environ.get("TMPDIR") or "/tmp") / f"instaseg_ros-{os.geteuid()}"


class Cache:
    """Reproducible bytes of one kind, by name, in a folder of `cache_dir()`.

    Only a convenience: if it is damaged, read-only, full or somebody else's, things are rebuilt,
    at the cost of time and one warning for each trouble. A digest in front of the content proves
    that it is what was written. As it may be machine code, nothing is read that another user could
    have written. Content that was read stays valid when its file is removed.
    """

    SUFFIX = ".cached"  # of our files, so that no other file is ever removed

    def __init__(self, kind: str, root: str | Path | None = None) -> None:
        """root: used instead of `cache_dir()`."""
        self._kind, self._root = kind, root

    def read(self, name: str) -> bytes | None:
        """The content written under this name; None if there is none, or it is damaged."""
        for folder in self._folders():
            path = self._path(folder, name)
            try:
                content = _verified(path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except ValueError as error:
                _warn("content", f"cache: {path} is rebuilt, because {error}")
                continue
            except OSError as error:
                _warn("access", f"cache: {path} cannot be read and is rebuilt ({error})")
                continue
            with contextlib.suppress(OSError):
                os.utime(path)  # mark as used: not every file system does it
            return content
        return None

    def write(self, name: str, content: bytes) -> None:
        """Keep the content under this name, if possible."""
        for folder in self._folders():
            try:
                folder.mkdir(mode=0o755, parents=True, exist_ok=True)
                with written_whole(self._path(folder, name)) as part:
                    part.touch(0o644)  # nobody else may write, whatever the umask
                    part.write_bytes(hashlib.sha256(content).digest() + content)
                self._trim(folder)
                return
            except OSError as error:
                _warn(
                    "access",
                    f"cache: {folder} cannot be written ({error}), so nothing is kept between "
                    "runs; set INSTASEG_CACHE to another folder",
                )

    def forget(self, name: str) -> None:
        """Remove the content under this name."""
        for folder in self._folders():
            with contextlib.suppress(OSError):
                self._path(folder, name).unlink()

    def names(self) -> list[str]:
        """All names with content."""
        found = (path.name for folder in self._folders() for path in folder.glob(f"*{self.SUFFIX}"))
        return sorted({name.removesuffix(self.SUFFIX) for name in found if PART not in name})

    def path(self, name: str) -> Path:
        """The path where this name is kept, or would be."""
        paths = [self._path(folder, name) for folder in self._folders()]
        usual = self._path(Path(self._root or cache_dir(), self._kind), name)
        return next((path for path in paths if path.exists()), usual)

    def _trim(self, folder: Path) -> None:
        """Keep the most recently used files, at most MAX_CACHE_BYTES in all."""
        found = []
        for path in folder.glob(f"*{self.SUFFIX}"):
            with contextlib.suppress(OSError):  # another process trims too
                facts = path.stat()
                if PART not in path.name:
                    found.append((facts.st_mtime_ns, facts.st_size, path))
                elif facts.st_mtime < time.time() - DAY_S:
                    path.unlink()  # of a run that was killed
        total = 0
        for _, size, path in sorted(found, reverse=True):
            total += size
            if total > max(MAX_CACHE_BYTES, size):
                path.unlink(missing_ok=True)

    def _path(self, folder: Path, name: str) -> Path:
        return folder / f"{name}{self.SUFFIX}"

    def _folders(self) -> list[Path]:
        """The trusted folders; the second is used if the first cannot be written."""
        folders = [Path(root, self._kind) for root in (self._root or cache_dir(), _temporary())]
        return [folder for folder in folders if not _untrusted(folder)]


def _untrusted(folder: Path) -> bool:
    """Whether somebody else may write there."""
    try:
        reason = _open_to_others(folder.stat())
    except OSError:
        return False  # it does not exist: it will be ours
    if reason:
        _warn(
            "trust",
            f"cache: {folder} is not used, because {reason}; expected a folder that only this user "
            "may write to (chown, chmod go-w); INSTASEG_CACHE can name another",
        )
    return bool(reason)


def _open_to_others(found: os.stat_result) -> str:
    """Why another user could have written what was found; empty if none could."""
    if found.st_uid not in (os.geteuid(), 0):  # root can do anything anyway
        return f"it belongs to user {found.st_uid}, not to {os.geteuid()}"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others may write to it (mode {stat.S_IMODE(found.st_mode):o})"
    return ""


def _verified(path: Path) -> bytes:
    """The content of a cache file. Raises ValueError if it is damaged or not ours."""
    with path.open("rb") as file:
        if reason := _open_to_others(os.fstat(file.fileno())):
            raise ValueError(reason)
        digest, content = file.read(hashlib.sha256().digest_size), file.read()
    if hashlib.sha256(content).digest() != digest:
        raise ValueError("it is damaged")
    return content


def _warn(trouble: str, message: str) -> None:
    """Warn once per process and kind of trouble: it is the same for every file."""
    if trouble not in _warned:
        _warned.add(trouble)
        log.warning("%s", message)
