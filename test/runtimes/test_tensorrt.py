"""TensorRT as a runtime: from weights to an engine that is found again, runs, and is exported.

The engine itself is a stand-in here (see `stand_in_tensorrt.py`); the last test, marker gpu, takes
the real one.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
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

from stand_in_cuda import CpuRecorder
from stand_in_tensorrt import StandInTensorRT

from instaseg_ros.checkpoint import Checkpoint
from instaseg_ros.clustering.ellipses.gpu import SIZES
from instaseg_ros.config import EngineConfig, RuntimeConfig
from instaseg_ros.cuda_capture import Recording
from instaseg_ros.deploy.export import Order, export, prepare_engine
from instaseg_ros.errors import ConfigError, EngineError
from instaseg_ros.files import Cache
from instaseg_ros.model.temporal import NEXT_STATE
from instaseg_ros.runtimes import tensorrt_runtime, torch2trt_runtime
from instaseg_ros.runtimes.comparison import Comparison
from instaseg_ros.runtimes.onnx_file import cached_onnx
from instaseg_ros.runtimes.tensorrt_engine import EngineFile
from instaseg_ros.runtimes.tensorrt_runtime import Engine, TensorRTRuntime, engine_name, prepared
from instaseg_ros.runtimes.torch2trt_runtime import Torch2TrtRuntime, load_plan

Install = Callable[[StandInTensorRT], None]
pytestmark = pytest.mark.xdist_group("converting")
SIZE = (48, 80)


@pytest.fixture(scope="module")
def written(small: Checkpoint, with_dense: Checkpoint, temporal: Checkpoint, cache: None) -> None:
    """The ONNX files, written while torch.cuda is what it is: torch imports parts for it."""
    for checkpoint in (small, with_dense, temporal):
        cached_onnx(checkpoint, SIZE, "fp32")


@pytest.fixture
def with_stand_in(
    monkeypatch: pytest.MonkeyPatch, written: None, tmp_path: Path, cpu_as_cuda: None
) -> Install:
    """Installs a stand-in as `tensorrt`, with a GPU that is named as one and its own engines."""

    def install(trt: StandInTensorRT) -> None:
        monkeypatch.setitem(sys.modules, "tensorrt", trt)
        torch2trt = SimpleNamespace(TRTModule=StandInTRTModule)
        monkeypatch.setitem(sys.modules, "torch2trt", torch2trt)
        gpu = SimpleNamespace(name="stand-in GPU", major=8, minor=7)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
        monkeypatch.setattr(tensorrt_runtime, "pick_device", lambda name: torch.device("cuda"))
        monkeypatch.setattr(tensorrt_runtime, "_cache", Cache("tensorrt", tmp_path))
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
    facts = runtime.engine(SIZE).facts
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


def test_whatever_fails_in_a_build_is_not_tried_for_every_frame(
    small: Checkpoint, with_stand_in: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_stand_in(StandInTensorRT())
    tried = []

    def build(*_: object) -> None:
        tried.append(1)
        raise AttributeError("'NoneType' object has no attribute 'serialize'")

    monkeypatch.setattr(tensorrt_runtime, "build_engine", build)
    runtime = TensorRTRuntime(CONFIG, small)
    for _ in range(3):
        with pytest.raises(EngineError, match="no attribute 'serialize'"):
            runtime(np.zeros((1, *SIZE, 3), np.uint8))
    assert len(tried) == 1


def test_timings_are_kept_after_the_engine_by_machine(
    small: Checkpoint, with_stand_in: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = StandInTensorRT()
    with_stand_in(trt)
    written: list[str] = []
    plain = Cache.write

    def write(self: Cache, name: str, content: bytes) -> None:
        if self is tensorrt_runtime._cache:
            written.append(name)
        plain(self, name, content)

    monkeypatch.setattr(Cache, "write", write)
    monkeypatch.setattr(tensorrt_runtime, "_driver", lambda: "540.3")
    TensorRTRuntime(CONFIG, small).engine(SIZE)
    engine, timings = written
    assert engine.endswith(".engine") and timings == "timings-10.0.1-stand_in_GPU-8.7-540.3"
    monkeypatch.setattr(tensorrt_runtime, "_driver", lambda: "580.1")
    TensorRTRuntime(dataclasses.replace(CONFIG, engine=EngineConfig(max_batch=3)), small).engine(
        SIZE
    )
    assert written[-1].endswith("-580.1") and trt.builds[1].cache == b""  # measured anew


def test_an_engine_is_prepared_for_the_configured_size(
    small: Checkpoint, with_stand_in: Install
) -> None:
    with_stand_in(StandInTensorRT())
    assert not prepared(small, CONFIG)
    TensorRTRuntime(CONFIG, small).engine(SIZE)
    assert prepared(small, CONFIG, SIZE) and prepared(small, CONFIG, (45, 79))  # which is padded
    assert prepared(small, CONFIG) and prepared(small, CONFIG, (48, 0))  # the rest is not known
    assert not prepared(small, CONFIG, (80, 48)) and not prepared(small, CONFIG, (0, 48))
    assert not prepared(small, dataclasses.replace(CONFIG, precision="fp16"), SIZE)


def test_an_engine_runs_recorded_and_unrecorded(
    small: Checkpoint, with_stand_in: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_stand_in(StandInTensorRT())
    images = np.random.default_rng(0).integers(0, 256, (4, 2, *SIZE, 3)).astype(np.uint8)
    outputs, recorded = [], []

    class Recorder(CpuRecorder):
        def record(self, work: Callable[[], None]) -> Recording[None] | None:
            recorded.append(1)
            return super().record(work) if works else None

    monkeypatch.setattr(tensorrt_runtime, "Recorder", Recorder)
    for works in (True, False):
        runtime = TensorRTRuntime(CONFIG, small)
        run = runtime.load(runtime.engine(SIZE).plan)
        recorded.clear()
        outputs.append([run(both, None)["seed"].clone() for both in images])
        run(images[0, :1], None)  # of another shape: this one's first run
        assert len(recorded) == (1 if works else 3)
        run(images[0, :1], None)
        assert len(recorded) == (2 if works else 4)
    for left, right in zip(*outputs, strict=True):
        assert torch.equal(left, right)
    assert not torch.equal(outputs[0][0], outputs[0][1])


def test_engines_of_image_sizes_of_the_past_are_given_back(
    small: Checkpoint, with_stand_in: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_stand_in(StandInTensorRT())
    started: list[tuple[int, int]] = []

    def engine(self: TensorRTRuntime, size: tuple[int, int]) -> EngineFile:
        started.append(size)
        return EngineFile(b"", {})

    monkeypatch.setattr(TensorRTRuntime, "engine", engine)
    monkeypatch.setattr(TensorRTRuntime, "load", lambda self, plan: lambda images, state: {})
    runtime = TensorRTRuntime(CONFIG, small)
    for height in (8, 16, 24, 32, 8, 40, 8, 16):
        runtime(np.zeros((1, height, 16, 3), np.uint8))
    assert [height for height, _ in started] == [8, 16, 24, 32, 40, 16]
    assert len(runtime._run) == SIZES


def test_an_engine_that_does_not_load_any_more_is_built_anew(
    small: Checkpoint, with_stand_in: Install, caplog: pytest.LogCaptureFixture
) -> None:
    trt = StandInTensorRT()
    with_stand_in(trt)
    before = TensorRTRuntime(CONFIG, small).engine(SIZE)
    name = engine_name(small, SIZE, "fp32", torch.device("cuda"))
    content = json.dumps(before.facts).encode() + b"\n" + b"of another driver"
    tensorrt_runtime._cache.write(name, content)
    assert Comparison(small, SIZE)(TensorRTRuntime(CONFIG, small)).relative < 1e-4
    assert "the cached engine is rebuilt: TensorRT 10.0.1 cannot load" in caplog.text
    assert len(trt.builds) == 2


def test_two_kinds_of_gpu_share_a_cache(
    small: Checkpoint, with_stand_in: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = StandInTensorRT()
    with_stand_in(trt)
    for name in ("stand-in GPU", "NVIDIA L4", "stand-in GPU", "NVIDIA L4"):
        gpu = SimpleNamespace(name=name, major=8, minor=9)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, gpu=gpu: gpu)
        TensorRTRuntime(CONFIG, small).engine(SIZE)
    assert len(trt.builds) == 2


class StandInTRTModule:
    """torch2trt's module, as far as `Torch2TrtRuntime` knows it."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._names = state["output_names"]
        assert state["input_names"] == ["images", "state"][: len(state["input_names"])]
        trt = sys.modules["tensorrt"]
        self._engine = Engine(trt, bytes(state["engine"]), torch.device("cpu"))

    def __call__(self, images: torch.Tensor, *state: torch.Tensor) -> Any:
        outputs = self._engine(images.numpy(), *state)
        heads = tuple(outputs[name] for name in self._names)
        return heads if len(heads) > 1 else heads[0]  # as the real one


def test_torch2trt_gives_the_output_of_a_single_head_as_it_is(
    small: Checkpoint, with_stand_in: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_stand_in(StandInTensorRT())
    runtime = Torch2TrtRuntime(CONFIG, small)
    runtime.device = torch.device("cpu")
    monkeypatch.setattr(torch2trt_runtime, "output_names", lambda checkpoint: ["seed"])
    plan = TensorRTRuntime(CONFIG, small).engine(SIZE).plan
    outputs = runtime.load(plan)(np.zeros((1, *SIZE, 3), np.uint8), None)
    assert {name: output.shape for name, output in outputs.items()} == {"seed": (1, 3, *SIZE)}


def test_torch2trt_runs_the_same_engine(small: Checkpoint, with_stand_in: Install) -> None:
    trt = StandInTensorRT()
    with_stand_in(trt)
    runtime = Torch2TrtRuntime(CONFIG, small)
    runtime.device = torch.device("cpu")
    assert runtime.name == "torch2trt"
    assert Comparison(small, SIZE)(runtime).relative < 1e-4
    TensorRTRuntime(CONFIG, small).engine(SIZE)
    assert len(trt.builds) == 1


@pytest.mark.parametrize("kind", [TensorRTRuntime, Torch2TrtRuntime])
def test_a_dense_head_is_one_more_output(
    with_dense: Checkpoint, with_stand_in: Install, kind: type[TensorRTRuntime]
) -> None:
    with_stand_in(StandInTensorRT())
    runtime = kind(CONFIG, with_dense)
    runtime.device = torch.device("cpu")
    assert Comparison(with_dense, SIZE)(runtime).relative < 1e-4
    outputs = runtime(np.zeros((2, *SIZE, 3), np.uint8))
    assert list(outputs) == ["offset", "bandwidth", "seed", "dense"]
    assert outputs["dense"].shape == (2, 5, 6, 10)


@pytest.mark.parametrize("kind", [TensorRTRuntime, Torch2TrtRuntime])
def test_the_state_goes_in_and_out(
    temporal: Checkpoint,
    with_stand_in: Install,
    kind: type[TensorRTRuntime],
) -> None:
    trt = StandInTensorRT()
    with_stand_in(trt)
    runtime = kind(CONFIG, temporal)
    runtime.device = torch.device("cpu")
    comparison = Comparison(temporal, SIZE)
    assert comparison(runtime).relative < 1e-4  # each frame with the state after the last
    forgetful = comparison(lambda images, state=None: runtime(images))
    assert forgetful.relative > 1e-3
    runtime(comparison.frames[0]).pop(NEXT_STATE)  # as the pipeline does
    assert NEXT_STATE in runtime(comparison.frames[1])
    (built,) = trt.builds
    assert built.profile is not None
    assert built.profile.shapes["state"] == [(1, 64, 6, 10), (1, 64, 6, 10), (2, 64, 6, 10)]


@pytest.mark.parametrize(
    ("target", "name"),
    [("tensorrt", "a.engine"), pytest.param("torch2trt", "a.pth", marks=pytest.mark.newest)],
)
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
    assert plan in kept.read_bytes()
    assert json.loads((tmp_path / f"{name}.json").read_text())["gpu"] == "stand-in GPU"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "bf16"}, "TensorRT engines are fp32, fp16 or int8, got 'bf16'"),
        ({"precision": "int8"}, "run `instaseg quantize --to tensorrt` with these weights"),
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
@pytest.mark.parametrize("weights", ["untrained", "temporal"])
def test_a_real_engine_computes_what_torch_does(
    request: pytest.FixtureRequest, cache: None, weights: str, precision: str
) -> None:
    checkpoint = request.getfixturevalue(weights)
    config = dataclasses.replace(CONFIG, precision=precision)
    runtime = TensorRTRuntime(config, checkpoint)
    difference = Comparison(checkpoint, SIZE)(runtime)
    assert difference.relative < {"fp32": 1e-3, "fp16": 0.03}[precision]
    spent = runtime.engine(SIZE).facts
    assert spent["difference"]["relative"] == pytest.approx(difference.relative, rel=0.5)
