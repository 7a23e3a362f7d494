"""What runtimes keep, in memory and in the cache, is bounded, checked, and never missed."""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path
from types import SimpleNamespace
from weakref import WeakSet

import numpy as np
import pytest
import torch

pytest.importorskip("openvino")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from instaseg_ros import files
from instaseg_ros.checkpoint import Checkpoint
from instaseg_ros.clustering.ellipses.gpu import SIZES
from instaseg_ros.config import RuntimeConfig
from instaseg_ros.errors import ConfigError, EngineError
from instaseg_ros.runtimes import onnx_file, onnx_runtime, open_runtime, openvino_model
from instaseg_ros.runtimes.onnx_file import cached_onnx
from instaseg_ros.runtimes.onnx_runtime import OnnxRuntime
from instaseg_ros.runtimes.openvino_runtime import SHAPES
from instaseg_ros.runtimes.recent import MOST_PIXELS, Recent

pytestmark = pytest.mark.xdist_group("converting")


@pytest.fixture(scope="module")
def checkpoint(small: Checkpoint, cache: None) -> Checkpoint:
    return small


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 48, 80, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def expected(checkpoint: Checkpoint, images: np.ndarray) -> dict[str, torch.Tensor]:
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        return checkpoint.network().eval()(pixels)


SIZES_SEEN = [(32 + 8 * number, 48) for number in range(SHAPES + 3)]


def test_a_large_image_goes_when_another_comes_and_small_ones_stay() -> None:
    class Made:
        def __init__(self, shape: tuple[int, ...]) -> None:
            made.append(shape)
            alive.add(self)

    made: list[tuple[int, ...]] = []
    alive: WeakSet[Made] = WeakSet()
    recent = Recent(Made)
    large, small = (MOST_PIXELS // 4096, 4097), [(1, side, side, 3) for side in (8, 16, 24)]
    for shape in (*small, large, large):
        recent(shape)
    assert made == [*small, large]
    assert len(alive) == len(recent) == 1  # it alone is more than all may have
    for shape in (*small, *small):
        recent(shape)
    assert made == [*small, large, *small]
    assert len(alive) == len(recent) == len(small)


def test_openvino_gives_image_sizes_of_the_past_back(checkpoint: Checkpoint) -> None:
    """Of all but the last sizes not even a thread stays."""
    runtime = open_runtime(RuntimeConfig(name="openvino", precision="fp32"), checkpoint)
    threads = []
    for size in (*SIZES_SEEN, SIZES_SEEN[0]):
        outputs = runtime(np.zeros((1, *size, 3), np.uint8))
        assert outputs["seed"].shape[2:] == size
        threads.append(len(os.listdir("/proc/self/task")))
    assert threads[-1] <= threads[SHAPES]


def test_onnx_runtime_gives_image_sizes_of_the_past_back(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Opened:
        device = torch.device("cpu")

        def __init__(self, *_: object) -> None:
            alive.add(self)

        def __call__(self, images: np.ndarray, state: object) -> dict[str, torch.Tensor]:
            return {}

    alive: WeakSet[Opened] = WeakSet()
    monkeypatch.setattr(onnx_runtime, "cached_onnx", lambda *_: b"")
    monkeypatch.setattr(onnx_runtime, "Session", Opened)
    runtime = open_runtime(RuntimeConfig(name="onnx", device="cpu"), checkpoint)
    for size in SIZES_SEEN:
        runtime(np.zeros((1, *size, 3), np.uint8))
    assert len(alive) == SIZES


def test_onnx_runtime_says_when_it_runs_on_the_cpu_instead(
    checkpoint: Checkpoint,
    images: np.ndarray,
    expected: dict[str, torch.Tensor],
    caplog: pytest.LogCaptureFixture,
) -> None:
    if torch.cuda.is_available():
        pytest.skip("CUDA would start here")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # onnxruntime's own, of a provider it was built without
        content = cached_onnx(checkpoint, (48, 80), "fp32")
        session = onnx_runtime.Session(content, torch.device("cuda"))
    assert "could not start CUDAExecutionProvider" in caplog.text
    assert session.device == torch.device("cpu")
    assert (session(images)["seed"] - expected["seed"]).abs().max() < 1e-5


def test_onnx_runtime_does_not_run_on_the_cpu_where_cuda_was_named(
    checkpoint: Checkpoint,
    images: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Opened:
        """Where CUDA does not start."""

        device = torch.device("cpu")

        def __init__(self, *_: object) -> None: ...

        def __call__(self, *_: object) -> dict[str, torch.Tensor]:
            return {}

    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    library = SimpleNamespace(get_available_providers=lambda: providers)
    monkeypatch.setattr(onnx_runtime, "_library", lambda: library)
    monkeypatch.setattr(onnx_runtime, "pick_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(onnx_runtime, "cached_onnx", lambda *_: b"")
    monkeypatch.setattr(onnx_runtime, "Session", Opened)
    named = OnnxRuntime(RuntimeConfig(name="onnx", device="cuda"), checkpoint)
    with pytest.raises(EngineError, match=r"would run on the CPU; use runtime\.device: cpu"):
        named(images)
    left_open = OnnxRuntime(RuntimeConfig(name="onnx"), checkpoint)
    left_open(images)
    assert left_open.device == torch.device("cpu")
    providers.remove("CUDAExecutionProvider")
    assert OnnxRuntime(RuntimeConfig(name="onnx"), checkpoint).device == torch.device("cpu")
    assert "ONNX Runtime runs on the CPU: torch sees cuda" in caplog.text
    with pytest.raises(ConfigError, match="no CUDAExecutionProvider for 'cuda'"):
        OnnxRuntime(RuntimeConfig(name="onnx", device="cuda"), checkpoint)


def test_onnx_runtime_on_cuda_is_channels_last_where_it_can_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    class InferenceSession:
        """Of a build without channels last: it falls back to the CPU in silence."""

        def __init__(self, *_: object, providers: list[str], provider_options: list[dict]) -> None:
            asked.append(provider_options[0])
            refused = "prefer_nhwc" in provider_options[0]
            self._taken = ["CPUExecutionProvider"] if refused else providers

        def get_providers(self) -> list[str]:
            return self._taken

        def get_inputs(self) -> list[object]:
            return []

        def io_binding(self) -> None: ...

    library = SimpleNamespace(SessionOptions=SimpleNamespace, InferenceSession=InferenceSession)
    monkeypatch.setattr(onnx_runtime, "_library", lambda: library)
    session = onnx_runtime.Session(b"", torch.device("cuda", 1))
    assert session.device == torch.device("cuda", 1)
    assert asked == [
        {"device_id": "1", "prefer_nhwc": "1", "use_tf32": "0"},
        {"device_id": "1"},
    ]


@pytest.fixture
def made(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, list[object]]:
    """What OpenVINO and ONNX Runtime run, made in no time, and how often; in a cache of its own."""
    content = cached_onnx(checkpoint, (48, 80), "fp32")
    model = openvino_model.model_of(checkpoint, checkpoint.network().eval())
    calls: dict[str, list[object]] = {"openvino": [], "onnx": []}

    def traced(network: object) -> object:
        calls["openvino"].append(network)
        return model.clone()

    def make_onnx(*given: object) -> bytes:
        calls["onnx"].append(given)
        return content

    monkeypatch.setattr(openvino_model, "traced", traced)
    monkeypatch.setattr(onnx_file, "make_onnx", make_onnx)
    monkeypatch.setenv("INSTASEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "_temporary", lambda: tmp_path / "cache")
    return calls


@pytest.mark.parametrize("name", ["openvino", "onnx"])
def test_a_damaged_or_missing_cache_costs_time_alone(
    checkpoint: Checkpoint,
    images: np.ndarray,
    expected: dict[str, torch.Tensor],
    made: dict[str, list[object]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
) -> None:
    def run() -> int:
        """Whether the labels are right; says how often the model was made."""
        before = len(made[name])
        config = RuntimeConfig(name=name, precision="fp32", device="cpu")
        seed = open_runtime(config, checkpoint)(images)["seed"]
        assert (seed - expected["seed"]).abs().max() < 1e-5
        return len(made[name]) - before

    assert (run(), run()) == (1, 0)
    (entry,) = (tmp_path / "cache" / name).iterdir()
    content = entry.read_bytes()
    for damaged in (
        b"",
        content[: len(content) // 2],
        content[:-50_000] + bytes(40_000) + content[-10_000:],
        hashlib.sha256(b"no model").digest() + b"no model",  # as we would write it
    )[: 4 if name == "openvino" else 3]:
        entry.write_bytes(damaged)
        assert (run(), run()) == (1, 0)
    (tmp_path / "file").touch()
    for nowhere in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/x")):
        monkeypatch.setenv("INSTASEG_CACHE", str(nowhere))
        monkeypatch.setattr(files, "_temporary", lambda: tmp_path / "file")
        assert (run(), run()) == (1, 1)
