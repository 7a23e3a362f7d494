"""What only an NVIDIA GPU can show: recording of graphs, and decoding on the device.

But for pixels on a border, instances are those of the CPU, which is tested against the oracle."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from torch import Tensor

from instaseg_ros.benchmarks.yardstick import made_to_measure
from instaseg_ros.clustering.ellipses import gpu, triton_session
from instaseg_ros.config.options.spatial_embedding import DecodeConfig
from instaseg_ros.cuda_capture import Recorder
from instaseg_ros.frames import Instances
from instaseg_ros.methods import make_method, spatial_embedding
from instaseg_ros.methods.spatial_embedding import SpatialEmbedding

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
N_CLASSES = 5
FOREGROUND_SHARE = 575_000 / (1024 * 2048)
Outputs = dict[str, Tensor]


def scene(objects: int, height: int = 256, width: int = 512) -> Outputs:
    foreground = round(FOREGROUND_SHARE * height * width)
    return made_to_measure(height, width, N_CLASSES, 2, objects, foreground)


def assert_same(found: list[Instances], expected: list[Instances]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert len(one) == len(other)
        assert (one.labels != other.labels).mean() < 1e-5
        np.testing.assert_array_equal(one.class_ids, other.class_ids)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-6)
        np.testing.assert_allclose(one.centers_xy, other.centers_xy, atol=1e-2)
        np.testing.assert_allclose(one.bandwidths, other.bandwidths, rtol=1e-4)
        np.testing.assert_allclose(one.boxes_xyxy, other.boxes_xyxy, atol=2)


def assert_equal_to_cpu(
    made: Outputs, config: DecodeConfig, device: str = "cuda"
) -> list[Instances]:
    """Launched, recorded, and replayed."""
    method = SpatialEmbedding(N_CLASSES, 2)
    expected = method.decode(made, config)
    on_gpu = {name: part.to(device) for name, part in made.items()}
    for _ in range(3):
        found = method.decode(on_gpu, config)
        assert_same(found, expected)
    return found


def count_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each image that is clustered on the CPU from now on."""
    called: list[int] = []
    group = spatial_embedding.group
    monkeypatch.setattr(spatial_embedding, "group", lambda *args: called.append(1) or group(*args))
    return called


def test_triton_works_here() -> None:
    assert gpu.runs_triton(torch.device("cuda", 0)), "the log says why it does not"


@pytest.mark.parametrize("objects", [5, 30, 100, 300])
def test_decoding_on_the_device_is_decoding_on_the_cpu(objects: int) -> None:
    (found,) = assert_equal_to_cpu(scene(objects, 1024, 2048), DecodeConfig())
    assert len(found) == objects


def test_formulas_are_those_of_the_cpu() -> None:
    """Wherever the tanh has another form, and where it saturates."""
    made = scene(12)
    made["offset"] += torch.linspace(-9, 9, 512)
    found = assert_equal_to_cpu(made, DecodeConfig(min_pixels=20))
    assert len(found[0]) > 12


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_outputs_are_read_as_the_network_leaves_them(dtype: torch.dtype) -> None:
    """In half precision, channels last, heads in one tensor, rows and columns cut off."""
    made = {name: part.to(dtype) for name, part in scene(30).items()}
    heads = [part.shape[1] for part in made.values()]
    padded = torch.zeros(1, 256 + 8, 512 + 8, sum(heads) + 7, dtype=dtype, device="cuda")
    cut = padded[:, :256, :512, : sum(heads)].permute(0, 3, 1, 2).split(heads, 1)
    on_gpu = dict(zip(made, cut, strict=True))
    for name, part in made.items():
        on_gpu[name].copy_(part)
    method = SpatialEmbedding(N_CLASSES, 2)
    expected = method.decode(made, DecodeConfig())
    assert len(expected[0]) == 30
    for _ in range(3):
        assert_same(method.decode(on_gpu, DecodeConfig()), expected)


def test_without_triton_the_cpu_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "runs_triton", lambda device: False)
    called = count_calls(monkeypatch)
    made = scene(30)
    method = SpatialEmbedding(N_CLASSES, 2)
    (expected,) = method.decode(made, DecodeConfig())
    called.clear()
    (found,) = method.decode({name: part.cuda() for name, part in made.items()}, DecodeConfig())
    assert called and np.array_equal(found.labels, expected.labels)


def test_a_batch_is_decoded_image_by_image() -> None:
    parts = [scene(n) for n in (3, 30, 9, 70)]
    made = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    found = assert_equal_to_cpu(made, DecodeConfig())
    assert [len(one) for one in found] == [3, 30, 9, 70]


def test_contested_pixels_and_too_many_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes that want the same pixels; and more instances than there are slots for."""
    made = scene(40)
    made["seed"] = made["seed"].amax(1, keepdim=True) - 0.3 * torch.arange(5.0)[:, None, None]
    called = count_calls(monkeypatch)
    assert_equal_to_cpu(made, DecodeConfig(min_new_fraction=0.3))
    assert len(called) == 1, "the CPU clusters what is expected, and no more"
    monkeypatch.setattr(triton_session, "SLOTS", 8)
    crowd = scene(60, 264)  # a shape not seen before
    assert_equal_to_cpu(crowd, DecodeConfig())
    assert len(called) == 1 + 1 + 3


def test_thresholds_may_change_between_frames() -> None:
    made = scene(30)
    counts = []
    for pixels in (10, 2000, 10, 16, 1, 10):
        (found,) = assert_equal_to_cpu(made, DecodeConfig(min_pixels=pixels))
        counts.append(len(found))
    assert counts[0] == counts[2] == counts[5] == 30 and counts[1] < 30
    for setting in range(2 * gpu.GRAPHS):  # more than are kept
        assert_equal_to_cpu(made, DecodeConfig(foreground_threshold=0.4 + 0.01 * setting))


def test_sizes_that_take_turns() -> None:
    """More image sizes than are kept, each with its own frames."""
    method = SpatialEmbedding(N_CLASSES, 2)
    sizes = [(128 + 32 * k, 256) for k in range(gpu.SIZES + 1)]
    frames = [[scene(n, *size) for n in (4, 9)] for size in sizes]
    expected = [[method.decode(f, DecodeConfig()) for f in two] for two in frames]
    on_gpu = [{name: part.cuda() for name, part in two[0].items()} for two in frames]
    for turn in range(6):
        for outputs, two, wanted in zip(on_gpu, frames, expected, strict=True):
            for name, part in two[turn % 2].items():
                outputs[name].copy_(part)
            assert_same(method.decode(outputs, DecodeConfig()), wanted[turn % 2])


def test_threads_decode_at_the_same_time() -> None:
    method = SpatialEmbedding(N_CLASSES, 2)
    scenes = [scene(n) for n in (5, 30)]
    expected = [method.decode(made, DecodeConfig()) for made in scenes]
    failures: list[BaseException] = []

    def work(k: int) -> None:
        try:
            on_gpu = {name: part.cuda() for name, part in scenes[k].items()}
            for frame in range(200):  # of several settings, so that one records as others replay
                config = DecodeConfig(min_pixels=128 + frame // 50)
                assert_same(method.decode(on_gpu, config), expected[k])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(k % 2,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


def test_memory_made_in_inference_mode_is_used_outside_of_it() -> None:
    method = SpatialEmbedding(N_CLASSES, 2)
    made = scene(9, 96)  # a shape not seen before
    expected = method.decode(made, DecodeConfig())
    on_gpu = {name: part.cuda() for name, part in made.items()}
    with torch.inference_mode():
        method.decode(on_gpu, DecodeConfig())
    for _ in range(3):
        assert_same(method.decode(on_gpu, DecodeConfig()), expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one CUDA device, or none")
def test_another_device_than_the_current_one() -> None:
    assert_equal_to_cpu(scene(30), DecodeConfig(), "cuda:1")
    assert torch.cuda.current_device() == 0


@pytest.mark.parametrize(
    "name", ["box_regression", "discriminative", "metric_learning", "spatio_temporal"]
)
def test_other_methods_bring_their_outputs_to_the_cpu(name: str) -> None:
    method = make_method(name, 3)
    torch.manual_seed(0)
    patches = {head.name: 3 * torch.randn(2, head.channels, 4, 6) for head in method.heads}
    made = {
        name: part.repeat_interleave(16, 2).repeat_interleave(16, 3)
        for name, part in patches.items()
    }
    config = DecodeConfig(seed_threshold=0.3, min_pixels=4, foreground_threshold=0.3)
    expected = method.decode(made, config)
    found = method.decode({key: part.cuda() for key, part in made.items()}, config)
    assert len(expected[0]) > 0
    for one, other in zip(found, expected, strict=True):
        assert abs(len(one) - len(other)) <= 0.02 * len(other)
        assert (one.labels > 0).mean() == pytest.approx((other.labels > 0).mean(), abs=0.01)


def test_a_failed_capture_leaves_the_stream_and_what_is_recorded_works() -> None:
    x = torch.arange(8.0, device="cuda")
    own = torch.cuda.Stream()
    with torch.cuda.stream(own):
        refused = Recorder(x.device, "waiting").record(lambda: float(x.sum()))  # waits: forbidden
        assert refused is None and torch.cuda.current_stream() == own
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert 0 < float(torch.rand(1000, device=x.device).mean()) < 1, "random numbers are refused"
    good = Recorder(x.device, "adding")
    y = torch.zeros_like(x)
    recording = good.record(lambda: y.copy_(x + 1))
    assert recording is not None
    for start in range(3):
        x.copy_(torch.arange(8.0) + start)
        recording.replay()
        assert y.tolist() == [start + k + 1.0 for k in range(8)]
    assert_equal_to_cpu(scene(30, 160), DecodeConfig())  # a shape not recorded before


def test_recordings_of_one_recorder_may_replay_in_any_order() -> None:
    """Their memory is shared: a result is read before the next one is replayed."""
    recorder = Recorder(torch.device("cuda", torch.cuda.current_device()), "sums")
    x = torch.ones(1000, device="cuda")
    works = [lambda n=n: (x * n).cumsum(0).flip(0) * n for n in range(1, 6)]
    for work in works:
        work()
    recordings = [recorder.record(work) for work in works]
    for k in np.random.default_rng(0).integers(0, 5, 50):
        x.fill_(int(k) + 1)
        assert torch.equal(recordings[k].replay(), works[k]())
