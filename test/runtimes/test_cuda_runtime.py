"""What the CUDA runtime keeps, records and does where that fails, on a CPU.

Stand-ins take the place of CUDA's graphs, events and uploads; `test_cuda` has the real ones.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from test_cuda_network import relu_of_sum_stand_in
from torch import Tensor

from instaseg_ros.checkpoint import Checkpoint
from instaseg_ros.clustering.ellipses.gpu import SIZES
from instaseg_ros.config import RuntimeConfig
from instaseg_ros.cuda_capture import Recording
from instaseg_ros.errors import ConfigError
from instaseg_ros.model.mirror import with_mirror_images
from instaseg_ros.model.temporal import NEXT_STATE
from instaseg_ros.runtimes import Uploading, cuda_runtime, cuda_uploads, prepares_for_minutes
from instaseg_ros.runtimes.comparison import TOLERANCES, Comparison
from instaseg_ros.runtimes.cuda_runtime import UNRECORDED, CudaRuntime, _float32_as_it_is
from instaseg_ros.runtimes.recent import MOST_PIXELS
from instaseg_ros.runtimes.torch_runtime import TorchRuntime

SIZE = (48, 80)


class RecorderStandIn:
    """Records as CUDA does: the work runs at a replay alone, and each time in the same memory."""

    works = True

    def __init__(self, device: torch.device, kind: str) -> None: ...

    def record(self, work: Callable[[], tuple[Tensor, ...]]) -> Recording[Any] | None:
        if not self.works:
            return None
        memory = tuple(torch.full_like(output, torch.nan) for output in work())

        def replay() -> None:
            for own, output in zip(memory, work(), strict=True):
                own.copy_(output)

        return Recording(SimpleNamespace(replay=replay), memory)


class EventStandIn:
    """A run takes as long as the form's number says: the last is the fastest."""

    def __init__(self, enable_timing: bool = False) -> None: ...

    def record(self) -> None: ...

    def synchronize(self) -> None: ...

    def elapsed_time(self, other: EventStandIn) -> float:
        EventStandIn.times_ms -= 1.0
        return EventStandIn.times_ms

    times_ms = 0.0


class UploadsStandIn:
    """On a CPU everything is where it should be at once."""

    def __init__(self, device: torch.device) -> None: ...

    def start(self, images: np.ndarray, mirrored: bool = False) -> Any:
        pixels = torch.from_numpy(with_mirror_images(images) if mirrored else images.copy())
        taken = SimpleNamespace(record=lambda: None)
        return SimpleNamespace(await_in_stream=lambda: pixels, taken=taken)


@pytest.fixture
def cpu(cpu_as_cuda: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_runtime, "cuda_device", lambda name: torch.device("cpu"))
    monkeypatch.setattr(cuda_runtime, "Recorder", RecorderStandIn)
    monkeypatch.setattr(cuda_runtime, "Uploads", UploadsStandIn)
    monkeypatch.setattr(torch.cuda, "Event", EventStandIn)
    monkeypatch.setattr(torch, "cudnn_convolution_add_relu", relu_of_sum_stand_in)


def noise(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (1, *size, 3), np.uint8)


def opened(checkpoint: Checkpoint) -> CudaRuntime:
    return CudaRuntime(RuntimeConfig(precision="fp32"), checkpoint)


def runners(runtime: CudaRuntime) -> list[bool]:
    """Of the shapes that are kept, the one that came last standing last: whether it is recorded."""
    return [kept.runner is not None for kept in runtime._kept._kept.values()]


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "not recorded"])
@pytest.mark.parametrize("weights", ["small", "with_dense"])
def test_each_frame_has_the_networks_outputs(
    cpu: None,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    weights: str,
    recorded: bool,
) -> None:
    """Before a shape is recorded, when it is, and after; and where nothing can be recorded."""
    monkeypatch.setattr(RecorderStandIn, "works", recorded)
    checkpoint: Checkpoint = request.getfixturevalue(weights)
    runtime, plain = opened(checkpoint), TorchRuntime(RuntimeConfig(precision="fp32"), checkpoint)
    earlier: list[dict[str, Tensor]] = []
    for seed in range(UNRECORDED + 3):
        outputs, expected = runtime(noise(seed)), plain(noise(seed))
        for head, output in expected.items():
            torch.testing.assert_close(outputs[head], output, atol=1e-4, rtol=1e-4, msg=head)
        assert runners(runtime) == [seed >= UNRECORDED]
        earlier.append(outputs)
    assert set(runtime.form_ms[(1, *SIZE, 3)]) == {"eager", "fused", "abreast"}
    shared = earlier[-1]["seed"].data_ptr() == earlier[-2]["seed"].data_ptr()
    assert shared == recorded


def test_the_fastest_form_that_is_right_is_taken(
    cpu: None, small: Checkpoint, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = opened(small)
    wrong = copy.deepcopy(runtime._eager)
    for parameter in wrong.parameters():
        parameter.data.mul_(1.01)

    def refuse(*_: Tensor) -> Any:
        raise RuntimeError("no C++ compiler\nand more")

    runtime.forms |= {"refused": refuse, "wrong": lambda *_: wrong}
    runtime._recorders |= {name: RecorderStandIn(runtime.device, name) for name in runtime.forms}
    with caplog.at_level(logging.INFO):
        for seed in range(UNRECORDED + 1):
            runtime(noise(seed))
    assert list(runtime.form_ms[(1, *SIZE, 3)]) == ["eager", "fused", "abreast"]
    assert "the refused form of the network is left out: no C++ compiler\n" in caplog.text
    assert "the wrong form of the network is left out: its outputs differ" in caplog.text
    assert "chosen: abreast" in caplog.text


def test_a_few_shapes_are_kept_and_those_seen_once_record_nothing(
    cpu: None, small: Checkpoint
) -> None:
    runtime = opened(small)
    sizes = [(16 + 8 * number, 24) for number in range(SIZES + 2)]
    for size in sizes:
        runtime(noise(0, size))
    assert runners(runtime) == [False] * SIZES
    for _ in range(UNRECORDED):
        runtime(noise(0, sizes[-1]))
    assert runners(runtime) == [False] * (SIZES - 1) + [True]
    runtime(noise(0, sizes[0]))  # forgotten: it begins anew
    assert runners(runtime) == [False] * (SIZES - 2) + [True, False]
    runtime._kept((1, MOST_PIXELS // 1000, 1001, 3))
    assert len(runtime._kept) == 1, "one large image alone is more than all may have"


def test_a_network_with_a_memory_is_recorded_with_its_state(
    cpu: None, temporal: Checkpoint
) -> None:
    runtime = opened(temporal)
    plain = TorchRuntime(RuntimeConfig(precision="fp32"), temporal)
    state = None
    for seed in range(UNRECORDED + 3):
        outputs, expected = runtime(noise(seed), state), plain(noise(seed), state)
        assert outputs.keys() == expected.keys()
        for head, output in expected.items():
            torch.testing.assert_close(outputs[head], output, atol=1e-4, rtol=1e-4, msg=head)
        state = expected[NEXT_STATE].clone()
    fresh = runtime(noise(9))["semantic"]  # without a past, after one
    torch.testing.assert_close(fresh, plain(noise(9))["semantic"], atol=1e-4, rtol=1e-4)


def test_a_comparison_goes_on_from_frame_to_frame(cpu: None, temporal: Checkpoint) -> None:
    assert Comparison(temporal, SIZE)(opened(temporal)).relative < TOLERANCES["fp32"]


def test_float32_is_not_rounded_to_tf32(cpu: None, small: Checkpoint) -> None:
    """In no run of the network; and torch's settings are as they were."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    seen: list[tuple[bool, ...]] = []
    runtime = opened(small)
    runtime._eager.register_forward_pre_hook(
        lambda *_: seen.append((cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32))
    )
    for seed in range(UNRECORDED):
        runtime(noise(seed))
    assert seen == [(before[0], False, False)] * UNRECORDED
    runtime(noise(0))
    assert set(seen[UNRECORDED:]) == {(True, False, False)}, "algorithms are to be measured"
    with pytest.raises(KeyError), _float32_as_it_is(search=True):
        raise KeyError
    assert (cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32) == before


def test_which_device_is_meant_does_not_depend_on_the_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    found = [cuda_runtime.cuda_device(name) for name in ("auto", "cuda", "cuda:0", "cuda:1")]
    assert [device.index for device in found] == [2, 2, 0, 1]
    with pytest.raises(ConfigError, match="expected a CUDA device, got 'cpu'"):
        cuda_runtime.cuda_device("cpu")


def test_only_what_is_compiled_takes_minutes(cpu: None, small: Checkpoint) -> None:
    runtime = opened(small)
    assert isinstance(runtime, Uploading) and not prepares_for_minutes(runtime)
    compiled = CudaRuntime(RuntimeConfig(precision="fp32", compiled=True), small)
    assert prepares_for_minutes(compiled)


@pytest.mark.parametrize("mirrored", [False, True])
def test_uploads_bring_the_images_and_their_mirror_images(
    cpu_as_cuda: None, monkeypatch: pytest.MonkeyPatch, mirrored: bool
) -> None:
    """Streams and events stand in: what arrives, in which memory, not when."""
    monkeypatch.setattr(torch.cuda, "Event", EventStandIn)
    monkeypatch.setattr(torch.cuda.current_stream().__class__, "wait_event", lambda *_: None, False)
    empty = torch.empty
    monkeypatch.setattr(
        torch, "empty", lambda *shape, pin_memory=False, **kwargs: empty(*shape, **kwargs)
    )
    uploads = cuda_uploads.Uploads(torch.device("cpu"))
    with torch.inference_mode():  # its memory is used outside of it too
        uploads.start(np.zeros((2, 30, 8, 3), np.uint8), mirrored)
    for seed in range(2 * cuda_uploads.SLOTS):
        images = np.concatenate([noise(seed, (30, 8)), noise(seed + 50, (30, 8))])
        pixels = uploads.start(images, mirrored).pixels
        expected = with_mirror_images(images) if mirrored else images
        np.testing.assert_array_equal(pixels.numpy(), expected)
