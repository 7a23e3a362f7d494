"""Runtimes agree with the float32 network, and `auto` picks what this machine has."""

from __future__ import annotations

import gc
import importlib.util
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from instaseg_ros import runtimes
from instaseg_ros.checkpoint import Checkpoint
from instaseg_ros.config import RuntimeConfig
from instaseg_ros.errors import ConfigError
from instaseg_ros.files import Cache
from instaseg_ros.runtimes import best_batch, choose, open_runtime, tensorrt_runtime
from instaseg_ros.runtimes.tensorrt_runtime import engine_name

pytestmark = pytest.mark.xdist_group("converting")
needs_openvino = pytest.mark.skipif(
    not importlib.util.find_spec("openvino"), reason="openvino is not installed"
)
needs_onnx = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("onnx", "onnxscript", "onnxruntime"))),
    reason="the extra onnx is not installed",
)


@pytest.fixture(scope="module")
def checkpoint(small: Checkpoint, cache: None) -> Checkpoint:
    return small


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 48, 80, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def expected(checkpoint: Checkpoint, images: np.ndarray) -> dict[str, torch.Tensor]:
    return float32(checkpoint, images)


def float32(checkpoint: Checkpoint, images: np.ndarray) -> dict[str, torch.Tensor]:
    """Raw outputs of the float32 network in eager torch."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        return checkpoint.network().eval()(pixels)


ON_A_CPU = [
    ("torch", "fp32", 1e-5),
    ("torch", "bf16", 2e-2),
    pytest.param("openvino", "fp32", 1e-5, marks=needs_openvino),
    pytest.param("openvino", "bf16", 2e-2, marks=needs_openvino),
    pytest.param("onnx", "fp32", 1e-5, marks=needs_onnx),
]


@pytest.mark.parametrize(("name", "precision", "tolerance"), ON_A_CPU)
def test_outputs_are_those_of_the_network(
    checkpoint: Checkpoint,
    images: np.ndarray,
    expected: dict[str, torch.Tensor],
    name: str,
    precision: str,
    tolerance: float,
) -> None:
    runtime = open_runtime(RuntimeConfig(name=name, precision=precision, device="cpu"), checkpoint)
    assert (runtime.name, runtime.precision) == (name, precision)
    outputs = runtime(images)
    assert outputs.keys() == expected.keys()
    for head, output in outputs.items():
        assert output.dtype == torch.float32
        assert output.shape == expected[head].shape
        assert (output - expected[head]).abs().max() < tolerance, head
    one = runtime(images[1:])  # another batch size with the same runtime
    assert (one["seed"] - expected["seed"][1:]).abs().max() < tolerance


@pytest.mark.parametrize(
    ("name", "threads", "images"),
    [
        ("torch", 8, 1),
        pytest.param("openvino", 1, 1, marks=needs_openvino),
        pytest.param("openvino", 3, 3, marks=needs_openvino),
        pytest.param("openvino", 8, 4, marks=needs_openvino),
    ],
)
def test_how_many_images_at_once_suit_a_runtime(
    checkpoint: Checkpoint, name: str, threads: int, images: int
) -> None:
    config = RuntimeConfig(name=name, precision="fp32", device="cpu", threads=threads)
    assert best_batch(open_runtime(config, checkpoint)) == images


@pytest.mark.parametrize(("name", "precision", "tolerance"), ON_A_CPU)
def test_a_dense_head_is_one_more_output(
    with_dense: Checkpoint,
    cache: None,
    images: np.ndarray,
    name: str,
    precision: str,
    tolerance: float,
) -> None:
    runtime = open_runtime(RuntimeConfig(name=name, precision=precision, device="cpu"), with_dense)
    wanted = float32(with_dense, images)
    outputs = runtime(images)
    assert set(outputs) == {"offset", "bandwidth", "seed", "dense"}
    assert outputs["dense"].shape == (2, 5, 6, 10)
    for head, output in outputs.items():
        assert output.dtype == torch.float32
        assert (output - wanted[head]).abs().max() < tolerance, head
    assert (runtime(images[1:])["dense"] - wanted["dense"][1:]).abs().max() < tolerance


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize(
    ("precision", "tolerance"), [("fp32", 1e-3), ("bf16", 2e-2), ("fp16", 5e-3)]
)
@pytest.mark.parametrize("weights", ["untrained", "with_dense"])
def test_cuda_outputs_are_those_of_the_network(
    request: pytest.FixtureRequest,
    cache: None,
    images: np.ndarray,
    weights: str,
    precision: str,
    tolerance: float,
) -> None:
    checkpoint = request.getfixturevalue(weights)
    runtime = open_runtime(RuntimeConfig(precision=precision, device="cuda"), checkpoint)
    assert runtime.name == "torch"
    expected = float32(checkpoint, images)
    for head, output in runtime(images).items():
        assert output.device.type == "cuda"
        assert (output.cpu() - expected[head]).abs().max() < tolerance, head


def test_auto_is_openvino_on_a_cpu_that_has_it(checkpoint: Checkpoint) -> None:
    found = importlib.util.find_spec("openvino") is not None
    runtime = open_runtime(RuntimeConfig(device="cpu"), checkpoint)
    assert runtime.name == ("openvino" if found else "torch")


@pytest.mark.parametrize(
    ("cuda", "installed", "engine", "precision", "name", "why"),
    [
        (True, {"tensorrt"}, True, "auto", "tensorrt", "an engine of these weights was built"),
        (True, {"tensorrt"}, True, "bf16", "torch", "there is a CUDA device"),  # no such engine
        (True, {"tensorrt"}, False, "auto", "torch", "there is a CUDA device"),
        (True, {"openvino"}, True, "auto", "torch", "there is a CUDA device"),
        (False, {"openvino", "onnx", "onnxruntime"}, False, "fp32", "openvino", "OpenVINO is"),
        (False, {"openvino", "onnx", "onnxruntime"}, False, "int8", "openvino", "OpenVINO is"),
        (False, {"onnx", "onnxruntime"}, False, "fp32", "onnx", "onnxruntime is installed"),
        (False, {"onnx", "onnxruntime"}, False, "bf16", "torch", "pip install openvino"),
        (False, {"onnxruntime"}, False, "fp32", "torch", "pip install openvino"),
    ],
)
def test_auto_takes_the_first_that_holds(
    checkpoint: Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    cuda: bool,
    installed: set[str],
    engine: bool,
    precision: str,
    name: str,
    why: str,
) -> None:
    monkeypatch.setenv("INSTASEG_CACHE", str(tmp_path))
    device = torch.device("cuda" if cuda else "cpu")
    gpu = SimpleNamespace(name="stand-in GPU")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    if engine:
        Cache("tensorrt").write(engine_name(checkpoint, (48, 80), "fp16", device), b"an engine")
    monkeypatch.setattr(runtimes, "pick_device", lambda name: device)
    monkeypatch.setattr(tensorrt_runtime, "pick_device", lambda name: device)
    monkeypatch.setattr(runtimes, "_installed", lambda package: package in installed)
    chosen, reason = choose(RuntimeConfig(precision=precision), checkpoint)
    assert chosen == name
    assert why in reason
    if engine:  # it is of another size than the configured one
        assert choose(RuntimeConfig(precision=precision), checkpoint, (48, 88))[0] != "tensorrt"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (RuntimeConfig(name="torch", device="gpu0"), "expected auto, cpu or cuda"),
        (RuntimeConfig(name="torch", device="cuda:99"), "torch sees no such device"),
        (RuntimeConfig(name="torch", device="cpu", precision="fp16"), "fp16 needs a GPU"),
        pytest.param(
            RuntimeConfig(name="openvino", device="cuda"), "runs on 'cpu'", marks=needs_openvino
        ),
        pytest.param(
            RuntimeConfig(name="onnx", device="cpu", precision="bf16"),
            "computes in fp32, or fp16 on CUDA; got 'bf16' on 'cpu'",
            marks=needs_onnx,
        ),
    ],
)
def test_what_cannot_run_is_refused_by_name(
    checkpoint: Checkpoint, config: RuntimeConfig, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        open_runtime(config, checkpoint)


@needs_openvino
def test_openvino_gives_the_traced_network_back(checkpoint: Checkpoint) -> None:
    def resident_mb() -> float:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    sizes_mb = []
    for _ in range(3):
        open_runtime(RuntimeConfig(name="openvino", threads=1), checkpoint)
        gc.collect()
        sizes_mb.append(resident_mb())
    # torch would keep some 40 MB for each trace
    assert sizes_mb[-1] - sizes_mb[0] < 60, sizes_mb
