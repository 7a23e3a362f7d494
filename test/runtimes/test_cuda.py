"""What only an NVIDIA GPU can show: graphs and uploads of the runtime."""

from __future__ import annotations

import logging
import threading

import numpy as np
import pytest
import torch
from small_networks import checkpoint_with_memory, untrained_checkpoint
from torch import Tensor

from instaseg_ros.checkpoint import Checkpoint, load_checkpoint
from instaseg_ros.config import RuntimeConfig
from instaseg_ros.model.mirror import with_mirror_images
from instaseg_ros.model.temporal import NEXT_STATE
from instaseg_ros.runtimes.comparison import TOLERANCES
from instaseg_ros.runtimes.cuda_network import _ReluConv
from instaseg_ros.runtimes.cuda_runtime import UNRECORDED, CudaRuntime
from instaseg_ros.runtimes.cuda_uploads import SLOTS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint("street-synthetic")


@pytest.fixture(scope="module")
def runtime(checkpoint: Checkpoint) -> CudaRuntime:
    return CudaRuntime(RuntimeConfig(device="cuda"), checkpoint)


def noise(seed: int, batch: int = 1, size: tuple[int, int] = (64, 128)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (batch, *size, 3)).astype(np.uint8)


def eager(checkpoint: Checkpoint, images: np.ndarray) -> dict[str, Tensor]:
    """The unfolded network in float32 on the CPU."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        return checkpoint.network().eval()(pixels)


def assert_close(got: dict[str, Tensor], expected: dict[str, Tensor], share: float) -> None:
    for head, output in expected.items():
        limit = share * output.abs().max()
        assert (got[head].cpu() - output).abs().max() <= limit, head


@pytest.mark.parametrize("batch", [1, 2, 4, 8])
def test_every_image_of_a_batch_has_its_own_outputs(
    runtime: CudaRuntime, checkpoint: Checkpoint, batch: int
) -> None:
    images = noise(batch, batch)
    assert_close(runtime(images), eager(checkpoint, images), 0.03)


def recorded(runtime: CudaRuntime, images: np.ndarray) -> CudaRuntime:
    """The runtime, after so many images of this shape that its network is recorded."""
    for _ in range(UNRECORDED + 1):
        runtime(images)
    return runtime


@pytest.mark.parametrize("weights", ["street-synthetic", "lite"])
def test_every_form_of_the_network_runs_here(
    checkpoint: Checkpoint, caplog: pytest.LogCaptureFixture, weights: str
) -> None:
    """Where one is left out, the reason is in the message of this test's failure."""
    found = untrained_checkpoint("lite") if weights == "lite" else checkpoint
    runtime = recorded(CudaRuntime(RuntimeConfig(device="cuda"), found), noise(0))
    assert set(runtime.form_ms[(1, 64, 128, 3)]) == {"eager", "fused", "abreast"}, caplog.text
    (kept,) = runtime._kept._kept.values()
    assert kept.runner is not None and kept.runner._recording is not None, caplog.text


@pytest.mark.slow  # minutes
def test_the_network_compiled_ahead_of_time_runs_here(
    checkpoint: Checkpoint, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = CudaRuntime(RuntimeConfig(device="cuda", compiled=True), checkpoint)
    recorded(runtime, noise(0))
    assert "compiled" in runtime.form_ms[(1, 64, 128, 3)], caplog.text
    assert runtime._recorders["compiled"].works, caplog.text


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", ["eager", "fused", "abreast"])
def test_each_form_recorded_has_the_networks_outputs(
    checkpoint: Checkpoint, precision: str, name: str
) -> None:
    """Of one image after another, in memory that held what is not a number; float32 is no TF32."""
    runtime = CudaRuntime(RuntimeConfig(device="cuda", precision=precision), checkpoint)
    runtime.forms = {"eager": runtime.forms["eager"], name: runtime.forms[name]}
    spoilt = torch.full((1 << 26,), torch.nan, device=runtime.device)
    del spoilt
    for seed in range(UNRECORDED + 3):
        images = noise(seed, size=(256, 512))
        assert_close(runtime(images), eager(checkpoint, images), TOLERANCES[precision])


def test_residual_blocks_fuse_here(
    checkpoint: Checkpoint, caplog: pytest.LogCaptureFixture
) -> None:
    """84 of 93 convolutions are theirs; one may run in parts only because it is faster so."""
    runtime = CudaRuntime(RuntimeConfig(device="cuda"), checkpoint)
    with caplog.at_level(logging.INFO):
        recorded(runtime, noise(0, size=(256, 512)))
    verdicts = next(
        part.verdicts
        for part in runtime.forms["fused"]().modules()  # type: ignore[attr-defined]
        if isinstance(part, _ReluConv)
    )
    assert any(verdicts.values()), caplog.text
    in_parts = [message for message in caplog.messages if " runs in parts: " in message]
    for message in in_parts:
        if "kernel_size=(3, 1)" in message or "kernel_size=(1, 3)" in message:
            assert " ms, not " in message, message


def test_a_network_with_a_memory_is_recorded(small_profiles: None) -> None:
    temporal = checkpoint_with_memory()
    runtime = CudaRuntime(RuntimeConfig(device="cuda", precision="fp32"), temporal)
    network, state, past = temporal.network().eval(), None, None
    for seed in range(UNRECORDED + 3):
        images = noise(seed)
        with torch.inference_mode():
            expected = network(torch.from_numpy(images).permute(0, 3, 1, 2) / 255, past)
        outputs = runtime(images, state)
        assert_close(outputs, expected, 1e-3)
        state, past = outputs[NEXT_STATE].clone(), expected[NEXT_STATE]


def test_a_capture_that_fails_costs_speed_alone(checkpoint: Checkpoint) -> None:
    """Work that waits for the device cannot be recorded: a real failure, at a real capture."""
    runtime = CudaRuntime(RuntimeConfig(device="cuda"), checkpoint)
    network = runtime.forms["eager"]()

    def waits(images: Tensor) -> tuple[Tensor, ...]:
        images.sum().item()
        return network(images)

    runtime.forms = {"eager": lambda *_: waits}
    stream = torch.cuda.current_stream(runtime.device)
    for seed in range(UNRECORDED + 3):
        assert_close(runtime(noise(seed)), eager(checkpoint, noise(seed)), 0.03)
        assert torch.cuda.current_stream(runtime.device) == stream
    assert not runtime._recorders["eager"].works


def test_mirror_images_are_made_on_the_device(runtime: CudaRuntime) -> None:
    images = noise(0, 2, (30, 64))
    for _ in range(2 * SLOTS):
        uploaded = runtime.upload(images, mirrored=True)
        torch.cuda.synchronize()
        np.testing.assert_array_equal(uploaded.pixels.cpu(), with_mirror_images(images))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="torch sees no second CUDA device")
def test_another_device_than_the_first(checkpoint: Checkpoint) -> None:
    runtime = CudaRuntime(RuntimeConfig(device="cuda:1"), checkpoint)
    outputs = recorded(runtime, noise(0))(noise(1))
    assert {output.device.index for output in outputs.values()} == {1}
    assert torch.cuda.current_device() == 0
    assert_close(outputs, eager(checkpoint, noise(1)), 0.03)


def test_a_graph_replayed_gives_what_the_network_gives(runtime: CudaRuntime) -> None:
    plain_network = runtime.forms["eager"]()
    for seed in range(UNRECORDED + 4):
        images = noise(seed)
        got = runtime(images)
        with torch.inference_mode():
            outputs = plain_network(torch.from_numpy(images).to(runtime.device))
        expected = {k: v.cpu() for k, v in runtime.network.split_heads(outputs).items()}
        assert_close(got, expected, 0.02)


def test_outputs_belong_to_their_frame(runtime: CudaRuntime) -> None:
    """Frames uploaded ahead by another thread, into memory that the caller writes again at once."""
    frames = [noise(seed, size=(256, 512)) for seed in range(20)]
    recorded(runtime, frames[0])
    expected = [runtime(frame)["seed"].cpu() for frame in frames]
    assert (expected[0] - expected[1]).abs().max() > 0.01
    free, waiting = threading.Semaphore(SLOTS), threading.Semaphore(0)
    queue = []

    def camera() -> None:
        memory = np.empty_like(frames[0])
        for frame in frames:
            free.acquire()
            memory[:] = frame
            queue.append(runtime.upload(memory))
            memory[:] = 0
            waiting.release()

    thread = threading.Thread(target=camera)
    thread.start()
    for number in range(len(frames)):
        waiting.acquire()
        got = runtime.run(queue[number])["seed"].clone()
        free.release()
        assert torch.equal(got.cpu(), expected[number]), f"frame {number}"
    thread.join()
