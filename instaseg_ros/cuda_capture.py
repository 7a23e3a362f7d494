"""Records CUDA graphs: launches recorded once, then started all together.

All recording in this package goes through here, because a capture affects more than what it
records: only one may run in a process at a time; meanwhile no other thread may wait for the whole
device (`torch.cuda.synchronize`; waiting for an event or a stream is fine); and if it fails, torch
leaves the thread on the capture stream, so later work would run beside work it depends on.
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
# torch's allocator keeps asking a graph whose capture failed whether memory belongs to it.
_failed: list[Any] = []


@dataclass(frozen=True, eq=False)
class Recording(Generic[T]):
    """Recorded work. `result` is what it returned: memory that each replay fills anew."""

    graph: Any  # torch.cuda.CUDAGraph
    result: T

    def replay(self) -> T:
        """Start the work on the current stream, after earlier work there."""
        self.graph.replay()
        return self.result


class Recorder:
    """Records one kind of work on one device, until a recording fails.

    Recordings of one recorder share a memory pool: the intermediate values and the result of one
    may lie where another writes. So replay them all on one stream, and put the work that reads a
    result on that stream before the next replay of any of them; copy whatever must live longer.
    Work that may run at the same time needs separate recorders.

    The pool is freed with its last recording; until then it grows to what the largest recording
    needs, not to the sum of all.
    """

    def __init__(self, device: torch.device, kind: str) -> None:
        """kind: a description of the work, for the log."""
        self.device = device
        self.kind = kind
        self.works = True  # no recording has failed
        self._stream: Any = None  # torch shares a pool's memory between captures on one stream
        self._pool: Any = None
        self._recordings = WeakSet[Recording[Any]]()

    def record(self, work: Callable[[], T]) -> Recording[T] | None:
        """Record the work without running it; None if it cannot be recorded: from then on, call it.

        work: launches on the current stream and waits for nothing. It must have run before, so that
        everything is compiled, loaded and chosen. The memory it reads and writes must stay in
        place as long as the recording lives.
        """
        if not self.works:
            return None
        with _lock, torch.cuda.device(self.device):
            before = torch.cuda.current_stream()
            graph = torch.cuda.CUDAGraph()
            try:
                if self._stream is None:
                    self._stream = torch.cuda.Stream()
                if not self._recordings:  # torch refuses a pool that no graph uses
                    self._pool = torch.cuda.graph_pool_handle()
                with torch.cuda.graph(
                    graph, self._pool, self._stream, capture_error_mode="thread_local"
                ):
                    result = work()
            except Exception as error:  # from CUDA, cuDNN, Triton or Inductor
                self.works = False
                _failed.append(graph)
                _renew_generator()
                cause = error.__context__ or error  # the work's error comes before the capture's
                reason = (str(cause) or repr(cause)).splitlines()[0]
                log.warning(
                    "%s on %s cannot be recorded as a CUDA graph and will be slower: %s",
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


def _renew_generator() -> None:
    """torch leaves random numbers of the current device to a capture that failed, and refuses them
    to everybody else, such as dropout in training: go on with a copy of their state."""
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    if hasattr(generator, "graphsafe_set_state"):  # torch 2.5
        generator.graphsafe_set_state(generator.clone_state())
