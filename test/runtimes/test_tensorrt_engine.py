"""When a TensorRT engine is kept, refused and built anew, and what its builder is told.

The engine itself is a stand-in here (see `stand_in_tensorrt.py`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from stand_in_tensorrt import IBuilderConfig, StandInTensorRT

from instaseg_ros.errors import EngineError
from instaseg_ros.files import Cache
from instaseg_ros.runtimes.comparison import Difference
from instaseg_ros.runtimes.tensorrt_engine import (
    EngineFile,
    EngineSpec,
    build_engine,
    engine,
    refusal,
    write_sidecar,
)

pytestmark = pytest.mark.xdist_group("converting")
SPEC = EngineSpec("0a1b", "10.0.1", "Orin", "8.7", "fp16", (512, 1024), (1, 1, 4))
NAME = "a.engine"
SMALL = Difference(0.02, 0.001, 0.004)
LARGE = Difference(2.0, 0.5, 0.2)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache("tensorrt", tmp_path)


def build(cache: Cache, spec: EngineSpec = SPEC, difference: Difference = SMALL) -> list[str]:
    """Ask for an engine; says whether it had to be built."""
    built: list[str] = []

    def make() -> bytes:
        built.append(NAME)
        return b"the engine"

    file = engine(cache, NAME, spec, make, lambda plan: difference)
    assert file.plan == b"the engine"
    assert file.facts["engine_sha256"] == hashlib.sha256(b"the engine").hexdigest()
    return built


def test_an_engine_is_built_once_and_its_facts_say_for_what(cache: Cache, tmp_path: Path) -> None:
    assert build(cache)
    assert not build(cache)
    facts = engine(cache, NAME, SPEC, lambda: b"", lambda plan: SMALL).facts
    assert facts.items() >= json.loads(json.dumps(dataclasses.asdict(SPEC))).items()
    assert facts["difference"] == {"largest": 0.02, "mean": 0.001, "relative": 0.004}
    assert facts["build_s"] >= 0
    write_sidecar(tmp_path / "a.engine", facts)
    assert json.loads((tmp_path / "a.engine.json").read_text()) == facts


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
    cache: Cache, caplog: pytest.LogCaptureFixture, change: dict[str, object], reason: str
) -> None:
    build(cache)
    other = dataclasses.replace(SPEC, **change)
    difference = Difference(1e-5, 1e-7, 1e-6)
    with caplog.at_level(logging.WARNING):
        assert build(cache, other, difference)
    assert reason in caplog.text
    assert not build(cache, other, difference)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"difference": {}}, "cannot be read (TypeError"),
        ({"difference": None}, "cannot be read (TypeError"),
        ({"difference": LARGE._asdict()}, "is above 0.03"),
        ({"gpu": None}, "gpu is Orin here, the engine was built for None"),
    ],
)
def test_an_engine_with_facts_of_no_use_is_refused(change: dict[str, object], reason: str) -> None:
    facts = json.loads(json.dumps(dataclasses.asdict(SPEC)))
    kept = EngineFile(b"", {**facts, "difference": SMALL._asdict()})
    assert refusal(kept, SPEC) is None
    assert reason in str(refusal(EngineFile(b"", {**kept.facts, **change}), SPEC))


def test_a_damaged_engine_is_built_anew(cache: Cache) -> None:
    build(cache)
    path = cache.path(NAME)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert build(cache)
    assert not build(cache)


@pytest.mark.parametrize(
    "difference", [LARGE, Difference(float("inf"), float("nan"), float("nan"))]
)
def test_an_engine_too_far_from_torch_is_not_kept(cache: Cache, difference: Difference) -> None:
    with pytest.raises(EngineError, match="not kept: expected at most"):
        build(cache, SPEC, difference)
    assert not cache.names()


@pytest.mark.parametrize(
    ("version", "precision", "flags"),
    [
        ("8.6.1", "fp16", {"FP16"}),
        ("8.6.1", "fp32", set()),
        ("10.0.1", "fp16", set()),  # strongly typed: as the ONNX file says
        ("11.4.0.106", "fp16", set()),
        ("8.6.1", "int8", {"INT8", "FP16"}),
        ("10.0.1", "int8", {"INT8", "FP16"}),  # of what is not int8 the file says float32
        ("11.4.0.106", "int8", set()),
    ],
)
def test_what_the_builder_is_told(
    cpu_as_cuda: None, version: str, precision: str, flags: set[str]
) -> None:
    from test_tensorrt_api import small_onnx

    trt = StandInTensorRT(version)
    spec = dataclasses.replace(SPEC, precision=precision, size=(8, 16), batch=(1, 2, 4))
    _, timings = build_engine(trt, small_onnx(), spec, 64)
    _, more = build_engine(trt, small_onnx(), spec, 64, timings)
    first, second = trt.builds
    assert first.flags == flags  # TF32, which the builder has by default, is gone
    assert first.workspace == 64 << 20
    assert first.profile is not None
    assert first.profile.shapes == {"images": [(1, 8, 16, 3), (2, 8, 16, 3), (4, 8, 16, 3)]}
    assert first.cache == b"" and second.cache == timings  # what the first one measured
    assert more == timings + b"+"


@pytest.mark.parametrize(
    "known",
    [b"of no kind", b"timings of TensorRT 10.0.1, NVIDIA L4, driver 580;"],
    ids=["damaged", "of another machine"],
)
def test_a_timing_cache_that_tensorrt_refuses_costs_no_engine(
    cpu_as_cuda: None, known: bytes
) -> None:
    from test_tensorrt_api import small_onnx

    trt = StandInTensorRT()
    plan, timings = build_engine(trt, small_onnx(), SPEC, 64, known)
    assert plan and timings == b"timings of TensorRT 10.0.1, Orin, driver 540;+"
    assert trt.builds[0].cache == b""


@pytest.mark.parametrize("trouble", ["takes none", "gives none", "raises"])
def test_without_any_timing_cache_there_is_an_engine(
    cpu_as_cuda: None, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    from test_tensorrt_api import small_onnx

    def refuse(*_: object, **__: object) -> bool:
        if trouble == "raises":
            raise RuntimeError("cudaErrorUnknown")
        return False

    name = "set_timing_cache" if trouble == "takes none" else "get_timing_cache"
    answer = refuse if trouble != "gives none" else lambda self: None
    monkeypatch.setattr(IBuilderConfig, name, answer)
    plan, timings = build_engine(StandInTensorRT(), small_onnx(), SPEC, 64, b"timings of old;")
    assert plan and timings == b""
