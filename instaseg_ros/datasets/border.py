"""Turns unforeseen errors of parsers into InputErrors that name the file."""

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
    """Turn any other error than an InstasegError into an InputError that begins with `where` and
    `problem`."""
    try:
        yield
    except InstasegError:
        raise
    except Exception as error:  # any kind, depending on the files' content
        raise InputError(f"{where}: {problem}; {type(error).__name__}: {error}") from error


def reads_files(read: Callable[[Reader, int], Sample]) -> Callable[[Reader, int], Sample]:
    """Decorate a reader's `__getitem__`, so that errors name the sample's files."""

    @functools.wraps(read)
    def guarded(dataset: Reader, index: int) -> Sample:
        files = dataset.files(index)  # an IndexError here must stay one: it ends a loop
        with named(", ".join(map(str, files))):
            return read(dataset, index)

    return guarded
