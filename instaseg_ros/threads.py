"""Shares the work on an image between threads; keeps a thread's memory between images."""

from __future__ import annotations

import functools
import itertools
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

_local = threading.local()


def each(function: Callable[[Any], None], items: Sequence[Any]) -> None:
    """Call the function on each item, in as many threads as torch may use."""
    threads = torch.get_num_threads()
    if threads == 1 or len(items) == 1:
        for item in items:
            function(item)
    else:
        left = iter(items)  # each thread takes the next item when it is free

        def work() -> None:
            for item in left:
                function(item)

        running = [_pool(threads).submit(work) for _ in range(min(threads, len(items)))]
        wait(running)
        for one in running:
            one.result()  # raises what a call raised


def shares(n: int, most: int) -> list[tuple[int, int]]:
    """Split n items into ranges (first, end) of about equal length, at most `most`, with equally
    many for each thread."""
    threads = torch.get_num_threads()
    edges = np.linspace(0, n, threads * math.ceil(n / (threads * most)) + 1).astype(int).tolist()
    return list(itertools.pairwise(edges))


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads in which torch starts none of its own, as those would spin while waiting for work."""
    started = threading.Barrier(threads + 1)

    def start() -> None:
        torch.get_num_threads()  # the first call initialises a thread's number
        torch.set_num_threads(1)  # for this thread and for later ones
        started.wait()

    pool = ThreadPoolExecutor(threads, thread_name_prefix="clustering", initializer=start)
    for _ in range(threads):
        pool.submit(int)
    started.wait()
    torch.set_num_threads(threads)  # for later ones: as before
    return pool


def buffer(name: str, dtype: Any, *shape: int) -> NDArray[Any]:
    """An uninitialised array in memory that this thread keeps under the name between images."""
    size = math.prod(shape)
    kept = getattr(_local, name, None)
    if kept is None or kept.size < size:
        kept = np.empty(size + size // 4, dtype)
        setattr(_local, name, kept)
    return kept[:size].reshape(shape)
