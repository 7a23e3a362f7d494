"""`instaseg doctor` tries everything, gives reasons; its exit code says whether auto is right."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from instaseg_ros import cli, runtimes
from instaseg_ros.checkpoint import Checkpoint, save_checkpoint
from instaseg_ros.config import Config, parameters
from instaseg_ros.deploy import doctor, versions
from instaseg_ros.runtimes.comparison import TOLERANCES
from instaseg_ros.runtimes.torch_runtime import TorchRuntime

pytestmark = pytest.mark.xdist_group("converting")


@pytest.fixture
def examined(
    small: Checkpoint, cache: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], tuple[int, dict[str, dict[str, object]]]]:
    """Runs the command on an untrained network; returns exit code and report."""
    save_checkpoint(small, tmp_path / "weights.safetensors")
    few = [c for c in doctor.CANDIDATES if c[0] in ("torch", "tensorrt")]
    monkeypatch.setattr(doctor, "CANDIDATES", (*few, ("abacus", "cpu", "fp32")))
    options = ["--weights", str(tmp_path / "weights.safetensors"), "--size", "48x80"]
    options += ["--rounds", "2", "--json", str(tmp_path / "report.json")]

    def run() -> tuple[int, dict[str, dict[str, object]]]:
        code = cli.main(["doctor", *options, "--set", "runtime.device=cpu"])
        return code, json.loads((tmp_path / "report.json").read_text())

    return run


class OffByALot(TorchRuntime):
    """A runtime whose outputs are wrong."""

    def __call__(self, images: np.ndarray) -> dict[str, torch.Tensor]:
        return {name: value + 1 for name, value in super().__call__(images).items()}


def test_every_candidate_is_measured_or_has_a_reason(examined, capsys) -> None:
    code, report = examined()
    assert code == 0
    found = {(f["runtime"], f["device"], f["precision"]): f for f in report["findings"]}
    torch32 = found["torch", "cpu", "fp32"]
    assert torch32["trouble"] == ""
    assert torch32["difference"]["relative"] < 1e-3
    assert torch32["p50_ms"] > 0
    if not torch.cuda.is_available():
        assert "torch sees no such device" in found["tensorrt", "cuda", "fp16"]["trouble"]
        assert found["tensorrt", "cuda", "fp16"]["p50_ms"] is None
    assert "abacus" in found["abacus", "cpu", "fp32"]["trouble"]
    assert report["format"] == "instaseg_ros doctor 1"
    assert report["auto"]["trouble"] == ""
    assert report["auto"]["why"]
    assert report["versions"]["torch"] == importlib.metadata.version("torch")
    if not importlib.util.find_spec("torch2trt"):
        assert report["versions"]["torch2trt"] == "not installed"
    printed = capsys.readouterr().out
    assert f"auto takes {report['auto']['runtime']} on cpu" in printed
    assert "agrees with torch" in printed


def test_a_wrong_runtime_is_named_and_fails_the_command(examined, monkeypatch, capsys) -> None:
    monkeypatch.setitem(runtimes.RUNTIMES, "torch", OffByALot)
    monkeypatch.setattr(runtimes, "_installed", lambda package: False)  # so auto is torch
    code, report = examined()
    assert code == 1
    assert "differs from torch by more than" in report["auto"]["trouble"]
    assert "it differs from torch by more than" in capsys.readouterr().out


def test_a_runtime_that_breaks_fails_the_command_with_its_reason(
    examined, monkeypatch, capsys
) -> None:
    def broken(*args: object) -> None:
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setitem(runtimes.RUNTIMES, "torch", broken)
    monkeypatch.setattr(runtimes, "_installed", lambda package: False)
    code, report = examined()
    assert code == 1
    assert report["auto"]["difference"] is None
    assert "it cannot be used: OSError: libcuda.so.1" in capsys.readouterr().out


def test_every_precision_that_is_tried_has_a_tolerance() -> None:
    choices = next(p.choices for p in parameters(Config()) if p.name == "runtime.precision")
    assert {precision for *_, precision in doctor.CANDIDATES} == set(TOLERANCES)
    assert set(TOLERANCES) == {*choices} - {"auto"}


@pytest.mark.parametrize(
    ("wheels", "sourced", "rclpy", "said"),
    [
        (["ros-rclpy", "ros-jazzy-rclpy"], "", True, "jazzy, from pip"),
        (["numpy"], "humble", True, "humble"),
        (["numpy"], "", True, "rclpy of an unnamed distribution"),
        ([], "humble", False, "humble is sourced, but this Python finds no rclpy"),
    ],
)
def test_the_ros_of_this_python_is_named(
    monkeypatch: pytest.MonkeyPatch, wheels: list[str], sourced: str, rclpy: bool, said: str
) -> None:
    monkeypatch.setenv("ROS_DISTRO", sourced)
    found = [SimpleNamespace(metadata={"Name": name}) for name in wheels]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: found)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: rclpy or None)
    assert versions._ros() == said
