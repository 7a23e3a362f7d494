"""What a running node leaves to others: processors, priority, images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from coloured_shapes import scene
from rclpy.qos import QoSReliabilityPolicy
from robot import Robot, image_message

pytestmark = pytest.mark.ros

LAST = max(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def camera(robot: Robot, weights):
    robot.start({"weights": weights, "runtime.threads": 2, "runtime.precision": "fp32"})
    return robot.camera("/image")


def threads(robot: Robot) -> Iterator[tuple[str, int]]:
    """Processors and nice value of each thread of the node."""
    assert robot.process is not None
    for thread in Path(f"/proc/{robot.process.pid}/task").iterdir():
        status = (thread / "status").read_text().splitlines()
        (allowed,) = (line.split()[1] for line in status if line.startswith("Cpus_allowed_list"))
        behind_name = (thread / "stat").read_text().rpartition(")")[2].split()
        yield allowed, int(behind_name[16])


def test_what_cannot_be_is_refused_in_words(robot: Robot, camera):
    for name, value, reason in (
        ("node.cpus", "fast ones", "expected a list such as 0-2,6, got 'fast ones'"),
        ("node.cpus", "4000", "expected some of "),
    ):
        assert robot.set_parameter(name, value).successful
        assert not robot.change_state("configure")
        message, _ = robot.diagnosis(f"configure failed: {name}: ", level=2)
        assert reason in message
        assert robot.set_parameter(name, "").successful


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_threads_keep_to_their_processors_and_give_way(robot: Robot, camera, runtime):
    if runtime == "openvino":
        pytest.importorskip("openvino")
    for name, value in (
        ("runtime.name", runtime),
        ("node.cpus", f"{LAST}-{LAST}"),
        ("node.niceness", 7),
    ):
        assert robot.set_parameter(name, value).successful
    assert robot.change_state("configure")
    assert robot.change_state("activate")
    robot.await_match(camera, QoSReliabilityPolicy.RELIABLE)
    robot.label(camera, image_message(scene()))
    found = list(threads(robot))
    assert {allowed for allowed, _ in found} == {str(LAST)}
    niceness = [nice for _, nice in found]
    assert niceness.count(7) >= 2  # those that label and publish, and the engine's
    assert niceness.count(os.nice(0)) >= 2  # those that receive
    _, values = robot.diagnosis("")
    assert values["processors"] == str(LAST)
    refused = robot.set_parameter("node.niceness", 3)
    assert "node.niceness: expected to stay 7" in refused.reason
    assert robot.change_state("deactivate")
    assert robot.change_state("cleanup")


def test_images_are_left_out_evenly(robot: Robot, camera):
    assert robot.set_parameter("node.cpus", "").successful
    assert robot.set_parameter("node.niceness", 0).successful
    assert robot.change_state("configure")
    assert robot.change_state("activate")
    assert len({allowed for allowed, _ in threads(robot)} - {str(LAST)}) == 1  # as at the start
    robot.await_match(camera, QoSReliabilityPolicy.RELIABLE)
    message = image_message(scene(384, 640))
    robot.label(camera, message)
    _, values = robot.diagnosis("")
    assert values["keep up"] == "newest"
    assert robot.set_parameter("node.keep_up", "evenly").successful  # live
    robot.spin_for(0.5)  # what the diagnostics of before said is on its way
    _, before = robot.diagnosis("")
    assert before["keep up"].startswith("evenly, ")
    sent = 0
    for _ in range(100):
        robot.publish(camera, message)
        robot.spin_for(0.01)
        sent += 1

    def all_counted() -> bool:
        """Another image tells the node that those before it were lost, if they were."""
        nonlocal sent
        robot.publish(camera, message)
        sent += 1
        robot.spin_for(1.5)
        values = {v.key: v.value for status in robot.diagnostics[-1:] for v in status.values}
        more = [int(values[f"images {n}"]) - int(before[f"images {n}"]) for n in counted]
        return sum(more) == sent and more[0] > 0

    counted = ("labelled", "dropped while busy", "lost on the way")
    robot.until(all_counted, "each image to be labelled or counted as left out")
    _, values = robot.diagnosis("")
    assert "ms, " in values["keep up"]
    assert "come in a second" in values["keep up"]
