"""What only an NVIDIA GPU can show: graphs and uploads of the runtime."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from torch import Tensor

from instaseg_ros.checkpoint import Checkpoint, load_checkpoint
from instaseg_ros.config import RuntimeConfig
from instaseg_ros.runtimes.cuda_network import PixelsToOutputs
from instaseg_ros.runtimes.cuda_runtime import SLOTS, CudaRuntime

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


def test_every_form_of_the_network_runs_here(
    checkpoint: Checkpoint, caplog: pytest.LogCaptureFixture
) -> None:
    """Where one is left out, the reason is in the message of this test's failure."""
    runtime = CudaRuntime(RuntimeConfig(device="cuda", compiled=True), checkpoint)
    runtime(noise(0))
    assert set(runtime.form_ms[(1, 64, 128, 3)]) == {"eager", "fused", "compiled"}, caplog.text


def test_a_graph_replayed_gives_what_the_network_gives(runtime: CudaRuntime) -> None:
    plain_network = PixelsToOutputs(runtime.network)
    for seed in range(4):
        images = noise(seed)
        got = runtime(images)
        with torch.inference_mode():
            outputs = plain_network(torch.from_numpy(images).to(runtime.device))
        expected = {k: v.cpu() for k, v in runtime.network.split_heads(outputs).items()}
        assert_close(got, expected, 0.02)


def test_outputs_belong_to_their_frame(runtime: CudaRuntime) -> None:
    """Frames uploaded ahead by another thread, into memory that the caller writes again at once."""
    frames = [noise(seed, size=(256, 512)) for seed in range(20)]
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
