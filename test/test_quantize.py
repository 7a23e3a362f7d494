"""The OpenVINO model on disk, and its int8 form: measured, kept by name, refused with a reason."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from instaseg_ros import cli
from instaseg_ros.checkpoint import Checkpoint, load_checkpoint
from instaseg_ros.config import RuntimeConfig
from instaseg_ros.errors import ConfigError
from instaseg_ros.methods import make_method
from instaseg_ros.network import ERFNet
from instaseg_ros.runtimes import open_runtime, openvino_model

needs_openvino = pytest.mark.skipif(
    not importlib.util.find_spec("openvino"), reason="openvino is not installed"
)
needs_nncf = pytest.mark.skipif(
    not importlib.util.find_spec("nncf"), reason="nncf is not installed"
)
IMAGE = np.random.default_rng(0).integers(0, 256, (1, 64, 128, 3), np.uint8)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTASEG_CACHE", str(tmp_path / "cache"))


def untrained(seed: int, profile: str = "published") -> Checkpoint:
    torch.manual_seed(seed)
    network = ERFNet(make_method("spatial_embedding", 2, 2).heads, profile)
    return Checkpoint(network.state_dict(), ("car", "bus"), profile=profile)


def run(checkpoint: Checkpoint) -> torch.Tensor:
    config = RuntimeConfig(name="openvino", precision="fp32")
    return open_runtime(config, checkpoint)(IMAGE)["seed"].clone()


@needs_openvino
@pytest.mark.parametrize("profile", ["published", "fast"])
def test_a_model_is_made_once(profile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = untrained(0, profile)
    first = run(checkpoint)
    pixels = torch.from_numpy(IMAGE).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        expected = checkpoint.network().eval()(pixels)["seed"]
    assert (first - expected).abs().max() < 1e-5
    monkeypatch.setattr(openvino_model, "traced", None)  # not to be called again
    assert torch.equal(run(checkpoint), first)


@needs_openvino
def test_other_weights_have_their_own_model() -> None:
    paths = {openvino_model.model_path(untrained(seed)) for seed in (0, 1, 0)}
    assert len(paths) == 2


@needs_openvino
def test_int8_is_not_offered_before_it_is_measured() -> None:
    config = RuntimeConfig(name="openvino", precision="int8")
    with pytest.raises(ConfigError, match="instaseg quantize"):
        open_runtime(config, untrained(0))


def test_torch_does_not_run_int8() -> None:
    with pytest.raises(ConfigError, match="torch runs fp32"):
        open_runtime(RuntimeConfig(name="torch", precision="int8"), untrained(0))


@needs_nncf
@needs_openvino
@pytest.mark.slow
def test_int8_is_measured_and_kept(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    size = ["--size", "128x256", "--frames", "2", "--check-frames", "4"]
    assert cli.main(["quantize", *size, "--max-loss", "-1"]) == 2
    refused = capsys.readouterr()
    assert "is not kept: AP" in refused.err
    checkpoint = load_checkpoint("street-synthetic")
    assert not openvino_model.model_path(checkpoint, "int8").exists()

    assert cli.main(["quantize", *size, "--max-loss", "1"]) == 0
    measured = capsys.readouterr().out.splitlines()[-2]
    assert "on 4 held-out synthetic frames of 128x256" in measured
    caplog.set_level(logging.INFO)
    runtime = open_runtime(RuntimeConfig(name="openvino", precision="int8"), checkpoint)
    assert runtime.precision == "int8"
    assert measured in caplog.text
    exact = open_runtime(RuntimeConfig(name="openvino", precision="fp32"), checkpoint)
    difference = (runtime(IMAGE)["offset"] - exact(IMAGE)["offset"]).abs()
    assert 0 < difference.max() < 0.2
