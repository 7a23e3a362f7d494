"""The image subscription: reliability of the publisher, overrides, compressed images, and what
diagnostics say when no image comes."""

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy")

from coloured_shapes import scene
from rclpy.qos import QoSReliabilityPolicy
from robot import BEST_EFFORT, RELIABLE, Robot, compressed_message, image_message, label_image
from sensor_msgs.msg import CompressedImage

from instaseg_ros.config import Config, merge
from instaseg_ros.frames import Frame
from instaseg_ros.pipeline import Pipeline
from instaseg_ros.recordings.image_messages import compressed_to_rgb

pytestmark = [pytest.mark.ros, pytest.mark.usefixtures("cameras_end_with_their_test")]


INPUT = {"input.height": 192, "input.width": 320}


@pytest.fixture(scope="module")
def node(robot: Robot, network):
    robot.start({**network, **INPUT, "node.autostart": True, "node.stale_after_s": 0.5})
    return robot


@pytest.fixture(scope="module")
def pipeline(network) -> Pipeline:
    return Pipeline(merge(Config(), {**network, **INPUT}))


def test_no_publisher(node: Robot):
    message, _ = node.diagnosis("no publisher on /image; nobody publishes", level=2)
    assert "camera driver" in message


def test_no_publisher_here_but_elsewhere(node: Robot):
    node.camera("/left/image_raw")
    message, _ = node.diagnosis("/left/image_raw")
    assert "remap one: --ros-args -r image:=/left/image_raw" in message


def test_publisher_of_another_type(node: Robot):
    node.camera(kind=CompressedImage)
    message, _ = node.diagnosis("publishes sensor_msgs/msg/CompressedImage", level=2)
    assert "set node.image_transport to compressed" in message


@pytest.mark.parametrize("qos", [BEST_EFFORT, RELIABLE], ids=["best_effort", "reliable"])
def test_publisher_sets_the_reliability(node: Robot, qos):
    camera = node.camera(qos=qos)
    node.await_match(camera, qos.reliability)
    labels, _ = node.label(camera, image_message(scene()))
    assert label_image(labels).max() == 3


def test_two_megapixels(node: Robot, pipeline):
    camera = node.camera()
    node.await_match(camera, QoSReliabilityPolicy.RELIABLE)
    image = cv2.resize(scene(), (2048, 1024), interpolation=cv2.INTER_NEAREST)
    labels, _ = node.label(camera, image_message(image))
    expected = pipeline.process([Frame(image)])[0].instances.labels
    assert expected.shape == (1024, 2048)
    assert expected.max() == 3
    assert np.array_equal(label_image(labels), expected)


def test_silent_best_effort_publisher_is_suspected(node: Robot):
    camera = node.camera(qos=BEST_EFFORT)
    node.await_match(camera, QoSReliabilityPolicy.BEST_EFFORT)
    message, values = node.diagnosis("loses best-effort images")
    assert "fastdds_shm.xml" in message
    assert values["subscription reliability"] == "best_effort"


def test_mixed_publishers_are_all_heard(node: Robot):
    cameras = [node.camera(qos=qos) for qos in (RELIABLE, BEST_EFFORT)]
    node.until(lambda: node.node.count_publishers("/image") == 2, "both publishers")
    node.await_diagnosed(
        image_publishers="/robot (best_effort), /robot (reliable)",
        subscription_reliability="best_effort",
    )
    for camera in cameras:
        node.await_match(camera, QoSReliabilityPolicy.BEST_EFFORT)
        node.label(camera, image_message(scene()))


def test_users_override_wins_and_a_mismatch_is_named(node: Robot, network):
    assert node.stop() == 0
    name = "qos_overrides./image.subscription.reliability"
    overrides = {
        name: "reliable",
        "qos_overrides./instaseg_node/labels.publisher.reliability": "best_effort",
    }
    node.start({**network, **INPUT, **overrides, "node.autostart": True, "node.stale_after_s": 0.5})
    node.await_state("active")
    node.camera(qos=BEST_EFFORT)
    message, values = node.diagnosis("QoS mismatch in RELIABILITY", level=2)
    assert "offers best_effort, this node asks for reliable" in message
    assert values["subscription reliability"] == "reliable"
    (publisher,) = node.node.get_publishers_info_by_topic("/instaseg_node/labels")
    assert publisher.qos_profile.reliability == QoSReliabilityPolicy.BEST_EFFORT


def test_compressed_images(node: Robot, network, pipeline):
    assert node.stop() == 0
    parameters = {**network, **INPUT, "node.autostart": True, "node.image_transport": "compressed"}
    node.start(parameters, "-r", "image:=/front/image_raw")
    camera = node.camera("/front/image_raw/compressed", kind=CompressedImage)
    node.await_match(camera, QoSReliabilityPolicy.RELIABLE)
    for kind, suffix in (("jpeg", ".jpg"), ("bgr8; png compressed bgr8", ".png")):
        data = cv2.imencode(suffix, cv2.cvtColor(scene(), cv2.COLOR_RGB2BGR))[1].tobytes()
        message = compressed_message(data, kind)
        labels, _ = node.label(camera, message)
        expected = pipeline.process([Frame(compressed_to_rgb(message))])[0].instances.labels
        assert np.array_equal(label_image(labels), expected)
        assert expected.max() == 3
    assert node.stop() == 0
