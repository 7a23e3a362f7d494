"""Files that are there whole or not at all: outputs, and the cache of what can be made again."""

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

MAX_CACHE_BYTES = 256 << 20  # of each kind of things in the cache: what was not used longest goes
PART = ".part-"  # in the name of what is being written
DAY_S = 86400

log = logging.getLogger(__name__)
_warned: set[str] = set()  # troubles with the cache that were told already


class OutputFile:
    """A file or folder written under a name of its own (`part`, beside it) until `commit`.

    Refuses, with ConfigError, to replace what exists unless `overwrite`; and in any case a folder
    that does not hold `marker`, the file by which such an output is known.
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
            log.warning("%s is there: another run writes it, or was killed; then remove it", left)

    def commit(self) -> None:
        """Give the whole output its name."""
        publish(self.part, self.path)

    def discard(self) -> None:
        """Remove what was written."""
        _remove(self.part)


def part_of(path: Path) -> Path:
    """A name beside `path`, of the same suffix, that nobody else has."""
    return path.with_name(f"{path.stem}{PART}{uuid.uuid4().hex[:8]}{path.suffix}")


def _parts_of(path: Path) -> list[Path]:
    """What runs that write `path` now, or were killed, have of it."""
    stem, suffix = glob.escape(path.stem), glob.escape(path.suffix)
    return sorted(path.parent.glob(f"{stem}{PART}{'[0-9a-f]' * 8}{suffix}"))


def publish(part: Path, path: Path) -> None:
    """Give the file or folder `part` the name `path`, in the place of what has it.

    It is on the disk before, so that not even a power failure leaves half of it under that name.
    """
    for written in (part, *part.rglob("*")):
        _sync(written)
    replaced = part_of(path)
    if part.is_dir() and path.is_dir():  # which no folder can take the name of
        os.replace(path, replaced)
    os.replace(part, path)
    _sync(path.parent)
    _remove(replaced)


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A name to write a file under, which becomes `path` when the block ends, if it does well."""
    part = part_of(path)
    try:
        yield part
        publish(part, path)
    finally:
        _remove(part)


def write_whole(path: Path, content: bytes) -> None:
    """Write the file complete or not at all."""
    with written_whole(path) as part:
        part.write_bytes(content)


def _sync(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder that may be written, not read
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # such a file system has no such thing
            raise
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def cache_dir() -> Path:
    """Folder for what can be made again: `INSTASEG_CACHE`, else `$XDG_CACHE_HOME/instaseg_ros`."""
    if given := os.environ.get("INSTASEG_CACHE"):
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    # Without a home `~` stays as it is.
    return _temporary() if base.startswith("~") else Path(base) / "instaseg_ros"


def _temporary() -> Path:
    """The cache of who has no other; it is this user's alone, or is not used (`_untrusted`)."""
    # Not tempfile.gettempdir(), which fails where nothing can be written.
    return Path(os.environ.get("TMPDIR") or "/tmp") / f"instaseg_ros-{os.geteuid()}"


class Cache:
    """Bytes of one kind that can be made again, by name, in a folder of `cache_dir()`.

    A convenience: where it is torn, read-only, full or somebody else's, things are made anew, at
    the cost of time and one warning of each trouble. What is read is what was written: a digest
    stands before it. As it may be machine code, nothing is read that another user could have
    written. Whatever was read stays good when its file goes.
    """

    SUFFIX = ".cached"  # of our files, so that no others are ever removed

    def __init__(self, kind: str, root: str | Path | None = None) -> None:
        """root: instead of `cache_dir()`."""
        self._kind, self._root = kind, root

    def read(self, name: str) -> bytes | None:
        """What was written under this name; None where there is nothing, or nothing whole."""
        for folder in self._folders():
            path = self._path(folder, name)
            try:
                content = _verified(path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except ValueError as error:
                _warn("content", f"cache: {path} is made anew, as {error}")
                continue
            except OSError as error:
                _warn("access", f"cache: {path} cannot be read, and is made anew ({error})")
                continue
            with contextlib.suppress(OSError):
                os.utime(path)  # used now; not every file system notes it by itself
            return content
        return None

    def write(self, name: str, content: bytes) -> None:
        """Keep it under this name, if that can be done."""
        for folder in self._folders():
            try:
                folder.mkdir(mode=0o755, parents=True, exist_ok=True)
                with written_whole(self._path(folder, name)) as part:
                    part.touch(0o644)  # whatever the umask, nobody else may write
                    part.write_bytes(hashlib.sha256(content).digest() + content)
                self._trim(folder)
                return
            except OSError as error:
                _warn(
                    "access",
                    f"cache: {folder} cannot be written ({error}), so what is kept there will be "
                    "made anew; INSTASEG_CACHE names another folder",
                )

    def forget(self, name: str) -> None:
        """Keep it no longer, as it turned out to be of no use."""
        for folder in self._folders():
            with contextlib.suppress(OSError):
                self._path(folder, name).unlink()

    def names(self) -> list[str]:
        """All names that something is kept under."""
        found = (path.name for folder in self._folders() for path in folder.glob(f"*{self.SUFFIX}"))
        return sorted({name.removesuffix(self.SUFFIX) for name in found if PART not in name})

    def path(self, name: str) -> Path:
        """Where that is kept, or would be."""
        paths = [self._path(folder, name) for folder in self._folders()]
        usual = self._path(Path(self._root or cache_dir(), self._kind), name)
        return next((path for path in paths if path.exists()), usual)

    def _trim(self, folder: Path) -> None:
        """Keep the files used last, and no more than MAX_CACHE_BYTES of them."""
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
        """Those that can be trusted; the second is for when the first cannot be written."""
        folders = [Path(root, self._kind) for root in (self._root or cache_dir(), _temporary())]
        return [folder for folder in folders if not _untrusted(folder)]


def _untrusted(folder: Path) -> bool:
    """Whether somebody else may put files there."""
    try:
        reason = _open_to_others(folder.stat())
    except OSError:
        return False  # there is none: it will be ours
    if reason:
        _warn(
            "trust",
            f"cache: {folder} is not used, as {reason}; expected a folder that this user alone may "
            "write to (chown, chmod go-w); INSTASEG_CACHE names another",
        )
    return bool(reason)


def _open_to_others(found: os.stat_result) -> str:
    """Why what was found could be another user's work; empty if it could not."""
    if found.st_uid not in (os.geteuid(), 0):  # root needs no cache to do what it likes
        return f"it belongs to user {found.st_uid}, not to {os.geteuid()}"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others may write to it (mode {stat.S_IMODE(found.st_mode):o})"
    return ""


def _verified(path: Path) -> bytes:
    """The content of a file of the cache. Raises ValueError for one not whole, or not ours."""
    with path.open("rb") as file:
        if reason := _open_to_others(os.fstat(file.fileno())):
            raise ValueError(reason)
        digest, content = file.read(hashlib.sha256().digest_size), file.read()
    if hashlib.sha256(content).digest() != digest:
        raise ValueError("it is damaged")
    return content


def _warn(trouble: str, message: str) -> None:
    """Once in a process: the second file has the trouble of the first."""
    if trouble not in _warned:
        _warned.add(trouble)
        log.warning("%s", message)
