"""The managed node: nothing before activate, everything given back, failures with their reason."""

import signal
import time
from pathlib import Path
from statistics import median

import pytest

pytest.importorskip("rclpy")

from coloured_shapes import scene
from rclpy.qos import QoSReliabilityPolicy
from robot import RELIABLE, Robot, image_message

WATCHED = Path(__file__).parent / "watched_node.py"

pytestmark = [pytest.mark.ros, pytest.mark.usefixtures("cameras_end_with_their_test")]


@pytest.fixture(scope="module")
def node(robot, network):
    """The node as a lifecycle manager finds it, with weights that do not exist."""
    robot.start({**network, "weights": "no-such-weights"})
    return robot


def test_impossible_transition_is_refused_and_survived(node: Robot):
    assert node.state() == "unconfigured"
    assert not node.change_state("activate")
    assert node.state() == "unconfigured"
    assert node.process.poll() is None


def test_failed_configure_says_why_and_can_be_repeated(node: Robot, network):
    assert not node.change_state("configure")
    assert node.state() == "unconfigured"
    message, _ = node.diagnosis("configure failed", level=2)
    assert "weights 'no-such-weights': neither a shipped name" in message
    assert "weights 'no-such-weights'" in node.log()
    assert node.set_parameter("weights", network["weights"]).successful
    assert node.change_state("configure")
    assert node.state() == "inactive"


def test_nothing_is_processed_while_inactive(node: Robot):
    message, values = node.diagnosis("inactive", level=0)
    assert "waiting for a lifecycle transition" in message
    assert values["runtime"] == "torch"
    assert values["precision"] == "fp32"
    camera = node.camera()
    node.publish(camera, image_message(scene()))
    node.spin_for(0.5)
    assert camera.get_subscription_count() == 0
    assert not node.labels


def test_what_shapes_the_engine_is_fixed_while_configured(node: Robot):
    result = node.set_parameter("runtime.threads", 7)
    assert not result.successful
    assert "runtime.threads: expected to stay 1 while the node is configured" in result.reason
    assert "cleanup" in result.reason


def test_activate_labels_and_latches_the_class_names(node: Robot):
    assert node.change_state("activate")
    assert node.state() == "active"
    names = node.until(lambda: node.label_info, "LabelInfo")[-1].class_map
    assert [(c.class_id, c.class_name) for c in names] == [(0, "red"), (1, "green"), (2, "blue")]
    camera = node.camera()
    node.await_match(camera, QoSReliabilityPolicy.RELIABLE)
    labels, _ = node.label(camera, image_message(scene()))
    assert max(labels.data) == 3


def test_cycles_give_everything_back(node: Robot):
    camera = node.camera(qos=RELIABLE)
    sizes_mb = []
    for cycle in range(9):
        assert node.change_state("deactivate")
        assert node.change_state("cleanup")
        node.until(lambda: camera.get_subscription_count() == 0, "the end of the subscription")
        assert node.node.count_publishers("/instaseg_node/labels") == 0
        assert node.change_state("configure")
        assert node.change_state("activate")
        node.await_match(camera, QoSReliabilityPolicy.RELIABLE)
        node.label(camera, image_message(scene(seed=cycle)))
        sizes_mb.append(node.own_mb())
    # A leaked network and its buffers would be some 10 MB a cycle, 50 MB between these medians. One
    # reading strays by 20 MB, and the first is lower than all that follow.
    assert median(sizes_mb[-3:]) - median(sizes_mb[1:4]) < 25, sizes_mb


def test_sigint_ends_the_process_while_it_works(node: Robot):
    camera = node.camera()
    node.until(lambda: camera.get_subscription_count() == 1, "the subscription")
    for seed in range(3):
        node.publish(camera, image_message(scene(1024, 2048, seed)))
        node.spin_for(0.1)
    assert node.stop(signal.SIGINT) == 0, node.log()
    assert "Traceback" not in node.log()
    assert "terminate called" not in node.log()
    node.until(lambda: "instaseg_node" not in node.node.get_node_names(), "the graph to forget it")


def test_autostart_and_sigterm(robot: Robot, network):
    robot.start({**network, "node.autostart": True})
    robot.await_state("active")
    start = time.monotonic()
    assert robot.stop(signal.SIGTERM) == 0, robot.log()
    print(f"idle node ended {time.monotonic() - start:.2f} s after SIGTERM")
    assert "Traceback" not in robot.log()


def test_autostart_without_weights_ends_with_the_reason(robot: Robot):
    robot.start({"node.autostart": True, "weights": "nowhere.safetensors"})
    assert robot.process.wait(90) == 1
    assert "configure failed: weights 'nowhere.safetensors'" in robot.log()


def test_shutdown_gives_back_the_network(robot: Robot, network, tmp_path):
    """At once, not whenever Python's garbage collector happens to run."""
    freed = tmp_path / "freed"
    robot.start(network, program=(WATCHED, "--freed", freed))
    assert robot.change_state("configure")
    assert robot.change_state("activate")
    camera = robot.camera()
    robot.await_match(camera, QoSReliabilityPolicy.RELIABLE)
    robot.label(camera, image_message(scene()))
    assert not freed.exists()
    assert robot.change_state("shutdown")
    assert robot.state() == "finalized"
    robot.until(freed.exists, "the end of the network")
    robot.diagnosis("finalized: shut down permanently", level=0)
    assert robot.stop() == 0, robot.log()
