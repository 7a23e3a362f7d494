"""Exported files compute what torch does, say what they are, and are not kept when they do not."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

import onnx

from instaseg_ros import cli
from instaseg_ros.checkpoint import Checkpoint, save_checkpoint, weights_hash
from instaseg_ros.config import RuntimeConfig
from instaseg_ros.deploy import export as exporting
from instaseg_ros.deploy.export import Order, export
from instaseg_ros.errors import ConfigError, EngineError, WeightsError
from instaseg_ros.methods import METHODS, make_method
from instaseg_ros.model.erfnet import PROFILES, ERFNet
from instaseg_ros.runtimes import onnx_file
from instaseg_ros.runtimes.comparison import Comparison, Difference
from instaseg_ros.runtimes.onnx_file import cached_onnx, make_onnx
from instaseg_ros.runtimes.onnx_runtime import Session
from instaseg_ros.runtimes.torch2trt_runtime import load_plan, save_module

pytestmark = pytest.mark.xdist_group("converting")
SIZE = (48, 80)


@pytest.fixture
def order(small: Checkpoint, cache: None) -> Order:
    return Order(small, SIZE, RuntimeConfig(precision="fp32"))


def test_onnx_is_checked_named_and_of_any_batch(order: Order, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    assert export(order, "onnx", path).startswith("largest ")
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert (model.opset_import[0].version, model.ir_version) == (17, 8)
    shapes = {value.name: shape(value) for value in (*model.graph.input, *model.graph.output)}
    assert shapes == {
        "images": ["batch", 48, 80, 3],
        "offset": ["batch", 2, 48, 80],
        "bandwidth": ["batch", 2, 48, 80],
        "seed": ["batch", 3, 48, 80],
    }
    assert model.graph.node[0].op_type == "Cast"  # all that TensorRT does with uint8
    (entry,) = model.metadata_props
    assert json.loads(entry.value)["class_names"] == ["person", "rider", "car"]
    assert json.loads(entry.value)["heads"][0] == ["offset", 2, 0]
    assert os.fsencode(Path.home()) not in path.read_bytes()
    run = Session(path, torch.device("cpu"))
    images = np.random.default_rng(0).integers(0, 256, (3, *SIZE, 3)).astype(np.uint8)
    three = {name: value.clone() for name, value in run(images).items()}
    one = run(images[2:])
    assert all((three[name][2:] - one[name]).abs().max() < 1e-5 for name in three)


def shape(value: Any) -> list[object]:
    return [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim]


def test_onnx_in_fp16_is_half_as_large_and_close(order: Order, tmp_path: Path) -> None:
    half = order._replace(runtime=RuntimeConfig(precision="fp16"))
    export(half, "onnx", tmp_path / "half.onnx")
    full = cached_onnx(order.checkpoint, SIZE, "fp32")
    assert (tmp_path / "half.onnx").stat().st_size < 0.6 * len(full)
    run = Session(tmp_path / "half.onnx", torch.device("cpu"))
    outputs = run(np.zeros((1, *SIZE, 3), np.uint8))
    assert {output.dtype for output in outputs.values()} == {torch.float32}
    difference = Comparison(order.checkpoint, SIZE)(run)
    assert 1e-6 < difference.relative < 0.03


def assert_folded(checkpoint: Checkpoint) -> None:
    """No BatchNorm is left in the files, and float32 is the network's."""
    size = (checkpoint.stride * 2, checkpoint.stride * 3)
    for precision in ("fp32", "fp16"):
        content = make_onnx(checkpoint, size, precision)
        model = onnx.load_from_string(content)
        assert model.opset_import[0].version == 17
        kinds = {node.op_type for node in model.graph.node}
        assert "Conv" in kinds and "BatchNormalization" not in kinds
        if precision == "fp32":
            run = Session(content, torch.device("cpu"))
            assert Comparison(checkpoint, size)(run).relative < 1e-5


@pytest.mark.parametrize("weights", ["small", "small_lite", "with_dense", "temporal"])
def test_files_have_no_batch_norm(request: pytest.FixtureRequest, weights: str) -> None:
    assert_folded(with_statistics(request.getfixturevalue(weights)))


@pytest.mark.slow
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", METHODS)
def test_files_of_any_method_and_depth_have_no_batch_norm(name: str, profile: str) -> None:
    torch.manual_seed(0)
    method = make_method(name, 2)
    network = ERFNet(method.heads, profile, method.temporal)
    checkpoint = Checkpoint(network.state_dict(), ("car", "bus"), name, profile=profile)
    assert_folded(with_statistics(checkpoint))


def with_statistics(checkpoint: Checkpoint) -> Checkpoint:
    """The same with BatchNorms that do something, as those of trained weights do."""
    torch.manual_seed(0)
    tensors = dict(checkpoint.tensors)
    for name in [name for name in tensors if name.endswith("running_var")]:
        bn, n = name.removesuffix("running_var"), len(tensors[name])
        tensors |= {
            f"{bn}running_mean": torch.randn(n) * 0.1,
            f"{bn}running_var": torch.rand(n) + 0.5,
            f"{bn}weight": torch.randn(n).sign() * (torch.rand(n) + 0.5),
            f"{bn}bias": torch.randn(n) * 0.1,
        }
    return dataclasses.replace(checkpoint, tensors=tensors)


def test_other_weights_have_another_file(order: Order) -> None:
    renamed = dataclasses.replace(order.checkpoint, class_names=("person", "rider", "tram"))
    bias = order.checkpoint.tensors["encoder.output_conv.bias"]
    other = {**order.checkpoint.tensors, "encoder.output_conv.bias": bias + 1e-6}
    changed = dataclasses.replace(order.checkpoint, tensors=other)
    assert len({weights_hash(c) for c in (order.checkpoint, renamed, changed)}) == 3


@pytest.mark.newest
def test_the_exporter_of_older_torch_gives_the_same_outputs(
    order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch before 2.6; with a newer one the older exporter must be asked for."""
    newer = torch.onnx.export
    monkeypatch.setattr(onnx_file, "TRACED_PROGRAMS", False)
    monkeypatch.setattr(torch.onnx, "export", lambda *a, **k: newer(*a, **k, dynamo=False))
    run = Session(make_onnx(order.checkpoint, SIZE, "fp32"), torch.device("cpu"))
    assert Comparison(order.checkpoint, SIZE)(run).relative < 1e-4
    assert run(np.zeros((2, *SIZE, 3), np.uint8))["seed"].shape == (2, 3, *SIZE)


def test_openvino_ir_is_what_the_runtime_runs(order: Order, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    export(order, "openvino", tmp_path / "net.xml")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.bin", "net.xml"]
    model = openvino.Core().read_model(tmp_path / "net.xml")
    assert model.inputs[0].any_name == "images"
    assert model.inputs[0].partial_shape.to_string() == "[?,48,80,3]"
    assert model.inputs[0].element_type == openvino.Type.u8
    assert [output.any_name for output in model.outputs] == ["offset+bandwidth", "seed"]
    told = json.loads(model.get_rt_info(["instaseg_ros"]).value)
    assert told["class_names"] == ["person", "rider", "car"]
    with pytest.raises(ConfigError, match=r"net\.xml exists: choose another name"):
        export(order, "openvino", tmp_path / "net.xml")


@pytest.mark.newest  # also as a file for torch2trt
def test_a_dense_head_is_one_more_output(
    with_dense: Checkpoint, cache: None, tmp_path: Path
) -> None:
    openvino = pytest.importorskip("openvino")
    order = Order(with_dense, SIZE, RuntimeConfig(precision="fp32"))
    export(order, "openvino", tmp_path / "net.xml")
    model = openvino.Core().read_model(tmp_path / "net.xml")
    assert [output.any_name for output in model.outputs] == ["offset+bandwidth", "seed", "dense"]
    assert model.outputs[2].partial_shape.to_string() == "[?,5,6,10]"
    export(order, "onnx", tmp_path / "net.onnx")
    outputs = onnx.load(tmp_path / "net.onnx").graph.output
    assert [(output.name, shape(output)) for output in outputs[3:]] == [
        ("dense", ["batch", 5, 6, 10])
    ]
    save_module(b"engine", with_dense, tmp_path / "engine.pth")
    state = torch.load(tmp_path / "engine.pth", weights_only=True)
    assert state["output_names"] == ["offset", "bandwidth", "seed", "dense"]


def test_what_differs_from_torch_is_not_kept(
    order: Order, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(order: Order, path: Path) -> Any:
        path.write_bytes(b"a model")
        path.with_suffix(".bin").write_bytes(b"its weights")
        run = Session(cached_onnx(order.checkpoint, SIZE, "fp32"), torch.device("cpu"))
        return lambda images: {name: value + 0.5 for name, value in run(images).items()}

    monkeypatch.setitem(exporting.TARGETS, "onnx", (".onnx", wrong))
    with pytest.raises(EngineError, match="not kept: expected at most"):
        export(order, "onnx", tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_a_nan_is_a_difference(small: Checkpoint) -> None:
    comparison = Comparison(small, SIZE)
    frames = iter(comparison.expected)

    def run(images: np.ndarray) -> dict[str, torch.Tensor]:
        outputs = {name: value.clone() for name, value in next(frames).items()}
        outputs["seed"][0, 0, 0, 0] = torch.nan
        return outputs

    assert comparison(run).relative == np.inf
    assert str(Difference(0.5, 0.01, 0.1)) == "largest 0.5, mean 0.01, relative 0.1"


@pytest.mark.newest
def test_a_torch2trt_file_is_plain_data(small: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "engine.pth"
    save_module(b"\x00engine\xff", small, path)
    assert load_plan(path) == b"\x00engine\xff"
    state = torch.load(path, weights_only=True)  # as a user of torch2trt loads it
    assert state["output_names"] == ["offset", "bandwidth", "seed"]
    assert state["input_names"] == ["images"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"engine": Path("x")}, "not plain data"),
        ({"plan": bytearray(b"x")}, "expected a serialised engine"),
    ],
)
@pytest.mark.newest
def test_a_torch2trt_file_that_is_more_or_less_is_refused(
    tmp_path: Path, content: dict[str, object], message: str
) -> None:
    torch.save(content, tmp_path / "engine.pth")
    with pytest.raises(WeightsError, match=message):
        load_plan(tmp_path / "engine.pth")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "onnx", "--size", "50x80"], "expected multiples of 8, got 50x80"),
        (["--to", "onnx", "--size", "wide"], "expected HEIGHTxWIDTH in pixels, got wide"),
        (["--to", "onnx", "-o", "net.xml"], "expected a name that ends in .onnx, got net.xml"),
        (["--to", "onnx", "--precision", "int8"], "precision of onnx: expected one of fp32, fp16"),
        (["--to", "safetensors", "--precision", "int8"], "expected fp32 or fp16, got int8"),
        (["--to", "tensorrt"], "needs"),
        (["--to", "torch2trt"], "needs"),
        (["--to", "tensorrt", "--batch", "0", "4"], "runtime.engine.best_batch: expected a value"),
    ],
)
def test_what_cannot_be_exported_is_refused_by_name(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", "street-synthetic", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_command_names_file_and_difference(
    order: Order,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    save_checkpoint(order.checkpoint, "mine.safetensors")
    frames = tmp_path / "frames"
    frames.mkdir()
    cv2.imwrite(str(frames / "a.png"), np.full((30, 60, 3), 90, np.uint8))
    command = ["export", "mine.safetensors", "--to", "onnx", "--size", "48x80", "--images"]
    assert cli.main([*command, str(frames)]) == 0
    assert "mine-48x80-fp32.onnx: difference from torch in float32" in capsys.readouterr().out
    assert Path("mine-48x80-fp32.onnx").is_file()
