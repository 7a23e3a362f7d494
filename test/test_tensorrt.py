"""What stands around a TensorRT engine: when it is kept, refused and built anew, and why.

The engine itself is a stand-in here (see `stand_in_tensorrt.py`); the last test, marker gpu, takes
the real one.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from stand_in_tensorrt import StandInTensorRT

from instaseg_ros.checkpoint import Checkpoint
from instaseg_ros.config import EngineConfig, RuntimeConfig
from instaseg_ros.errors import ConfigError, EngineError
from instaseg_ros.export import Order, export, prepare_engine
from instaseg_ros.onnx_model import cached_onnx
from instaseg_ros.runtimes import tensorrt_runtime
from instaseg_ros.runtimes.comparison import Comparison, Difference
from instaseg_ros.runtimes.tensorrt_engine import EngineSpec, build_engine, engine, refusal, sidecar
from instaseg_ros.runtimes.tensorrt_runtime import Engine, TensorRTRuntime, engine_path
from instaseg_ros.runtimes.torch2trt_runtime import Torch2TrtRuntime, load_plan

Install = Callable[[StandInTensorRT], None]
pytestmark = pytest.mark.xdist_group("converting")
SIZE = (48, 80)
SPEC = EngineSpec("0a1b", "10.0.1", "Orin", "8.7", "fp16", (512, 1024), (1, 1, 4))
SMALL = Difference(0.02, 0.001, 0.004)
LARGE = Difference(2.0, 0.5, 0.2)


def build(path: Path, spec: EngineSpec = SPEC, difference: Difference = SMALL) -> list[str]:
    """Ask for an engine; says whether it had to be built."""
    built: list[str] = []

    def make() -> bytes:
        built.append(path.name)
        return b"the engine"

    assert engine(path, spec, make, lambda plan: difference) == b"the engine"
    return built


def test_an_engine_is_built_once_and_its_sidecar_says_for_what(tmp_path: Path) -> None:
    path = tmp_path / "a.engine"
    assert build(path)
    assert not build(path)
    facts = json.loads(sidecar(path).read_text())
    assert facts.items() >= json.loads(json.dumps(dataclasses.asdict(SPEC))).items()
    assert facts["difference"] == {"largest": 0.02, "mean": 0.001, "relative": 0.004}
    assert facts["build_s"] >= 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.engine", "a.engine.json"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"onnx_sha256": "ff"}, "onnx_sha256 is ff here, the engine was built for 0a1b"),
        ({"tensorrt": "11.4.0"}, "tensorrt is 11.4.0 here, the engine was built for 10.0.1"),
        ({"gpu": "NVIDIA L4"}, "gpu is NVIDIA L4 here, the engine was built for Orin"),
        ({"compute_capability": "8.9"}, "compute_capability is 8.9 here"),
        ({"precision": "fp32"}, "precision is fp32 here, the engine was built for fp16"),
        ({"size": (512, 1032)}, "size is (512, 1032) here"),
        ({"batch": (1, 1, 8)}, "batch is (1, 1, 8) here"),
    ],
)
def test_an_engine_for_something_else_is_built_anew_and_the_log_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: dict[str, object], reason: str
) -> None:
    path = tmp_path / "a.engine"
    build(path)
    other = dataclasses.replace(SPEC, **change)
    difference = Difference(1e-5, 1e-7, 1e-6)
    with caplog.at_level(logging.WARNING):
        assert build(path, other, difference)
    assert reason in caplog.text
    assert not build(path, other, difference)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda path: sidecar(path).unlink(), "its sidecar a.engine.json cannot be used"),
        (lambda path: sidecar(path).write_text("{"), "cannot be used (JSONDecodeError"),
        (lambda path: sidecar(path).write_text("[]"), "cannot be used (TypeError"),
        (lambda path: sidecar(path).write_text('{"difference": {}}'), "cannot be used (TypeError"),
        (lambda path: path.write_bytes(b"the eng"), "not the file that its sidecar describes"),
        (
            lambda path: sidecar(path).write_text(
                sidecar(path).read_text().replace('"relative": 0.004', '"relative": 0.4')
            ),
            "is above 0.03",
        ),
        (lambda path: path.unlink(), "there is none yet"),
    ],
)
def test_a_damaged_engine_is_built_anew(
    tmp_path: Path, harm: Callable[[Path], object], reason: str
) -> None:
    path = tmp_path / "a.engine"
    build(path)
    assert refusal(path, SPEC) is None
    harm(path)
    assert reason in str(refusal(path, SPEC))
    assert build(path)
    assert refusal(path, SPEC) is None


@pytest.mark.parametrize(
    "difference", [LARGE, Difference(float("inf"), float("nan"), float("nan"))]
)
def test_an_engine_too_far_from_torch_is_not_kept(tmp_path: Path, difference: Difference) -> None:
    path = tmp_path / "a.engine"
    with pytest.raises(EngineError, match="not kept: expected at most"):
        build(path, SPEC, difference)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("version", "precision", "flags"),
    [
        ("8.6.1", "fp16", {"FP16"}),
        ("8.6.1", "fp32", set()),
        ("10.0.1", "fp16", set()),  # strongly typed: as the ONNX file says
        ("11.4.0.106", "fp16", set()),
    ],
)
def test_what_the_builder_is_told(
    tmp_path: Path, cpu_as_cuda: None, version: str, precision: str, flags: set[str]
) -> None:
    from test_tensorrt_api import small_onnx

    trt = StandInTensorRT(version)
    spec = dataclasses.replace(SPEC, precision=precision, size=(8, 16), batch=(1, 2, 4))
    cache = tmp_path / "timing.cache"
    for _ in range(2):
        build_engine(trt, small_onnx(), spec, 64, cache)
    first, second = trt.builds
    assert first.flags == flags  # TF32, which the builder has by default, is gone
    assert first.workspace == 64 << 20
    assert first.profile is not None
    assert first.profile.shapes == {"images": [(1, 8, 16, 3), (2, 8, 16, 3), (4, 8, 16, 3)]}
    assert (first.cache, second.cache) == (b"", b"timed;")  # what the first one measured
    assert cache.read_bytes() == b"timed;timed;"


@pytest.fixture(scope="module")
def written(small: Checkpoint, cache: None) -> None:
    """The ONNX file, written while torch.cuda is what it is: torch imports parts for it."""
    cached_onnx(small, SIZE, "fp32")


@pytest.fixture
def with_stand_in(
    monkeypatch: pytest.MonkeyPatch, written: None, tmp_path: Path, cpu_as_cuda: None
) -> Install:
    """Installs a stand-in as `tensorrt`, with a GPU that is named as one and its own engines."""

    def install(trt: StandInTensorRT) -> None:
        monkeypatch.setitem(sys.modules, "tensorrt", trt)
        gpu = SimpleNamespace(name="stand-in GPU", major=8, minor=7)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
        monkeypatch.setattr(tensorrt_runtime, "pick_device", lambda name: torch.device("cuda"))
        monkeypatch.setattr(tensorrt_runtime, "cache_dir", lambda: tmp_path)
        on_cpu = torch.device("cpu")
        monkeypatch.setattr(
            TensorRTRuntime, "load", lambda self, plan: Engine(self._trt, plan, on_cpu)
        )

    return install


CONFIG = RuntimeConfig(name="tensorrt", precision="fp32", engine=EngineConfig(max_batch=2))


def test_from_weights_to_an_engine_that_is_found_again(
    small: Checkpoint, with_stand_in: Install
) -> None:
    trt = StandInTensorRT()
    with_stand_in(trt)
    runtime = TensorRTRuntime(CONFIG, small)
    assert (runtime.name, runtime.precision) == ("tensorrt", "fp32")
    assert Comparison(small, SIZE)(runtime).relative < 1e-4
    facts = json.loads(sidecar(engine_path(small, SIZE, "fp32")).read_text())
    assert facts["gpu"] == "stand-in GPU"
    assert facts["difference"]["relative"] < 1e-4
    images = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3)).astype(np.uint8)
    both, first = runtime(images), {k: v[:1].clone() for k, v in runtime(images[:1]).items()}
    assert (both["seed"][:1] - first["seed"]).abs().max() < 1e-5
    with pytest.raises(ConfigError, match="max_batch is 2, got 3 images at once"):
        runtime(np.zeros((3, *SIZE, 3), np.uint8))
    TensorRTRuntime(CONFIG, small)(images)
    assert len(trt.builds) == 1
    larger = dataclasses.replace(CONFIG, engine=EngineConfig(max_batch=3))
    TensorRTRuntime(larger, small)(np.concatenate([images, images[:1]]))
    assert len(trt.builds) == 2  # built for other batches


def test_wrong_engines_do_not_run(
    small: Checkpoint, with_stand_in: Install, tmp_path: Path
) -> None:
    trt = StandInTensorRT(error=0.5)
    with_stand_in(trt)
    runtime = TensorRTRuntime(CONFIG, small)
    for _ in range(2):
        with pytest.raises(EngineError, match="not kept"):
            runtime(np.zeros((1, *SIZE, 3), np.uint8))
    assert len(trt.builds) == 1  # not for every frame
    assert not list(tmp_path.glob("tensorrt/*.engine*"))


class StandInTRTModule:
    """torch2trt's module, as far as `Torch2TrtRuntime` knows it."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._names = state["output_names"]
        assert state["input_names"] == ["images"]
        trt = sys.modules["tensorrt"]
        self._engine = Engine(trt, bytes(state["engine"]), torch.device("cpu"))

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = self._engine(images.numpy())
        return tuple(outputs[name] for name in self._names)


def test_torch2trt_runs_the_same_engine(
    small: Checkpoint, with_stand_in: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = StandInTensorRT()
    with_stand_in(trt)
    monkeypatch.setitem(sys.modules, "torch2trt", SimpleNamespace(TRTModule=StandInTRTModule))
    runtime = Torch2TrtRuntime(CONFIG, small)
    runtime.device = torch.device("cpu")
    assert runtime.name == "torch2trt"
    assert Comparison(small, SIZE)(runtime).relative < 1e-4
    TensorRTRuntime(CONFIG, small).plan(SIZE)
    assert len(trt.builds) == 1


@pytest.mark.parametrize(("target", "name"), [("tensorrt", "a.engine"), ("torch2trt", "a.pth")])
def test_engines_are_exported_with_their_sidecar(
    small: Checkpoint, with_stand_in: Install, tmp_path: Path, target: str, name: str
) -> None:
    trt = StandInTensorRT()
    with_stand_in(trt)
    order = Order(small, SIZE, CONFIG)
    kept = prepare_engine(order)
    export(order, target, tmp_path / name)
    assert len(trt.builds) == 1
    assert sorted(file.name for file in tmp_path.glob("a.*")) == [name, f"{name}.json"]
    plan = load_plan(tmp_path / name) if target == "torch2trt" else (tmp_path / name).read_bytes()
    assert plan == kept.read_bytes()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "bf16"}, "TensorRT engines are fp32 or fp16, got 'bf16'"),
        ({"engine": EngineConfig(best_batch=3, max_batch=2)}, "at most max_batch, 2, got 3"),
    ],
)
def test_settings_of_no_engine_are_refused(
    small: Checkpoint,
    with_stand_in: Install,
    settings: dict[str, object],
    message: str,
) -> None:
    with_stand_in(StandInTensorRT())
    with pytest.raises(ConfigError, match=message):
        TensorRTRuntime(dataclasses.replace(CONFIG, **settings), small)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.skipif(not importlib.util.find_spec("tensorrt"), reason="tensorrt is not installed")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_real_engine_computes_what_torch_does(
    untrained: Checkpoint, cache: None, precision: str
) -> None:
    config = dataclasses.replace(CONFIG, precision=precision)
    difference = Comparison(untrained, SIZE)(TensorRTRuntime(config, untrained))
    assert difference.relative < {"fp32": 1e-3, "fp16": 0.03}[precision]
    spent = json.loads(sidecar(engine_path(untrained, SIZE, precision)).read_text())
    assert spent["difference"]["relative"] == pytest.approx(difference.relative, rel=0.5)
