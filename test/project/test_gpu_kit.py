"""The kit for a first minute on a GPU: what it needs is there, and nothing it finds is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from instaseg_ros.methods import make_method
from instaseg_ros.model.erfnet import ERFNet

ROOT = Path(__file__).parents[2]
BARE = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(ROOT / "test" / "bare_machine"), str(ROOT)]),
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
}
STAND_INS = """
import json, pathlib, sys, time
name, _, path = sys.argv[1:]
pathlib.Path(path).write_text(json.dumps({"device": "a GPU", "found": {"copy_ms": 1.5}}))
print("this is", name, flush=True)
if name == "absent":
    pathlib.Path(path).write_text(json.dumps({"not_run": "no such device"}))
if name == "endless":
    time.sleep(60)
if name == "broken":
    raise ValueError("a kernel was wrong")
"""


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))


@pytest.fixture
def gpu_run(tools: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script over four stages that are stand-ins."""
    import gpu_run

    (tmp_path / "stages.py").write_text(STAND_INS)
    names = "sound", "broken", "endless", "absent"
    monkeypatch.setattr(gpu_run, "BODIES", tmp_path / "stages.py")
    monkeypatch.setattr(gpu_run, "STAGES", [gpu_run.Stage(name, 1.5, "it is") for name in names])
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(gpu_run.signal, "signal", lambda *_: before)
    return gpu_run


def results(folder: Path) -> dict[str, Any]:
    assert sorted(path.name for path in folder.iterdir()) == ["gpu.log", "results.json"]
    return json.loads((folder / "results.json").read_text())["stages"]


def test_a_stage_that_fails_or_hangs_stops_no_other(gpu_run: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert gpu_run.main(["--out", str(out)]) == 1
    rows = results(out)
    assert [row["status"] for row in rows.values()] == [
        "done",
        "failed (1)",
        "stopped after 2 s",
        "not run",
    ]
    assert all(rows[name]["found"] == {"copy_ms": 1.5} for name in ("sound", "broken", "endless"))
    assert rows["broken"]["last_words"] == "ValueError: a kernel was wrong"
    log = (out / "gpu.log").read_text()
    assert all(f"this is {name}" in log for name in rows)
    table = gpu_run.table([out / "results.json"])
    assert "| sound | it is | done | copy_ms 1.5 |" in table
    assert "| absent | it is | not run | no such device |" in table


def test_stages_are_chosen_and_end_at_the_deadline(gpu_run: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert gpu_run.main(["--out", str(out), "--only", "sound", "broken", "--skip", "broken"]) == 0
    assert [*results(out)] == ["sound"]
    assert gpu_run.main(["--out", str(out), "--deadline", "4"]) == 0
    assert {row["not_run"] for row in results(out).values()} == {"no time was left"}


def test_a_later_file_of_results_counts(gpu_run: ModuleType, tmp_path: Path) -> None:
    files = []
    for number, status in enumerate(["failed (1)", "done"]):
        row = {"status": status, "device": "cpu", "found": {"ms": 3.0}}
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(json.dumps({"stages": {"sound": row}}))
    table = gpu_run.table(files)
    assert "| sound | it is | done, on a CPU |  |" in table, "a CPU's times are none of a GPU's"
    assert "| endless | it is | not run |  |" in table


def test_what_a_signal_interrupts_leaves_what_it_found(tmp_path: Path) -> None:
    """The real script and a real stage, which a signal meets while it loads torch."""
    out = tmp_path / "out"
    command = [sys.executable, str(ROOT / "tools" / "gpu_run.py"), "--out", str(out)]
    process = subprocess.Popen([*command, "--only", "machine", "decode"], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline()  # it has begun
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate()
    assert process.returncode == 130
    assert b"interrupted" in said
    rows = results(out)
    assert [(name, row["status"]) for name, row in rows.items()] == [("machine", "interrupted")]


@pytest.mark.newest
def test_the_tests_for_a_gpu_are_found_on_a_bare_machine(tools: None) -> None:
    import gpu_stages

    files = gpu_stages.gpu_test_files()
    collect = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    command = [*collect, "-m", "gpu and not slow", *map(str, files)]
    done = subprocess.run(command, env=BARE, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    for name in ("test_cuda.py::", "test_methods.py::", "test_runtimes.py::"):
        assert name in done.stdout, name


def test_what_the_kit_imports_is_there_on_a_bare_machine() -> None:
    """The stages, and the commands that a person calls beside them."""
    code = """
import importlib.util
assert not any(map(importlib.util.find_spec, ("rosbags", "mcap", "zstandard", "rclpy", "av")))
import gpu_run, gpu_stages
import instaseg_ros.benchmarks.frame, instaseg_ros.benchmarks.methods
import instaseg_ros.evaluation.by_runtime
import instaseg_ros.deploy.doctor, instaseg_ros.deploy.export, instaseg_ros.training.trainer
from instaseg_ros.cli import VERBS, _parser
for verb in VERBS:
    _parser([verb])
from instaseg_ros.runtimes.comparison import sample_frames
assert sample_frames((64, 128)).shape == (4, 64, 128, 3)
"""
    environment = {**BARE, "PYTHONPATH": f"{BARE['PYTHONPATH']}{os.pathsep}{ROOT / 'tools'}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr.decode()


SANITIZER = """#!/bin/sh
case "$2" in
memcheck) echo "========= ERROR SUMMARY: 0 errors" ;;
racecheck)
    echo "========= RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)"
    exit 9 ;;
esac
"""


def test_what_the_sanitizer_says_is_kept(
    tools: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The tool is a stand-in that finds a race."""
    import gpu_common
    import gpu_stages

    (tmp_path / "compute-sanitizer").write_text(SANITIZER)
    (tmp_path / "compute-sanitizer").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(gpu_stages, "need_cuda", lambda: None)
    found = gpu_common.Found(tmp_path / "found.json")
    with pytest.raises(AssertionError, match="found by racecheck"):
        gpu_stages.sanitizer(found)
    kept = json.loads(found.path.read_text())["found"]
    assert kept["memcheck"] == {"exit_code": 0, "summary": "0 errors"}
    assert kept["racecheck"]["exit_code"] == 9
    assert "2 hazards" in kept["racecheck"]["summary"]


def convolutions(network: nn.Module) -> list[nn.Module]:
    return [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]


def test_a_networks_cost_is_that_of_its_convolutions(tools: None) -> None:
    from gpu_common import network_cost

    network = ERFNet(make_method("spatial_embedding", 5, 2).heads).eval()
    moved = []
    for layer in convolutions(network):
        layer.register_forward_hook(
            lambda layer, inputs, output: moved.append(
                inputs[0].nbytes + output.nbytes + sum(p.nbytes for p in layer.parameters())
            )
        )
    with torch.inference_mode():
        network(torch.rand(2, 3, 64, 96))
    expected = sum(moved)  # before the hooks see anything else
    single = network_cost(network, (2, 64, 96, 3), "fp32")
    assert single.n_bytes == expected
    half = network_cost(network, (2, 64, 96, 3), "fp16")
    assert half.n_bytes * 2 == single.n_bytes
    assert half.operations == single.operations


def test_the_cost_at_full_size_is_what_the_layers_add_up_to(tools: None) -> None:
    """About 2.4 GB in half precision and 250 GFLOP at 1024 x 2048, counted by hand."""
    from gpu_common import network_cost

    network = ERFNet(make_method("spatial_embedding", 1, 1).heads)
    cost = network_cost(network, (1, 1024, 2048, 3), "fp16")
    assert 2.2e9 < cost.n_bytes < 2.6e9
    assert 2.3e11 < cost.operations < 2.7e11
