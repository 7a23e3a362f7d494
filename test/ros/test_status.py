"""~/status, which a state machine waits for, and ~/enable."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy")

from coloured_shapes import scene
from lifecycle_msgs.srv import GetState
from rclpy.qos import QoSReliabilityPolicy
from robot import LATCHED, NODE, Robot, image_message
from std_msgs.msg import String
from std_srvs.srv import SetBool

pytestmark = pytest.mark.ros


@pytest.fixture(scope="module")
def words(robot: Robot, network) -> list[str]:
    """What ~/status has said since the node started; no lifecycle manager is there."""
    words: list[str] = []
    robot.listen(String, f"{NODE}/status", lambda message: words.append(message.data), LATCHED)
    robot.start({**network, "node.stale_after_s": 1.0})
    robot.until(lambda: words, "a status")
    return words


@pytest.fixture(scope="module")
def camera(robot: Robot, words):
    return robot.camera("/image")


def test_status_follows_lifecycle_and_images(robot: Robot, words, camera):
    assert words == ["inactive"]
    assert robot.change_state("configure")
    assert words == ["inactive"]
    assert robot.change_state("activate")
    robot.until(lambda: words[-1] == "waiting", "the status waiting")
    robot.await_match(camera, QoSReliabilityPolicy.RELIABLE)
    message = image_message(scene())
    robot.label(camera, message)

    def labelling() -> bool:
        robot.publish(camera, message)
        robot.spin_for(0.1)
        return words[-1] == "labelling"

    robot.until(labelling, "the status labelling")
    robot.until(lambda: words[-1] == "waiting", "the status of a camera that has ended")
    strange = image_message(scene(), "rgb8")
    strange.encoding = "klingon8"

    def failed() -> bool:
        robot.publish(camera, strange)
        robot.spin_for(0.1)
        return words[-1] == "failed"

    robot.until(failed, "the status of images that are refused")
    assert robot.set_parameter("node.latency_budget_ms", 0.001).successful
    robot.until(lambda: labelling() or words[-1] == "too slow", "the status too slow")
    assert robot.change_state("deactivate")
    robot.until(lambda: words[-1] == "inactive", "the status inactive")
    assert robot.set_parameter("node.latency_budget_ms", 0.0).successful
    assert robot.change_state("activate")
    robot.until(lambda: words[-1] == "waiting", "not the latched word of before")


def test_one_who_comes_late_is_told(robot: Robot, words, camera):
    late: list[str] = []
    listener = robot.listen(String, f"{NODE}/status", lambda m: late.append(m.data), LATCHED)
    robot.until(lambda: late, "the latched status")
    assert late == words[-1:]
    robot.node.destroy_subscription(listener)


def test_disabled_node_stays_active_and_counts_what_it_ignores(robot: Robot, words, camera):
    robot.await_match(camera, QoSReliabilityPolicy.RELIABLE)
    # What is said of one image lasts, so that it is heard on a busy machine too.
    assert robot.set_parameter("node.stale_after_s", 60.0).successful
    message = image_message(scene())
    robot.label(camera, message)
    answer = robot.call(SetBool, "enable", data=False)
    assert (answer.success, answer.message) == (True, "disabled")
    robot.until(lambda: words[-1] == "disabled", "the status disabled")
    assert robot.call(GetState, "get_state").current_state.label == "active"
    ignored = []
    for count in range(1, 4):  # one by one, as the node takes the newest only
        ignored.append(robot.publish(camera, message))
        robot.await_diagnosed(images_ignored_while_disabled=str(count))
    said, values = robot.diagnosis("disabled (node.enabled)", level=0)
    assert "are ignored" in said
    assert not any(robot.result(header) for header in ignored)
    answer = robot.call(SetBool, "enable", data=True)
    assert answer.success
    assert answer.message in ("waiting", "labelling")
    robot.label(camera, message)
    robot.until(lambda: words[-1] == "labelling", "the status labelling")
    _, after = robot.diagnosis("")
    assert int(after["images labelled"]) == int(values["images labelled"]) + 1
    assert after["images ignored while disabled"] == "3"


def test_a_node_may_be_disabled_before_it_is_active(robot: Robot, words, camera):
    assert robot.change_state("deactivate")
    answer = robot.call(SetBool, "enable", data=False)
    assert (answer.success, answer.message) == (True, "inactive")
    assert robot.change_state("activate")
    robot.until(lambda: words[-1] == "disabled", "the status disabled")
    assert robot.set_parameter("node.enabled", True).successful  # the same by its parameter
    robot.until(lambda: words[-1] == "waiting", "the status waiting")


def test_a_failed_transition_is_a_status(robot: Robot, words, camera):
    assert robot.change_state("deactivate")
    assert robot.change_state("cleanup")
    assert robot.set_parameter("weights", "/no/such.safetensors").successful
    assert not robot.change_state("configure")
    robot.until(lambda: words[-1] == "failed", "the status failed")
