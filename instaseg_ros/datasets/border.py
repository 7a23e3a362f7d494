"""Where files become samples: an error of a parser that nobody foresaw becomes ours, named."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from instaseg_ros.errors import InputError, InstasegError
from instaseg_ros.samples import Dataset, Sample

Reader = TypeVar("Reader", bound=Dataset)


@contextmanager
def named(where: str, problem: str = "cannot be read") -> Iterator[None]:
    """Raise InputError that begins with `where` and `problem` for anything but an InstasegError."""
    try:
        yield
    except InstasegError:
        raise
    except Exception as error:  # of whatever kind: it comes from what the files hold
        raise InputError(f"{where}: {problem}; {type(error).__name__}: {error}") from error


def reads_files(read: Callable[[Reader, int], Sample]) -> Callable[[Reader, int], Sample]:
    """Of a reader's `__getitem__`: errors have the names of the sample's files."""

    @functools.wraps(read)
    def guarded(dataset: Reader, index: int) -> Sample:
        files = dataset.files(index)  # an IndexError of its own stays one: it ends a loop
        with named(", ".join(map(str, files))):
            return read(dataset, index)

    return guarded
