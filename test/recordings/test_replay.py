"""The replay loop: order, overlap, bounded memory, and what happens when something breaks."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import written_recordings
from written_recordings import StandInPipeline, noise_image, stamp_ns

from instaseg_ros.config import Config
from instaseg_ros.errors import ImageError, TruncatedInputError
from instaseg_ros.frames import Frame
from instaseg_ros.recordings import result_messages
from instaseg_ros.recordings.bags import IMAGE, BagSource, BagWriter
from instaseg_ros.recordings.message_types import make_header
from instaseg_ros.recordings.replay import AHEAD, replay
from instaseg_ros.recordings.sinks import CallbackSink, open_sink
from instaseg_ros.recordings.sources import open_source


class ListSource:
    """Frames by index; `bad` ones cannot be read; the input breaks off before `breaks_at`."""

    def __init__(self, total, bad=(), breaks_at=None):
        self.total, self.bad, self.breaks_at = total, bad, breaks_at
        self.given = 0
        self.threads = set()

    def __iter__(self):
        return map(self._read, self._indices())

    def _indices(self):
        for i in range(self.total):
            if i == self.breaks_at:
                raise TruncatedInputError(f"breaks off at {i}")
            yield i

    def _read(self, index):
        self.threads.add(threading.get_ident())
        self.given += 1
        if index in self.bad:
            raise ImageError(f"bad frame {index}")
        return Frame(noise_image(index), stamp_ns(index))


class ListSink:
    """Keeps what it gets; `breaks_at` as the disk that is full."""

    def __init__(self, breaks_at=None):
        self.results, self.ended, self.breaks_at = [], "", breaks_at
        self.threads = set()

    def write(self, frame, result):
        self.threads.add(threading.get_ident())
        if len(self.results) == self.breaks_at:
            raise OSError("disk full")
        self.results.append((frame, result))

    def close(self):
        self.ended += "closed"

    def discard(self):
        self.ended += "discarded"

    def stamps(self):
        return [frame.stamp_ns for frame, _ in self.results]


def test_every_frame_in_order_into_every_sink():
    sinks = [ListSink(), ListSink()]
    seen = []
    summary = replay(ListSource(20), StandInPipeline(), sinks, lambda: seen.append(1))
    assert (summary.frames, summary.labelled, summary.skipped, len(seen)) == (20, 20, 0, 20)
    assert summary.broken is None
    for sink in sinks:
        assert sink.ended == "closed"
        assert sink.stamps() == [stamp_ns(i) for i in range(20)]
    for i, (frame, result) in enumerate(sinks[0].results):
        np.testing.assert_array_equal(frame.image, noise_image(i))
        np.testing.assert_array_equal(
            result.instances.labels, written_recordings.two_instances(i).labels
        )


def test_stages_have_percentiles():
    summary = replay(ListSource(5), StandInPipeline(), [ListSink()])
    assert summary.stage_ms["network"] == (1.5, 1.5)
    assert {"read", "write", "wait_read", "wait_write"} < summary.stage_ms.keys()
    assert all(0 <= p50 <= p99 for p50, p99 in summary.stage_ms.values())
    assert summary.seconds > 0


def test_reading_network_and_writing_have_a_thread_each():
    source, sink = ListSource(5), ListSink()
    replay(source, StandInPipeline(), [sink])
    threads = source.threads | sink.threads | {threading.get_ident()}
    assert len(source.threads) == len(sink.threads) == 1
    assert len(threads) == 3


def test_reading_does_not_run_away():
    source = ListSource(60)
    ahead = []

    class Watching(StandInPipeline):
        done = 0

        def process(self, frames):
            ahead.append(source.given - self.done)
            self.done += 1
            return super().process(frames)

    replay(source, Watching(), [ListSink()])
    assert max(ahead) <= AHEAD + 1


def test_writing_does_not_pile_up():
    gate, waiting = threading.Semaphore(0), []

    class Slow(ListSink):
        def write(self, frame, result):
            gate.acquire(timeout=10)
            super().write(frame, result)

    class Watching(StandInPipeline):
        done = 0

        def process(self, frames):
            self.done += 1
            waiting.append(self.done - len(sink.results))
            gate.release()
            return super().process(frames)

    sink = Slow()
    replay(ListSource(30), Watching(), [sink])
    assert len(sink.results) == 30
    assert max(waiting) <= AHEAD + 2


def test_bad_frames_are_counted_reported_and_skipped(caplog):
    sink = ListSink()
    summary = replay(ListSource(12, bad=range(2, 10)), StandInPipeline(), [sink])
    assert (summary.frames, summary.labelled, summary.skipped) == (12, 4, 8)
    assert sink.stamps() == [stamp_ns(i) for i in (0, 1, 10, 11)]
    assert "frame 3 skipped: bad frame 2" in caplog.text
    assert "bad frame 9" not in caplog.text  # the first few are enough
    assert "only counted" in caplog.text


def test_frame_that_the_pipeline_refuses_is_skipped():
    class Refusing(StandInPipeline):
        def process(self, frames):
            if frames[0].stamp_ns == stamp_ns(1):
                raise ImageError("of another size")
            return super().process(frames)

    summary = replay(ListSource(3), Refusing(), [ListSink()])
    assert (summary.labelled, summary.skipped) == (2, 1)


def test_broken_input_keeps_what_there_is():
    sink = ListSink()
    summary = replay(ListSource(9, bad=[1], breaks_at=6), StandInPipeline(), [sink])
    assert (summary.labelled, summary.skipped) == (5, 1)
    assert "breaks off at 6" in str(summary.broken)
    assert sink.ended == "closed"


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_limit(limit):
    sink = ListSink()
    summary = replay(ListSource(7, bad=[1]), StandInPipeline(), [sink], limit=limit)
    assert summary.frames == limit
    assert len(sink.results) == limit - (limit > 1)


def test_error_in_a_sink_comes_out_and_nothing_is_kept():
    full, other = ListSink(breaks_at=3), ListSink()
    with pytest.raises(OSError, match="disk full"):
        replay(ListSource(50), StandInPipeline(), [other, full])
    assert (full.ended, other.ended) == ("discarded", "discarded")


def test_error_in_the_last_write_comes_out():
    with pytest.raises(OSError, match="disk full"):
        replay(ListSource(4), StandInPipeline(), [ListSink(breaks_at=3)])


@pytest.mark.parametrize("error", [ValueError("bug"), KeyboardInterrupt()])
def test_error_in_the_pipeline_comes_out_and_nothing_is_kept(error):
    class Failing(StandInPipeline):
        def process(self, frames):
            raise error

    sink = ListSink()
    with pytest.raises(type(error)):
        replay(ListSource(50), Failing(), [sink])
    assert sink.ended == "discarded"


def test_error_in_the_source_comes_out():
    class Failing(ListSource):
        def _read(self, index):
            raise RuntimeError("bug")

    with pytest.raises(RuntimeError, match="bug"):
        replay(Failing(5), StandInPipeline(), [CallbackSink(lambda frame, result: None)])


def test_without_any_result_nothing_is_kept():
    sink = ListSink()
    summary = replay(ListSource(2, bad=[0, 1]), StandInPipeline(), [sink])
    assert (summary.frames, summary.labelled) == (2, 0)
    assert sink.ended == "discarded"


@pytest.mark.parametrize("stamps", [[0, 0, 0], [-5, 3, 10**9], [(1 << 31) * 10**9 - 1, 0, -1]])
def test_recording_is_labelled_at_the_time_of_receipt(tmp_path, stamps):
    """Whatever the camera's clock says, which the headers keep."""
    writer = BagWriter(tmp_path / "in.mcap")
    writer.add_topic("/image", IMAGE)
    for i, stamp in enumerate(stamps):
        message = result_messages.overlay_message(
            writer.msgs, make_header(stamp, "camera"), noise_image(i)
        )
        writer.write("/image", message, stamp_ns(i))
    writer.close()
    sink = open_sink(tmp_path / "out.mcap", written_recordings.CLASS_NAMES, Config())
    summary = replay(open_source(tmp_path / "in.mcap"), StandInPipeline(), [sink])
    assert (summary.labelled, summary.skipped, summary.broken) == (3, 0, None)
    labelled = list(BagSource(tmp_path / "out.mcap", f"/{result_messages.NODE_NAME}/labels"))
    assert [f.received_ns for f in labelled] == [stamp_ns(i) for i in range(3)]
    assert [f.stamp_ns for f in labelled] == stamps
