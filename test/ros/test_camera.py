"""Several cameras, several publishers, latched images and camera_info."""

import time
from dataclasses import replace
from functools import partial
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy")

from coloured_shapes import scene
from rclpy.qos import QoSReliabilityPolicy
from robot import BEST_EFFORT, LATCHED, NODE, RELIABLE, Robot, image_message, label_image
from sensor_msgs.msg import CameraInfo, CompressedImage
from visualization_msgs.msg import MarkerArray

from instaseg_ros.config import Config, TrackingConfig, merge
from instaseg_ros.frames import Frame
from instaseg_ros.pipeline import Pipeline

pytestmark = pytest.mark.ros

SIZE = (192, 320)
INPUT = {"input.height": SIZE[0], "input.width": SIZE[1]}


@pytest.fixture(scope="module")
def latched(robot: Robot, network):
    """Header of an image that was published once, before the node started."""
    camera = robot.camera("/front/image_raw", LATCHED)
    header = robot.publish(camera, image_message(scene()))
    robot.start({**network, **INPUT, "node.autostart": True}, "-r", "image:=/front/image_raw")
    yield header
    robot.unplug()


def test_an_image_published_before_the_node_started_is_labelled(robot: Robot, latched):
    robot.until(lambda: robot.result(latched), "labels of the latched image")
    robot.await_diagnosed(
        subscription_durability="transient_local",
        image_publishers="/robot (reliable, transient_local)",
    )


@pytest.fixture(scope="module")
def camera(robot: Robot, latched):
    robot.unplug()
    camera = robot.camera("/front/image_raw")
    robot.await_match(camera, QoSReliabilityPolicy.RELIABLE)
    robot.await_diagnosed(subscription_durability="volatile")
    return camera


@pytest.fixture(scope="module")
def pipeline(network) -> Pipeline:
    return Pipeline(merge(Config(), {**network, **INPUT}))


def test_two_cameras_on_one_topic_are_tracked_as_in_the_pipeline(robot: Robot, camera, pipeline):
    """The right one's images are a little older than the left one's, before which they come."""
    whole = scene()
    part = whole.copy()
    part[whole[..., 0] == 250] = 40  # the first class' square is gone
    start_ns = robot.node.get_clock().now().nanoseconds
    frames = [
        Frame(image, start_ns + (k + 1) * 100_000_000 - late_ns, name)
        for k, image in enumerate((whole, part, whole))
        for name, late_ns in (("left", 0), ("right", 5_000_000))
    ]
    assert robot.set_parameter("tracking.enabled", True).successful
    found = []
    for frame in frames:
        message = image_message(frame.image)
        message.header.frame_id = frame.frame_id
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(frame.stamp_ns, 10**9)
        camera.publish(message)
        found.append(robot.until(partial(robot.result, message.header), "labels")[0])
    assert robot.set_parameter("tracking.enabled", False).successful
    pipeline.reconfigure(replace(pipeline.config, tracking=TrackingConfig(enabled=True)))
    expected = [pipeline.process([frame])[0].instances.labels for frame in frames]
    pipeline.reconfigure(replace(pipeline.config, tracking=TrackingConfig()))
    for labels, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(label_image(labels), theirs)
    ids = [set(np.unique(theirs)) - {0} for theirs in expected]
    assert ids[0] == ids[1] == ids[4] == ids[5] == {1, 2, 3}
    assert ids[2] == ids[3] < ids[0]
    assert ids[2] != {1, 2}  # what a tracker that begins anew would say


def test_markers_stand_where_camera_info_says(robot: Robot, camera):
    markers: list[MarkerArray] = []
    watcher = robot.listen(MarkerArray, f"{NODE}/markers", markers.append, RELIABLE)
    robot.until(lambda: robot.node.count_publishers(f"{NODE}/markers"), "publisher of the markers")
    robot.spin_for(0.5)
    _, values = robot.diagnosis("")
    assert values["camera info"] == "/front/camera_info: none yet"
    info = CameraInfo(width=SIZE[1], height=SIZE[0])
    info.k = [100.0, 0.0, 10.0, 0.0, 200.0, 20.0, 0.0, 0.0, 1.0]
    info.header.frame_id = "camera"
    infos = robot.camera("/front/camera_info", LATCHED, CameraInfo)
    infos.publish(info)  # once, before the node asks for what was published before
    robot.await_diagnosed(camera_info="/front/camera_info: 320 x 192, frame_id 'camera'")
    for frame_id in ("camera", "another camera"):
        markers.clear()
        _, detections = robot.label(camera, image_message(scene()), frame_id)
        robot.until(lambda: markers, "markers")
        for detection in detections.detections:
            shown = next(
                m for m in markers[-1].markers if m.ns == "outline" and m.id == int(detection.id)
            )
            middle_m = (max(p.x for p in shown.points) + min(p.x for p in shown.points)) / 2
            u = detection.bbox.center.position.x - 0.5
            expected = (u - 10) / 100 if frame_id == "camera" else (u - 160) / 320
            assert middle_m == pytest.approx(expected, abs=0.03)
    robot.node.destroy_subscription(watcher)
    robot.node.destroy_publisher(infos)


def test_every_label_image_arrives(robot: Robot, camera):
    """Large ones between small ones, which must not push them out while they are on their way."""
    large = cv2.resize(scene(), (2048, 1024), interpolation=cv2.INTER_NEAREST)
    headers: list[Any] = []

    def detected(header: Any) -> bool:
        return any(message.header == header for message in robot.detections)

    for _ in range(8):
        for image in (large, scene()):
            header = robot.publish(camera, image_message(image))
            headers.append(header)
            robot.until(partial(detected, header), "the detections, published after the labels")
    robot.until(lambda: all(map(robot.result, headers)), "every label image")


def test_a_second_publisher_loses_no_images_of_the_first(robot: Robot, camera):
    small = image_message(np.zeros((8, 8, 3), np.uint8))
    for _ in range(20_000):  # so far it has counted
        camera.publish(small)
    robot.label(camera, image_message(scene()))
    before = int(robot.diagnosis("")[1]["images lost on the way"])
    for _ in range(2):
        second = robot.camera("/front/image_raw")
        end = time.monotonic() + 3
        while time.monotonic() < end:
            for publisher in (camera, second):
                robot.publish(publisher, small)
                robot.spin_for(0.02)
        robot.cameras.remove(second)
        robot.node.destroy_publisher(second)
        robot.spin_for(0.5)
    after = int(robot.diagnosis("")[1]["images lost on the way"])
    assert after - before < 1000


def test_images_of_the_other_transport_are_found(robot: Robot, camera):
    robot.unplug()
    robot.camera("/front/image_raw/compressed", BEST_EFFORT, CompressedImage)
    message, _ = robot.diagnosis("is published on /front/image_raw/compressed", level=2)
    assert "set node.image_transport to compressed" in message


def test_durability_can_be_set_and_a_mismatch_is_named(robot: Robot, network):
    robot.unplug()
    name = "qos_overrides./front/image_raw.subscription.durability"
    parameters = {**network, **INPUT, "node.autostart": True, "node.stale_after_s": 0.5}
    robot.start({**parameters, name: "transient_local"}, "-r", "image:=/front/image_raw")
    robot.camera("/front/image_raw", RELIABLE)
    message, values = robot.diagnosis("QoS mismatch in DURABILITY", level=2)
    assert "it offers volatile, this node asks for transient_local" in message
    assert values["subscription durability"] == "transient_local"
    robot.start({**parameters, name: "for_ever"}, "-r", "image:=/front/image_raw")
    assert robot.process is not None
    assert robot.process.wait(90) == 1
    assert "expected one of auto, transient_local, volatile, got 'for_ever'" in robot.log()
