"""What a session of the clustering on a GPU records, replays and forgets, where there is no GPU.

The kernels and the recorder are stand-ins: kernels that copy, recordings that run them again.
`test_cuda` shows that the real ones do as much."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from instaseg_ros.clustering.ellipses import gpu
from instaseg_ros.config.options.spatial_embedding import DecodeConfig
from instaseg_ros.cuda_capture import Recording


class CopyingKernels:
    """Stand-in for `TritonGrouping`: labels are the first output plus `min_pixels`."""

    def __init__(self) -> None:
        self.labels = torch.zeros(2, 3, dtype=torch.int16)
        self.report = torch.zeros(1, dtype=torch.int32)

    def launch(
        self, outputs: Sequence[Tensor], least_logit: float, gain: float, config: DecodeConfig
    ) -> None:
        self.labels.copy_(outputs[0] + config.min_pixels)

    def groups(self, labels: Any, report: Any) -> Any:
        return labels


class RunningRecorder:
    """Stand-in for `Recorder`: a replay runs the work again. Refuses once `works` is false."""

    def __init__(self) -> None:
        self.works = True
        self.recorded = 0
        self.replayed = 0

    def record(self, work: Callable[[], None]) -> Recording[None] | None:
        if not self.works:
            return None
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            work()

        return Recording(SimpleNamespace(replay=replay), None)


@pytest.fixture
def recorder() -> RunningRecorder:
    return RunningRecorder()


@pytest.fixture
def decode(recorder: RunningRecorder) -> Callable[..., None]:
    session = gpu.Session(CopyingKernels(), recorder)  # type: ignore[arg-type]

    def decode(output: Tensor, min_pixels: int = 1) -> None:
        """One frame, whose labels must be its own."""
        found = session.group([output], 0.0, 1.0, DecodeConfig(min_pixels=min_pixels))
        assert (found == (output + min_pixels).numpy()).all()
        assert len(session.recordings) <= gpu.GRAPHS and len(session.seen) <= gpu.GRAPHS

    return decode


def test_the_second_frame_is_recorded_and_later_ones_replay(
    recorder: RunningRecorder, decode: Callable[..., None]
) -> None:
    output = torch.zeros(2, 3)
    for number in range(5):
        output.fill_(number)
        decode(output)
        assert recorder.recorded == (number > 0)
    assert recorder.replayed == 4


def test_each_setting_memory_and_layout_has_its_own_recording(
    recorder: RunningRecorder, decode: Callable[..., None]
) -> None:
    one, other = torch.ones(2, 3), torch.full((2, 3), 5.0)
    for _ in range(4):
        decode(one, 1)
        decode(one, 9)
        decode(other, 1)
        decode(one.view(3, 2).T, 1)
    assert recorder.recorded == 4 and recorder.replayed == 12


def test_where_nothing_can_be_recorded_frames_are_launched(
    recorder: RunningRecorder, decode: Callable[..., None]
) -> None:
    recorder.works = False
    output = torch.zeros(2, 3)
    for number in range(30):
        output.fill_(number)
        decode(output)
    assert not recorder.replayed


def test_of_many_settings_those_used_last_stay_recorded(
    recorder: RunningRecorder, decode: Callable[..., None]
) -> None:
    output = torch.zeros(2, 3)
    for setting in range(gpu.GRAPHS + 1):  # one more than is kept
        decode(output, setting)
        decode(output, setting)
        decode(output, 0)  # stays in use
    recorded = recorder.recorded
    decode(output, 0)
    decode(output, gpu.GRAPHS)
    assert recorder.recorded == recorded == gpu.GRAPHS + 1
    decode(output, 1)  # forgotten: seen, then recorded
    decode(output, 1)
    assert recorder.recorded == recorded + 1


def test_tensors_on_the_host_are_all_there() -> None:
    tensors = torch.arange(6).view(2, 3).T, torch.ones(2, requires_grad=True).detach()
    for one, other in zip(tensors, gpu.on_host(*tensors), strict=True):
        assert other.device.type == "cpu" and torch.equal(one, other)
