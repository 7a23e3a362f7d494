"""What only an NVIDIA GPU can show: graphs and uploads of the runtime, decoding on the device."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from torch import Tensor

from instaseg_ros.benchmarks.frame import FOREGROUND_SHARE, made_to_measure
from instaseg_ros.checkpoint import Checkpoint, load_checkpoint
from instaseg_ros.clustering.ellipses import gpu, torch_loop
from instaseg_ros.config import RuntimeConfig
from instaseg_ros.frames import Instances
from instaseg_ros.methods.spatial_embedding import SpatialEmbedding
from instaseg_ros.options.spatial_embedding import DecodeConfig
from instaseg_ros.runtimes.cuda_network import PixelsToOutputs
from instaseg_ros.runtimes.cuda_runtime import SLOTS, CudaRuntime

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
N_CLASSES = 5


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


def assert_equal_to_cpu(made: dict[str, Tensor], config: DecodeConfig) -> list[Instances]:
    """Twice, then from a graph: but for pixels on a border all is as on the CPU."""
    method = SpatialEmbedding(N_CLASSES, 2)
    expected = method.decode(made, config)
    on_gpu = {name: part.cuda() for name, part in made.items()}
    for _ in range(3):
        found = method.decode(on_gpu, config)
        for one, other in zip(found, expected, strict=True):
            assert len(one) == len(other)
            assert (one.labels != other.labels).mean() < 1e-5
            np.testing.assert_array_equal(one.class_ids, other.class_ids)
            np.testing.assert_allclose(one.scores, other.scores, atol=1e-6)
            np.testing.assert_allclose(one.centers_xy, other.centers_xy, atol=1e-2)
            np.testing.assert_allclose(one.bandwidths, other.bandwidths, rtol=1e-4)
            np.testing.assert_allclose(one.boxes_xyxy, other.boxes_xyxy, atol=2)
    return found


@pytest.mark.parametrize("objects", [5, 30, 100, 300])
@pytest.mark.parametrize("triton", [True, False])
def test_decoding_on_the_device_is_decoding_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, objects: int, triton: bool
) -> None:
    if triton:
        assert gpu._triton(torch.device("cuda", 0)), "Triton does not work here; the log says why"
    else:
        monkeypatch.setattr(gpu, "_triton", lambda device: False)
    size = 1024, 2048
    foreground = round(FOREGROUND_SHARE * size[0] * size[1])
    made = made_to_measure(*size, N_CLASSES, 2, objects, foreground)
    (found,) = assert_equal_to_cpu(made, DecodeConfig())
    assert len(found) == objects


def test_a_batch_is_decoded_image_by_image() -> None:
    parts = [made_to_measure(256, 512, N_CLASSES, 2, n, 36_000) for n in (3, 30, 9, 70)]
    made = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    found = assert_equal_to_cpu(made, DecodeConfig())
    assert [len(one) for one in found] == [3, 30, 9, 70]


def test_contested_pixels_and_too_many_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes that want the same pixels; and more instances than there are slots for."""
    from instaseg_ros.clustering.ellipses import triton_session

    called = []
    monkeypatch.setattr(
        torch_loop, "group", lambda *a, group=torch_loop.group: called.append(1) or group(*a)
    )
    made = made_to_measure(256, 512, N_CLASSES, 2, 40, 40_000)
    made["seed"] = made["seed"].amax(1, keepdim=True) - 0.3 * torch.arange(5.0)[:, None, None]
    assert_equal_to_cpu(made, DecodeConfig(min_new_fraction=0.3))
    assert not called
    monkeypatch.setattr(triton_session, "SLOTS", 8)
    crowd = made_to_measure(264, 512, N_CLASSES, 2, 60, 40_000)  # a shape not seen before
    assert_equal_to_cpu(crowd, DecodeConfig())
    assert called


def test_thresholds_may_change_between_frames() -> None:
    made = made_to_measure(256, 512, N_CLASSES, 2, 30, 36_000)
    counts = []
    for pixels in (10, 2000, 10):
        (found,) = assert_equal_to_cpu(made, DecodeConfig(min_pixels=pixels))
        counts.append(len(found))
    assert counts[0] == counts[2] == 30 and counts[1] < 30
