"""CUDA graphs: launches recorded once, then started all together.

All recording of this package goes through here, because a capture concerns more than what it
records: one at a time in a process; while it lasts no other thread may wait for the whole device
(`torch.cuda.synchronize`; waiting for an event or a stream is fine); and where it fails, torch
leaves the thread on the capture stream, so that later work would run beside what it depends on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from weakref import WeakSet

import torch

log = logging.getLogger(__name__)

T = TypeVar("T")

_lock = threading.Lock()
# torch's allocator goes on asking a graph whose capture failed whether memory is for it.
_failed: list[Any] = []


@dataclass(frozen=True, eq=False)
class Recording(Generic[T]):
    """Recorded work. `result` is what it returned: the memory that each replay fills anew."""

    graph: Any  # torch.cuda.CUDAGraph
    result: T

    def replay(self) -> T:
        """Start the work on the current stream, after what was started there before."""
        self.graph.replay()
        return self.result


class Recorder:
    """Records work of one kind on one device, until that fails once.

    Recordings of one recorder share a pool of memory: what one keeps between two of its steps, and
    its result, may lie where another writes. So replay those of one recorder on one stream, and let
    the work that reads a result be on that stream before the next replay of any of them; copy what
    is to outlive that. Work that may run at the same time needs a recorder each.
    A pool is given back with the last recording of it; until then it grows to what the largest
    one needs, not to the sum of all.
    """

    def __init__(self, device: torch.device, kind: str) -> None:
        """kind: what is recorded, in words, for the log."""
        self.device = device
        self.kind = kind
        self.works = True  # no recording has failed
        self._stream: Any = None  # torch shares a pool's memory between captures on one stream
        self._pool: Any = None
        self._recordings = WeakSet[Recording[Any]]()

    def record(self, work: Callable[[], T]) -> Recording[T] | None:
        """The work, recorded but not run; None where it cannot be: then, and from then on, call it.

        work: launches on the current stream and waits for nothing. It has run before, so that
        whatever is compiled, loaded or chosen at first is there. What it reads and writes must
        stay where it is as long as the recording lives.
        """
        if not self.works:
            return None
        with _lock, torch.cuda.device(self.device):
            before = torch.cuda.current_stream()
            graph = torch.cuda.CUDAGraph()
            try:
                if self._stream is None:
                    self._stream = torch.cuda.Stream()
                if not self._recordings:  # torch refuses a pool that no graph uses any more
                    self._pool = torch.cuda.graph_pool_handle()
                with torch.cuda.graph(
                    graph, self._pool, self._stream, capture_error_mode="thread_local"
                ):
                    result = work()
            except Exception as error:  # of CUDA, cuDNN, Triton, Inductor: whatever refuses
                self.works = False
                _failed.append(graph)
                cause = error.__context__ or error  # that of the work, before the capture's own
                reason = (str(cause) or repr(cause)).splitlines()[0]
                log.warning(
                    "%s on %s is not recorded as a CUDA graph, and slower: %s",
                    self.kind,
                    self.device,
                    reason,
                )
                return None
            finally:
                torch.cuda.set_stream(before)
        recording = Recording(graph, result)
        self._recordings.add(recording)
        return recording
