"""A soak with every fault once: the node keeps all that can be judged in a minute."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")

from robot import free_domain

pytestmark = [pytest.mark.ros, pytest.mark.slow]

TOOLS = Path(__file__).parents[2] / "tools"
PATIENCE_S = 400.0  # only bounds it on a busy machine


def test_every_fault_once(tmp_path: Path, network: dict[str, Any]) -> None:
    domain, lock = free_domain()
    parameters = [part for k, v in network.items() for part in ("-p", f"{k}:={v}")]
    options = ["--each-once", "--seed", "1", "--out", str(tmp_path)]
    paths = os.pathsep.join([str(TOOLS), os.environ.get("PYTHONPATH", "")])
    with lock:
        subprocess.run(
            [sys.executable, "-m", "soak", *options, *parameters],
            env={**os.environ, "PYTHONPATH": paths, "ROS_DOMAIN_ID": str(domain)},
            timeout=PATIENCE_S,
        )
    summary = json.loads((tmp_path / "soak.json").read_text())
    assert not summary["broken"], (tmp_path / "node.log").read_text()
    assert summary["complete"]
    assert len(summary["faults"]) == 14
    for account in summary["cameras"].values():
        assert account["roll_calls"] == 4
        assert account["exact"] >= 1
        assert account["labelled"]
