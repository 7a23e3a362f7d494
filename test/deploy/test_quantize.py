"""The OpenVINO model on disk; int8 for it and for TensorRT: measured, kept by name, refused with a
reason."""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_networks import untrained_checkpoint

from instaseg_ros import cli, files
from instaseg_ros.checkpoint import Checkpoint, load_checkpoint
from instaseg_ros.config import Config, RuntimeConfig
from instaseg_ros.config.options.spatial_embedding import DecodeConfig
from instaseg_ros.deploy.quantize import (
    Order,
    calibration_images,
    keep_quantised,
    quantize,
    sensitive,
)
from instaseg_ros.deploy.quantize_onnx import quantised_onnx
from instaseg_ros.deploy.quantize_onnx import sensitive as sensitive_convolutions
from instaseg_ros.errors import ConfigError, EngineError
from instaseg_ros.runtimes import open_runtime, openvino_model, tensorrt_runtime
from instaseg_ros.runtimes.comparison import TOLERANCES, Comparison
from instaseg_ros.runtimes.onnx_file import METADATA_KEY, cached_onnx, onnx_with_int8
from instaseg_ros.runtimes.onnx_runtime import Session
from instaseg_ros.runtimes.tensorrt_runtime import Engine, TensorRTRuntime

pytestmark = pytest.mark.xdist_group("converting")
needs_openvino = pytest.mark.skipif(
    not importlib.util.find_spec("openvino"), reason="openvino is not installed"
)
needs_nncf = pytest.mark.skipif(
    not importlib.util.find_spec("nncf"), reason="nncf is not installed"
)
needs_onnx = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("onnx", "onnxscript", "onnxruntime"))),
    reason="onnx, onnxscript or onnxruntime is not installed",
)
IMAGE = np.random.default_rng(0).integers(0, 256, (1, 64, 128, 3), np.uint8)
INT8 = RuntimeConfig(name="openvino", precision="int8")


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTASEG_CACHE", str(tmp_path / "cache"))


def run(checkpoint: Checkpoint) -> torch.Tensor:
    config = RuntimeConfig(name="openvino", precision="fp32")
    return open_runtime(config, checkpoint)(IMAGE)["seed"].clone()


def assert_made_once(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(checkpoint)
    pixels = torch.from_numpy(IMAGE).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        expected = checkpoint.network().eval()(pixels)["seed"]
    assert (first - expected).abs().max() < 1e-5
    monkeypatch.setattr(openvino_model, "traced", None)  # not to be called again
    assert torch.equal(run(checkpoint), first)


@needs_openvino
def test_a_model_is_made_once(
    own_cache: None, small_profiles: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_made_once(untrained_checkpoint("small"), monkeypatch)


@needs_openvino
@pytest.mark.slow
@pytest.mark.parametrize("profile", ["published", "fast"])
def test_a_model_of_full_depth_is_made_once(
    profile: str, own_cache: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_made_once(untrained_checkpoint(profile), monkeypatch)


@needs_openvino
def test_other_weights_have_their_own_model() -> None:
    names = {openvino_model._name(untrained_checkpoint(seed=seed)) for seed in (0, 1, 0)}
    assert len(names) == 2


@needs_openvino
def test_int8_is_not_offered_before_it_is_measured(own_cache: None) -> None:
    with pytest.raises(ConfigError, match="instaseg quantize"):
        open_runtime(INT8, untrained_checkpoint())


@needs_openvino
@pytest.mark.parametrize("content", [b"", b"no model" * 20])
def test_without_an_int8_model_that_was_damaged_it_runs_in_floats(
    own_cache: None, small: Checkpoint, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    kept = openvino_model._quantised
    kept.write(openvino_model._name(small), content)
    runtime = open_runtime(INT8, small)
    assert runtime.precision in ("fp32", "bf16")
    assert "the int8 model is damaged" in caplog.text and "instaseg quantize" in caplog.text
    assert Comparison(small, (64, 128))(runtime).relative < TOLERANCES[runtime.precision]
    path = kept.path(openvino_model._name(small))
    path.write_bytes(path.read_bytes()[:-1])
    assert open_runtime(INT8, small).precision == runtime.precision


def test_torch_does_not_run_int8() -> None:
    with pytest.raises(ConfigError, match="torch runs fp32"):
        open_runtime(RuntimeConfig(name="torch", precision="int8"), untrained_checkpoint())


@needs_nncf
@needs_openvino
def test_int8_is_measured_and_kept(
    small: Checkpoint, cache: None, caplog: pytest.LogCaptureFixture
) -> None:
    made = quantize(small, DecodeConfig(), Order(None, (64, 128), frames=1, check_frames=1))
    assert "on 1 held-out synthetic frames of 64x128" in made.measured
    with pytest.raises(ConfigError, match="is not kept: AP 0"):
        keep_quantised(made, small, made.loss - 1)
    assert not openvino_model._quantised.names()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INSTASEG_CACHE", "/proc/x")
        patch.setattr(files, "_temporary", lambda: Path("/proc/y"))
        with pytest.raises(EngineError, match="could not be kept as /proc/x/openvino_int8"):
            keep_quantised(made, small, made.loss)
    keep_quantised(made, small, made.loss)
    caplog.set_level(logging.INFO)
    runtime = open_runtime(INT8, small)
    assert runtime.precision == "int8"
    assert made.measured in caplog.text
    assert 1e-4 < Comparison(small, (64, 128))(runtime).relative < TOLERANCES["int8"]


TENSORRT = Order(None, (64, 128), frames=2, check_frames=1, target="tensorrt")


@needs_openvino
def test_what_makes_the_outputs_stays_in_floats(with_dense: Checkpoint, cache: None) -> None:
    model = openvino_model.model_of(with_dense, with_dense.network().eval())
    last = [node for node in model.get_ordered_ops() if node.get_type_name() == "Convolution"]
    (dense,) = (n for n in last if n.get_output_partial_shape(0)[1].get_length() == 5)
    assert dense.get_friendly_name() in sensitive(model)


@needs_onnx
@pytest.mark.parametrize("weights", ["small", "small_lite", "with_dense"])
@pytest.mark.newest
def test_the_int8_file_is_what_tensorrt_reads(
    request: pytest.FixtureRequest, cache: None, weights: str
) -> None:
    """Symmetric, of each channel for weights; convolutions alone, their sums rounded once."""
    import onnx
    from onnx.numpy_helper import to_array

    checkpoint = request.getfixturevalue(weights)
    images = list(calibration_images(TENSORRT, checkpoint.stride))
    content = quantised_onnx(checkpoint, TENSORRT.size, images)
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    assert (model.opset_import[0].version, model.ir_version) == (17, 8)
    assert len(model.opset_import) == 1  # no operators of onnxruntime's own
    assert [entry.key for entry in model.metadata_props] == [METADATA_KEY]
    tensors = {tensor.name: to_array(tensor) for tensor in model.graph.initializer}
    makers = {output: node for node in model.graph.node for output in node.output}
    exact = set(sensitive_convolutions(onnx.load_from_string(content_of(checkpoint))))
    n_int8 = 0
    for node in model.graph.node:
        by = [makers[name].op_type if name in makers else None for name in node.input]
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale, zero = (tensors[name] for name in node.input[1:])
            assert zero.dtype == np.int8 and not zero.any() and (scale > 0).all()
        elif node.op_type == "Conv" and node.name not in exact:
            assert by[:2] == ["DequantizeLinear"] * 2
            assert by[2:] in ([], [None])  # a bias is float
            rounded = makers[makers[node.input[1]].input[0]]
            weight, scale = (tensors[name] for name in rounded.input[:2])
            largest = np.abs(weight).reshape(len(weight), -1).max(1)
            assert scale == pytest.approx(largest / 127, rel=0.01)
            n_int8 += 1
        elif node.op_type in ("Conv", "ConvTranspose"):
            assert "DequantizeLinear" not in by[1:]
        elif node.op_type == "Add" and None not in by:
            assert by.count("DequantizeLinear") <= 1  # what skips the block
    assert n_int8 > 3 and exact


def content_of(checkpoint: Checkpoint) -> bytes:
    return cached_onnx(checkpoint, TENSORRT.size, "fp32")


@needs_onnx
@pytest.mark.newest
def test_int8_for_tensorrt_is_measured_kept_and_built(
    small: Checkpoint, own_cache: None, cpu_as_cuda: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stand_in_tensorrt import StandInTensorRT

    trt = StandInTensorRT("8.6.1")
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    gpu = SimpleNamespace(name="stand-in GPU", major=8, minor=7)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    monkeypatch.setattr(tensorrt_runtime, "pick_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(
        TensorRTRuntime, "load", lambda self, plan: Engine(trt, plan, torch.device("cpu"))
    )
    config = RuntimeConfig(name="tensorrt", precision="int8")
    with pytest.raises(ConfigError, match="instaseg quantize --to tensorrt"):
        TensorRTRuntime(config, small)
    made = quantize(small, DecodeConfig(), TENSORRT)
    assert "on 1 held-out synthetic frames of 64x128" in made.measured
    assert max(made.rows["fp32"].largest_difference.values()) < 1e-4
    with pytest.raises(ConfigError, match="is not kept: AP 0"):
        keep_quantised(made, small, made.loss - 1)
    with pytest.raises(ConfigError, match="instaseg quantize --to tensorrt"):
        TensorRTRuntime(config, small)
    keep_quantised(made, small, made.loss)
    runtime = TensorRTRuntime(config, small)
    assert 1e-4 < Comparison(small, TENSORRT.size)(runtime).relative < TOLERANCES["int8"]
    (built,) = trt.builds
    assert built.flags == {"INT8", "FP16"}
    with pytest.raises(EngineError, match="--to tensorrt --size 64x64"):
        runtime(IMAGE[:, :, :64])


@needs_nncf
@needs_openvino
@pytest.mark.slow
def test_the_command_quantises_the_shipped_weights(
    own_cache: None, capsys: pytest.CaptureFixture[str]
) -> None:
    size = ["--size", "128x256", "--frames", "2", "--check-frames", "4"]
    assert cli.main(["quantize", *size, "--max-loss", "-1"]) == 2
    printed = capsys.readouterr()
    assert "largest difference" in printed.out
    assert "is not kept: AP" in printed.err
    assert cli.main(["quantize", *size, "--max-loss", "1"]) == 0
    assert "on 4 held-out synthetic frames of 128x256" in capsys.readouterr().out
    checkpoint = load_checkpoint(Config().weights)
    difference = Comparison(checkpoint, (128, 256))(open_runtime(INT8, checkpoint))
    assert 1e-4 < difference.relative < TOLERANCES["int8"]


@needs_onnx
@pytest.mark.slow
def test_the_command_quantises_for_tensorrt(
    own_cache: None, capsys: pytest.CaptureFixture[str]
) -> None:
    size = ["--size", "128x256", "--frames", "4", "--check-frames", "4"]
    assert cli.main(["quantize", "--to", "tensorrt", *size, "--max-loss", "1"]) == 0
    assert "runtime.name: tensorrt, runtime.precision: int8" in capsys.readouterr().out
    checkpoint = load_checkpoint(Config().weights)
    run = Session(onnx_with_int8(checkpoint, (128, 256)), torch.device("cpu"), as_written=True)
    assert 1e-4 < Comparison(checkpoint, (128, 256))(run).relative < TOLERANCES["int8"]
    assert cli.main(["quantize", "--to", "tensorrt", "--size", "100x256"]) == 2
    assert "expected multiples of 32, got 100x256" in capsys.readouterr().err
