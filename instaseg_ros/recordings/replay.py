"""Replays a recording through the pipeline, reading, computing and writing at the same time."""

from __future__ import annotations

import logging
import time
from array import array
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from instaseg_ros.errors import ImageError, TruncatedInputError
from instaseg_ros.frames import Frame, Result
from instaseg_ros.recordings.sinks import Sink
from instaseg_ros.recordings.sources import Source

log = logging.getLogger(__name__)

AHEAD = 3  # frames read ahead of, and results waiting behind, the one in the network
REPORTED = 5  # bad frames that are reported one by one


class Processor(Protocol):
    """The part of a `Pipeline` that replay needs."""

    def process(self, frames: Sequence[Frame]) -> Sequence[Result]: ...


@dataclass(frozen=True, slots=True)
class Summary:
    """The outcome of a replay.

    labelled, skipped: frames with a result, and frames that could not be converted.
    seconds: wall time. stage_ms: (p50, p99) milliseconds by stage: the pipeline's own; `read` and
    `write`, which run in parallel; `wait_read` and `wait_write`, the time the network waited for
    these. broken: why the input ended too early; None if it did not.
    """

    labelled: int
    skipped: int
    seconds: float
    stage_ms: dict[str, tuple[float, float]]
    broken: TruncatedInputError | None = None

    @property
    def frames(self) -> int:
        """Frames read."""
        return self.labelled + self.skipped


def replay(
    source: Source,
    pipeline: Processor,
    sinks: Sequence[Sink],
    progress: Callable[[], object] = lambda: None,
    limit: int | None = None,
) -> Summary:
    """Send all frames of the source (or the first `limit`) through the pipeline to the sinks.

    `progress` is called after each frame. A frame that cannot be converted is counted, reported and
    skipped. If a broken input ends early, the sinks keep what they have and the summary says so;
    any other exception is raised here and discards what the sinks wrote. Without a single result
    nothing is kept either.
    """
    try:
        summary = _replay(source, pipeline, sinks, progress, limit)
        for sink in sinks:
            if summary.labelled:
                sink.close()
            else:
                sink.discard()
    except BaseException:
        for sink in sinks:
            sink.discard()
        raise
    return summary


def _replay(
    source: Source,
    pipeline: Processor,
    sinks: Sequence[Sink],
    progress: Callable[[], object],
    limit: int | None,
) -> Summary:
    samples_ms: dict[str, array[float]] = defaultdict(lambda: array("f"))
    frames = iter(source)

    def read() -> Frame | None:
        with _timed(samples_ms["read"]):
            return next(frames, None)

    def write(frame: Frame, result: Result) -> None:
        with _timed(samples_ms["write"]):
            for sink in sinks:
                sink.write(frame, result)

    labelled = skipped = 0
    broken: TruncatedInputError | None = None
    start = time.perf_counter()
    # One thread each, to keep the order; leaving the block waits for the few pending calls.
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        reads = deque(reader.submit(read) for _ in range(AHEAD))
        writes: deque[Future[None]] = deque()
        while limit is None or labelled + skipped < limit:
            try:
                reads.append(reader.submit(read))
                with _timed(samples_ms["wait_read"]):
                    frame = reads.popleft().result()
                if frame is None:
                    break
                result = pipeline.process([frame])[0]
            except ImageError as error:
                skipped += 1
                _report(skipped, labelled + skipped, error)
            except TruncatedInputError as error:
                broken = error
                break
            else:
                labelled += 1
                for stage, milliseconds in result.stage_ms.items():
                    samples_ms[stage].append(milliseconds)
                with _timed(samples_ms["wait_write"]):
                    if len(writes) == AHEAD:
                        writes.popleft().result()
                writes.append(writer.submit(write, frame, result))
            progress()
        for last in writes:
            last.result()
    seconds = time.perf_counter() - start
    return Summary(labelled, skipped, seconds, _percentiles(samples_ms), broken)


def _report(skipped: int, number: int, error: ImageError) -> None:
    if skipped <= REPORTED:
        log.warning("frame %d skipped: %s", number, error)
    if skipped == REPORTED:
        log.warning("further skipped frames are only counted")


@contextmanager
def _timed(samples_ms: array[float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    samples_ms.append((time.perf_counter() - start) * 1e3)


def _percentiles(samples_ms: Mapping[str, array[float]]) -> dict[str, tuple[float, float]]:
    """(p50, p99) by stage."""
    return {
        stage: (float(np.percentile(samples, 50)), float(np.percentile(samples, 99)))
        for stage, samples in samples_ms.items()
        if samples
    }
