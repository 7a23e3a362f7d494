"""The OpenVINO model on disk, and its int8 form: measured, kept by name, refused with a reason."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import by_chance

from instaseg_ros import cli, files
from instaseg_ros.checkpoint import Checkpoint, load_checkpoint
from instaseg_ros.config import RuntimeConfig
from instaseg_ros.deploy.quantize import Order, keep_quantised, quantize
from instaseg_ros.errors import ConfigError, EngineError
from instaseg_ros.options.spatial_embedding import DecodeConfig
from instaseg_ros.runtimes import open_runtime, openvino_model
from instaseg_ros.runtimes.comparison import TOLERANCES, Comparison

pytestmark = pytest.mark.xdist_group("converting")
needs_openvino = pytest.mark.skipif(
    not importlib.util.find_spec("openvino"), reason="openvino is not installed"
)
needs_nncf = pytest.mark.skipif(
    not importlib.util.find_spec("nncf"), reason="nncf is not installed"
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
    assert_made_once(by_chance("small"), monkeypatch)


@needs_openvino
@pytest.mark.slow
@pytest.mark.parametrize("profile", ["published", "fast"])
def test_a_model_of_full_depth_is_made_once(
    profile: str, own_cache: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_made_once(by_chance(profile), monkeypatch)


@needs_openvino
def test_other_weights_have_their_own_model() -> None:
    names = {openvino_model._name(by_chance(seed=seed)) for seed in (0, 1, 0)}
    assert len(names) == 2


@needs_openvino
def test_int8_is_not_offered_before_it_is_measured(own_cache: None) -> None:
    with pytest.raises(ConfigError, match="instaseg quantize"):
        open_runtime(INT8, by_chance())


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
        open_runtime(RuntimeConfig(name="torch", precision="int8"), by_chance())


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
    runtime = open_runtime(INT8, load_checkpoint("street-synthetic"))
    difference = Comparison(load_checkpoint("street-synthetic"), (128, 256))(runtime)
    assert 1e-4 < difference.relative < TOLERANCES["int8"]
