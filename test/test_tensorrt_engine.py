"""When a TensorRT engine is kept, refused and built anew, and what its builder is told.

The engine itself is a stand-in here (see `stand_in_tensorrt.py`).
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from stand_in_tensorrt import StandInTensorRT

from instaseg_ros.errors import EngineError
from instaseg_ros.runtimes.comparison import Difference
from instaseg_ros.runtimes.tensorrt_engine import EngineSpec, build_engine, engine, refusal, sidecar

pytestmark = pytest.mark.xdist_group("converting")
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
