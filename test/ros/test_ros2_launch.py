"""The launch file in the hands of the real `ros2 launch`, which a robot has and PyPI does not."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("launch_ros", reason="a distribution's launch_ros is not on PyPI")
pytestmark = [
    pytest.mark.ros,
    pytest.mark.skipif(not shutil.which("ros2"), reason="no ros2 command"),
]

FILE = Path(__file__).parents[2] / "launch" / "instaseg.launch.py"
PATIENCE_S = 90


def ros2_launch(*arguments: str) -> tuple[int, str]:
    command = ["ros2", "launch", str(FILE), *arguments]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE_S
    )
    return done.returncode, done.stdout


def test_it_starts_the_node_with_its_parameters() -> None:
    """Which ends at once, as these weights are nowhere."""
    _, output = ros2_launch("weights:=nowhere", "namespace:=front", "rviz:=false")
    assert "front.instaseg_node]: configure failed: weights 'nowhere'" in output


def test_it_starts_a_node_for_several_cameras() -> None:
    """Which refuses two of one name at once."""
    _, output = ros2_launch("cameras:=front,front")
    assert "cameras: expected 1 to 32 different names" in output
    assert "['front', 'front']" in output
    _, output = ros2_launch("cameras:=front,left", "image:=/raw")
    assert "expected a topic with {camera}" in output


@pytest.mark.parametrize("argument", ["autostart:=maybe", "config:=/nowhere.yaml"])
def test_it_refuses(argument: str) -> None:
    code, output = ros2_launch(argument)
    assert code == 1
    assert argument.partition(":=")[2] in output


def test_it_lists_its_arguments() -> None:
    code, output = ros2_launch("--show-args")
    assert code == 0
    assert "'shared_memory'" in output
