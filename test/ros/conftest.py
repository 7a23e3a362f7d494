"""The node under test: one process per test module, in a ROS domain of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from robot import Robot

os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"

# The same numbers in the node's process and in the test's.
NETWORK = {"runtime.name": "torch", "runtime.precision": "fp32", "runtime.threads": 1}


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a network that finds coloured shapes."""
    from coloured_shapes import save_coloured_shapes_checkpoint

    path = tmp_path_factory.mktemp("weights") / "coloured_shapes.safetensors"
    save_coloured_shapes_checkpoint(path)
    return path


@pytest.fixture(scope="session")
def network(weights: Path) -> dict[str, Any]:
    """Parameters by which the node labels coloured shapes."""
    return {"weights": str(weights), **NETWORK}


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Robot]:
    """A ROS domain; the test starts the node in it."""
    pytest.importorskip("rclpy")
    from robot import Robot

    robot = Robot(tmp_path_factory.mktemp("node") / "node.log")
    yield robot
    robot.close()


@pytest.fixture
def cameras_end_with_their_test(robot: Robot) -> Iterator[None]:
    """Leave no publisher behind for the next test of the same node, also where a test fails."""
    yield
    robot.unplug()
