"""Configuring takes minutes where networks are compiled: the node says so, answers and obeys."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")

from coloured_shapes import scene
from lifecycle_msgs.srv import ChangeState
from rclpy.qos import QoSReliabilityPolicy
from robot import TRANSITIONS, Robot, image_message

pytestmark = pytest.mark.ros

WATCHED = Path(__file__).parent / "watched_node.py"


@pytest.mark.parametrize(("autostart", "number"), [(False, signal.SIGINT), (True, signal.SIGTERM)])
def test_it_ends_meanwhile(
    robot: Robot, network: dict[str, Any], tmp_path: Path, autostart: bool, number: signal.Signals
) -> None:
    """As it does otherwise: at once, without complaint, and off the graph."""
    robot.log_file.write_bytes(b"")
    program = (WATCHED, "--hold", tmp_path / "never")
    robot.start({**network, "node.autostart": autostart}, program=program)
    if not autostart:
        robot.ask(ChangeState, "change_state", transition=TRANSITIONS["configure"])
    robot.diagnosis("configuring: ", level=0)
    assert robot.stop(number) == 0, robot.log()
    assert "Traceback" not in robot.log()
    assert "failed" not in robot.log()
    robot.until(lambda: "instaseg_node" not in robot.node.get_node_names(), "the graph to forget")


@pytest.fixture(scope="module")
def hold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Until this file is there, the node warms up."""
    return tmp_path_factory.mktemp("hold") / "go_on"


@pytest.fixture(scope="module")
def configuring(
    robot: Robot, network: dict[str, Any], hold: Path
) -> tuple[Robot, Callable[[], Any]]:
    """A node that is being configured, and what waits for the end of that."""
    robot.start(network, program=(WATCHED, "--hold", hold))
    configured = robot.ask(ChangeState, "change_state", transition=TRANSITIONS["configure"])
    robot.until(lambda: "preparing runtime torch" in robot.log(), "the node at work")
    return robot, configured


def test_it_says_what_it_is_at(configuring: Any, network: dict[str, Any]) -> None:
    node, _ = configuring
    node.diagnosis("configuring: ", level=0)
    assert node.state() == "configuring"
    node.until(lambda: f"loading weights {network['weights']}" in node.log(), "a line of log")


def test_parameters_answer_and_keep_their_rules(configuring: Any) -> None:
    node, _ = configuring
    assert node.set_parameter("decode.min_pixels", 100_000).successful
    result = node.set_parameter("runtime.threads", 7)
    assert not result.successful
    assert "expected to stay 1 while the node is configured" in result.reason
    assert "(live: may be set" in node.describe_parameter("decode.seed_threshold").description


@pytest.mark.parametrize("transition", ["configure", "activate", "shutdown while unconfigured"])
def test_another_transition_is_refused_meanwhile(configuring: Any, transition: str) -> None:
    node, _ = configuring
    assert not node.change_state(transition)
    assert node.state() == "configuring"


def test_the_request_is_answered_when_all_is_done(configuring: Any, hold: Path) -> None:
    node, configured = configuring
    hold.touch()
    assert configured().success
    assert node.state() == "inactive"
    assert node.change_state("activate")
    node.until(lambda: node.label_info, "LabelInfo")
    camera = node.camera()
    node.await_match(camera, QoSReliabilityPolicy.RELIABLE)
    _, detections = node.label(camera, image_message(scene()))
    assert not detections.detections  # by what was set meanwhile
    assert node.set_parameter("decode.min_pixels", 128).successful
    _, detections = node.label(camera, image_message(scene()))
    assert len(detections.detections) == 3
