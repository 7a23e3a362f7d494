"""Recording of CUDA graphs where there is no CUDA: torch's calls are replaced by a stand-in, which
shows what is called in which order, and no more. `test_cuda` shows that it works."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from instaseg_ros.cuda_capture import Recorder

DEVICE = torch.device("cuda", 1)


class StandIn:
    """`torch.cuda`, as far as a capture needs it. Like torch's own, `graph` stays on its stream
    where `capture_end` raises."""

    def __init__(self) -> None:
        self.stream = "the caller's"
        self.devices: list[Any] = [torch.device("cuda", 0)]
        self.captures: list[SimpleNamespace] = []
        self.underway = 0
        self.most_underway = 0
        self.capture_end: Callable[[], None] = lambda: None
        # Of the random numbers of two devices, the state that is a failed capture's for good.
        self.states: list[object] = ["usable", "usable"]
        self.default_generators = [self.generator(index) for index in range(2)]

    def generator(self, index: int) -> Any:
        def take(state: object) -> None:
            self.states[index] = state

        return SimpleNamespace(clone_state=lambda: "usable", graphsafe_set_state=take)

    def current_device(self) -> int:
        return self.devices[-1].index

    @contextlib.contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        self.devices.append(device)
        try:
            yield
        finally:
            self.devices.pop()

    @contextlib.contextmanager
    def graph(self, graph: Any, pool: Any, stream: Any, capture_error_mode: str) -> Iterator[None]:
        before, self.stream = self.stream, stream
        at = SimpleNamespace(
            device=self.devices[-1], pool=pool, stream=stream, mode=capture_error_mode
        )
        self.captures.append(at)
        self.states[self.current_device()] = "captured"
        self.underway += 1
        self.most_underway = max(self.underway, self.most_underway)
        try:
            yield
        finally:
            self.underway -= 1
            self.capture_end()
            self.states[self.current_device()] = "usable"
            self.stream = before

    def current_stream(self) -> str:
        return self.stream

    def set_stream(self, stream: str) -> None:
        self.stream = stream

    def CUDAGraph(self) -> Any:
        return SimpleNamespace(replay=lambda: None)

    def Stream(self) -> object:
        return object()

    def graph_pool_handle(self) -> object:
        return object()


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    for name in (
        *("device", "graph", "current_stream", "set_stream", "CUDAGraph", "Stream"),
        *("graph_pool_handle", "default_generators", "current_device"),
    ):
        monkeypatch.setattr(torch.cuda, name, getattr(stand_in, name))
    return stand_in


def refuse() -> None:
    raise RuntimeError("operation failed due to a previous error during capture")


def test_work_is_recorded_on_its_device_and_a_stream_of_its_own(cuda: StandIn) -> None:
    recorder = Recorder(DEVICE, "work")
    streams = []
    recordings = [
        recorder.record(lambda n=n: streams.append(cuda.current_stream()) or n) for n in (1, 2)
    ]
    assert [recording and recording.replay() for recording in recordings] == [1, 2]
    first, second = cuda.captures
    assert first == second, "graphs of one recorder share stream and pool"
    assert first.device == DEVICE and first.mode == "thread_local"
    assert streams == [first.stream] * 2 and cuda.stream == "the caller's"
    Recorder(DEVICE, "other work").record(lambda: None)
    assert cuda.captures[2].pool is not first.pool
    assert cuda.captures[2].stream is not first.stream


@pytest.mark.parametrize("where", ["in the work", "at its end", "in both"])
def test_a_failed_capture_leaves_the_stream_and_records_no_more(
    cuda: StandIn, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    def work() -> int:
        calls.append(1)
        if where != "at its end":
            raise ValueError("the convolution's own reason")
        return 1

    if where != "in the work":
        cuda.capture_end = refuse
    calls: list[int] = []
    recorder = Recorder(DEVICE, "the network")
    with caplog.at_level(logging.WARNING):
        assert recorder.record(work) is None
    assert cuda.stream == "the caller's" and cuda.devices == [torch.device("cuda", 0)]
    assert cuda.states == ["usable", "usable"], "dropout would fail from now on"
    (message,) = caplog.messages
    assert message.startswith("the network on cuda:1 cannot be recorded")
    assert ("own reason" in message) == (where != "at its end")
    cuda.capture_end = lambda: None
    assert recorder.record(work) is None and len(calls) == 1, "it tried again"
    assert Recorder(DEVICE, "other work").record(lambda: 1), "another kind of work is no worse off"


def test_threads_record_one_after_the_other(cuda: StandIn) -> None:
    start = threading.Barrier(4)

    def record() -> None:
        start.wait()
        for _ in range(20):
            assert Recorder(DEVICE, "work").record(lambda: threading.Event().wait(1e-4))

    threads = [threading.Thread(target=record) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(cuda.captures) == 80 and cuda.most_underway == 1


def test_a_pool_that_no_recording_uses_is_not_used_again(cuda: StandIn) -> None:
    """torch refuses that, where a tensor of it is still alive."""
    recorder = Recorder(DEVICE, "work")
    kept = [recorder.record(lambda: None) for _ in range(2)]
    del kept[0]
    kept.append(recorder.record(lambda: None))
    kept.clear()
    kept.append(recorder.record(lambda: None))
    first, second, third, last = (capture.pool for capture in cuda.captures)
    assert first is second is third is not last
