"""Where objects are in space: depth beside the images, late, missing, or of another kind."""

from __future__ import annotations

import copy
import struct
import time
from array import array
from functools import partial
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy")

from coloured_shapes import scene
from geometry_msgs.msg import Transform
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from robot import BEST_EFFORT, LATCHED, NODE, RELIABLE, Robot, image_message, label_image
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from vision_msgs.msg import Detection3DArray
from visualization_msgs.msg import MarkerArray

from instaseg_ros.config import InputConfig
from instaseg_ros.errors import ImageError
from instaseg_ros.frames import Frame
from instaseg_ros.recordings.depth_images import Depth, with_depth
from instaseg_ros.recordings.result_messages import POINT
from instaseg_ros.ros.transforms import MISSING, Transforms, matrix

pytestmark = pytest.mark.ros

SIZE = (192, 320)
IMAGE = scene()
COLOURS = {"red": 0, "green": 1, "blue": 2}
DISTANCES_M = {"red": 4.0, "green": 8.0, "blue": 12.0}
INFO = CameraInfo(width=SIZE[1], height=SIZE[0])
INFO.k = [300.0, 0.0, 159.5, 0.0, 300.0, 95.5, 0.0, 0.0, 1.0]
INFO.header.frame_id = "camera"


def depth_m() -> np.ndarray:
    """(H, W) metres: each square at its distance, before a wall at 20 m."""
    depth = np.full(SIZE, 20, np.float32)
    for name, channel in COLOURS.items():
        depth[IMAGE[..., channel] == 250] = DISTANCES_M[name]
    return depth


def millimetres() -> Image:
    return image_message((depth_m() * 1000).astype("<u2"), "16UC1", padding=6)


def metres() -> Image:
    return image_message(depth_m().astype("<f4"), "32FC1")


def stamped(message: Any, header: Any, later_ms: float = 0.0) -> Any:
    """The message with the header of its image, taken so much later."""
    message.header = copy.deepcopy(header)
    stamp_ns = header.stamp.sec * 10**9 + header.stamp.nanosec + int(later_ms * 1e6)
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
    return message


class Watch:
    """What the node says about space."""

    def __init__(self, robot: Robot) -> None:
        self.robot = robot
        self.detections: list[Detection3DArray] = []
        self.points: list[PointCloud2] = []
        self.markers: list[MarkerArray] = []
        queue = QoSProfile(depth=100)
        robot.listen(Detection3DArray, f"{NODE}/detections_3d", self.detections.append, queue)
        robot.listen(PointCloud2, f"{NODE}/points", self.points.append, queue)
        robot.listen(MarkerArray, f"{NODE}/markers", self.markers.append, queue)

    def of(self, header: Any) -> Detection3DArray | None:
        return next((m for m in self.detections if m.header == header), None)


@pytest.fixture(scope="module")
def watch(robot: Robot) -> Watch:
    return Watch(robot)


@pytest.fixture(scope="module")
def node(robot: Robot, watch: Watch, network):
    """The node with a camera, its camera_info, and a depth camera."""
    parameters = {**network, "depth.enabled": True, "node.autostart": True}
    robot.start({**parameters, "node.stale_after_s": 1.0, "depth.wait_ms": 3000})
    camera, depth = robot.camera("/image"), robot.camera("/depth", BEST_EFFORT)
    infos = robot.camera("/camera_info", LATCHED, CameraInfo)
    infos.publish(INFO)
    robot.await_match(camera, QoSReliabilityPolicy.RELIABLE)
    robot.await_match(depth, QoSReliabilityPolicy.BEST_EFFORT)
    robot.await_diagnosed(camera_info="/camera_info: 320 x 192, frame_id 'camera'")
    for topic, messages in (("points", watch.points), ("markers", watch.markers)):
        name = f"{NODE}/{topic}"
        robot.until(partial(robot.node.count_publishers, name), f"publisher of {topic}")
        del messages[:]
    robot.spin_for(0.5)
    return camera, depth


def locate(robot: Robot, watch: Watch, node: Any, message: Any, later_ms: float = 0.0) -> Any:
    """Labels of an image, and what is said of space when its depth comes after them."""
    camera, depth = node
    labels, _ = robot.label(camera, image_message(IMAGE))
    assert watch.of(labels.header) is None  # labels do not wait for depth
    depth.publish(stamped(message, labels.header, later_ms))
    return labels, robot.until(partial(watch.of, labels.header), "detections in space")


def check(labels: Image, found: Detection3DArray) -> None:
    """Each square is where its depth and its pixels say."""
    ids = sorted(int(one.id) for one in found.detections)
    assert ids == np.unique(label_image(labels))[1:].tolist() and len(ids) == 3
    for one in found.detections:
        assert one.header == labels.header
        hypothesis, pose = one.results[0].hypothesis, one.results[0].pose
        away_m = DISTANCES_M[hypothesis.class_id]
        y, x = np.nonzero(IMAGE[..., COLOURS[hypothesis.class_id]] == 250)
        assert (label_image(labels)[y, x] == int(one.id)).mean() > 0.9
        expected = np.array([x.mean() - 159.5, y.mean() - 95.5, 300]) / 300 * away_m
        place = pose.pose.position
        np.testing.assert_allclose([place.x, place.y, place.z], expected, atol=0.012 * away_m)
        assert one.bbox.center.position.z == pytest.approx(away_m, rel=0.01)
        # The mask is wider than the square of 32 pixels, the depth of which alone counts.
        assert one.bbox.size.x == pytest.approx(31 / 300 * away_m, rel=0.07)
        assert pose.covariance[0] > 0


@pytest.mark.parametrize("make", [millimetres, metres])
def test_objects_stand_where_depth_says(robot: Robot, watch: Watch, node, make):
    labels, found = locate(robot, watch, node, make())
    check(labels, found)
    scores = [one.results[0].hypothesis.score for one in found.detections]
    assert scores == sorted(scores, reverse=True)


def test_points_and_markers_stand_there_too(robot: Robot, watch: Watch, node):
    labels, found = locate(robot, watch, node, millimetres())
    cloud = robot.until(
        lambda: next((m for m in watch.points if m.header == labels.header), None), "points"
    )
    points = np.frombuffer(bytes(cloud.data), POINT)
    image = label_image(labels)
    assert set(points["instance"].tolist()) == set(image[image > 0].tolist())
    for one in found.detections:
        own = points[points["instance"] == int(one.id)]
        assert set(own["z"].tolist()) == {DISTANCES_M[one.results[0].hypothesis.class_id]}
        assert 0.9 * 32**2 < len(own) <= 32**2
    markers = robot.until(
        lambda: next((m for m in watch.markers if m.markers[0].header == labels.header), None),
        "markers",
    ).markers
    outlines = {marker.id: marker for marker in markers if marker.ns == "outline"}
    assert len([marker for marker in markers if marker.ns == "box"]) == 3
    for one in found.detections:
        away_m = DISTANCES_M[one.results[0].hypothesis.class_id]
        assert {p.z for p in outlines[int(one.id)].points} == {away_m}


def test_depth_of_half_the_size(robot: Robot, watch: Watch, node):
    half = np.ascontiguousarray(depth_m()[::2, ::2])
    labels, found = locate(robot, watch, node, image_message(half, "32FC1"))
    check(labels, found)


def test_depth_of_another_stamp_counts_within_the_slop(robot: Robot, watch: Watch, node):
    labels, found = locate(robot, watch, node, millimetres(), later_ms=12)
    check(labels, found)
    robot.await_diagnosed(**{"depth_taken_later_(ms)": "12.0"})


def test_of_depth_at_a_higher_rate_the_nearest_counts(robot: Robot, watch: Watch, node):
    """Three depth images for each image, of which the nearest alone says what is true."""
    camera, depth = node
    for k in range(4):
        header = robot.publish(camera, image_message(IMAGE))
        for later_ms, nearer in ((-26, 0.5), (7, 1.0), (40, 0.25)):
            values = (depth_m() * nearer).astype("<f4")
            depth.publish(stamped(image_message(values, "32FC1"), header, later_ms + k))
        robot.until(lambda header=header: watch.of(header), "detections in space")
        labels, _ = robot.until(lambda header=header: robot.result(header), "labels")
        check(labels, watch.of(header))
        robot.spin_for(0.15)  # so that no depth of this image is near the next one


def diagnosed(robot: Robot, camera: Any, depth: Any, make: Any, said: str, level: int = 1) -> str:
    """What diagnostics say with `said` in it, while images come, each with depth as `make` makes
    it for the image's header."""
    robot.diagnostics.clear()
    again = 0.0

    def found() -> list[str]:
        nonlocal again
        if time.monotonic() > again:
            header = robot.publish(camera, image_message(IMAGE))
            if make is not None:
                depth.publish(make(header))
            again = time.monotonic() + 0.3
        return [s.message for s in robot.diagnostics if said in s.message and s.level[0] == level]

    return robot.until(found, f"diagnostics with '{said}', level {level}")[0]


def test_depth_of_another_time_is_refused(robot: Robot, watch: Watch, node):
    start = robot.node.get_clock().now().to_msg()
    message = diagnosed(
        robot, *node, lambda header: stamped(millimetres(), header, 130), "(depth.slop_ms)"
    )
    assert "Objects are not located: the nearest depth image was taken 130 ms after" in message
    began = start.sec, start.nanosec
    stamps = [message.header.stamp for message in watch.detections]
    assert not [stamp for stamp in stamps if (stamp.sec, stamp.nanosec) > began]
    # Markers come without it, in the objects' direction.
    assert {marker.ns for marker in watch.markers[-1].markers} == {"", "outline", "name"}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: image_message(IMAGE), "32FC1 or 16UC1 or mono16, got 'rgb8'"),
        (lambda: image_message(np.ones((90, 320), "<u2"), "16UC1"), "the same aspect ratio"),
    ],
)
def test_depth_that_cannot_be_used_is_named(robot: Robot, watch: Watch, node, make, said):
    message = diagnosed(robot, *node, lambda header: stamped(make(), header), said)
    assert "images/s labelled" in message and "Objects are not located: " in message
    good = diagnosed(robot, *node, lambda h: stamped(millimetres(), h), "images/s labelled", 0)
    assert "located" not in good  # it goes on
    check(*locate(robot, watch, node, millimetres()))


def test_depth_of_another_frame_needs_its_camera_info(robot: Robot, watch: Watch, node):
    def of_another_frame(header: Any) -> Image:
        message = stamped(millimetres(), header)
        message.header.frame_id = "depth_camera"
        return message

    said = "expected the depth's calibrated camera_info"
    message = diagnosed(robot, *node, of_another_frame, said)
    assert "320 x 192 in frame 'depth_camera' for an image of 320 x 192 in frame" in message


def test_a_missing_depth_camera_is_named_and_labels_come(robot: Robot, watch: Watch, network):
    robot.unplug()
    parameters = {**network, "depth.enabled": True, "node.stale_after_s": 1.0}
    robot.start({**parameters, "node.autostart": True, "depth.transport": "compressedDepth"})
    camera = robot.camera("/image")
    infos = robot.camera("/camera_info", LATCHED, CameraInfo)
    infos.publish(INFO)
    robot.await_match(camera, QoSReliabilityPolicy.RELIABLE)
    message = diagnosed(robot, camera, None, None, "no publisher on /depth/compressedDepth")
    assert "-r depth:=" in message
    robot.camera("/depth/compressedDepth", RELIABLE, Image)
    said = "publishes sensor_msgs/msg/Image on /depth/compressedDepth"
    diagnosed(robot, camera, None, None, said)
    robot.label(camera, image_message(IMAGE))
    assert int(robot.diagnosis("")[1]["images without depth"]) > 0


def test_compressed_depth(robot: Robot, watch: Watch, network):
    robot.unplug()
    camera = robot.camera("/image")
    depth = robot.camera("/depth/compressedDepth", RELIABLE, CompressedImage)
    infos = robot.camera("/camera_info", LATCHED, CameraInfo)
    infos.publish(INFO)
    robot.await_match(camera, QoSReliabilityPolicy.RELIABLE)
    robot.await_match(depth, QoSReliabilityPolicy.RELIABLE)
    robot.await_diagnosed(camera_info="/camera_info: 320 x 192, frame_id 'camera'")
    assert robot.set_parameter("depth.wait_ms", 3000.0).successful
    png = cv2.imencode(".png", (depth_m() * 1000).astype(np.uint16))[1].tobytes()
    message = CompressedImage(format="16UC1; compressedDepth png")
    message.data = array("B", struct.pack("<iff", 0, 0, 0) + png)
    check(*locate(robot, watch, (camera, depth), message))


def rig(target: str, source: str) -> tuple[np.ndarray, str]:
    """The pose of a depth camera 10 cm to the right of the image's."""
    assert (target, source) == ("camera", "depth_camera")
    transform = Transform()
    transform.translation.x = 0.1
    return matrix(transform), ""


def test_depth_of_another_camera_is_projected_by_the_transform_between_them():
    k = np.reshape(INFO.k, (3, 3))
    frame = Frame(IMAGE, frame_id="camera", intrinsics=k)
    info = copy.deepcopy(INFO)
    info.header.frame_id = "depth_camera"
    wall = image_message(np.full(SIZE, 5, "<f4"), "32FC1")
    wall.header.frame_id = "depth_camera"
    seen = with_depth(frame, Depth(wall, info), InputConfig(), rig).depth
    assert seen is not None
    left, right = seen[:, :5], seen[:, 7:]
    assert (left == 0).all() and (right == 5).all()  # 0.1 m at 5 m are 6 pixels
    with pytest.raises(ImageError, match=r"transform between these frames is missing \(tf2_ros"):
        with_depth(frame, Depth(wall, info), InputConfig(), _no_tf)
    with pytest.raises(ImageError, match="expected a calibrated camera_info of its frame 'camera'"):
        with_depth(Frame(IMAGE, frame_id="camera"), Depth(wall, info), InputConfig(), rig)


def _no_tf(target: str, source: str) -> tuple[None, str]:
    return None, MISSING


def test_a_transform_as_a_matrix():
    transform = Transform()
    transform.translation.x, transform.translation.z = 1.0, 3.0
    half = np.sqrt(0.5)
    transform.rotation.z, transform.rotation.w = 2 * half, 2 * half  # a quarter turn, not of norm 1
    np.testing.assert_allclose(
        matrix(transform), [[0, -1, 0, 1], [1, 0, 0, 0], [0, 0, 1, 3], [0, 0, 0, 1]], atol=1e-12
    )


def test_without_tf2_the_reason_is_given(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("instaseg_ros.ros.transforms.tf2_ros", None)
    transforms = Transforms(SimpleNamespace())
    assert transforms.pose("camera", "depth_camera") == (None, MISSING)
    transforms.close()


def test_tf2_is_asked_where_it_is_installed(monkeypatch: pytest.MonkeyPatch):
    """A stand-in for tf2_ros, of which there is no wheel."""
    log: list[Any] = []
    transform = Transform()
    transform.translation.y = 2.0

    class Buffer:
        def lookup_transform(self, target: str, source: str, time: Any) -> Any:
            log.append((target, source, time.nanoseconds))
            if source == "unknown":
                raise LookupError("frame does not exist")
            return SimpleNamespace(transform=transform)

    listener = SimpleNamespace(unregister=lambda: log.append("unregistered"))

    def listen(buffer: Any, node: Any, *, spin_thread: bool) -> Any:
        assert not spin_thread  # the node has an executor
        log.append("listens")
        return listener

    module = SimpleNamespace(Buffer=Buffer, TransformListener=listen)
    monkeypatch.setattr("instaseg_ros.ros.transforms.tf2_ros", module)
    transforms = Transforms(SimpleNamespace())
    transforms.adapt()
    pose, why = transforms.pose("camera", "depth_camera")
    assert pose is None and "begins to listen" in why and not log  # /tf is busy
    for _ in range(2):
        transforms.adapt()
    pose, why = transforms.pose("camera", "depth_camera")
    assert why == "" and pose is not None and pose[1, 3] == 2
    assert transforms.pose("camera", "unknown") == (None, "tf2 says: frame does not exist")
    transforms.close()
    asked = [("camera", "depth_camera", 0), ("camera", "unknown", 0)]
    assert log == ["listens", *asked, "unregistered"]


def test_several_cameras_have_depth_each(robot: Robot, network):
    robot.unplug()
    parameters = {**network, "depth.enabled": True, "depth.wait_ms": 3000}
    robot.start({**parameters, "cameras": ["left", "right"], "node.autostart": True})
    found: dict[str, list[Detection3DArray]] = {"left": [], "right": []}
    for name, images in found.items():
        robot.listen(Detection3DArray, f"{NODE}/{name}/detections_3d", images.append, RELIABLE)
    cameras = {name: robot.camera(f"/{name}/image") for name in found}
    depths = {name: robot.camera(f"/{name}/depth") for name in found}
    for name in found:
        robot.camera(f"/{name}/camera_info", LATCHED, CameraInfo).publish(INFO)
    for camera in (*cameras.values(), *depths.values()):
        robot.await_match(camera, QoSReliabilityPolicy.RELIABLE)
    infos = {"camera info": "320 x 192", "depth topic": "/{}/depth"}

    def informed() -> bool:
        said = {s.name: {v.key: v.value for v in s.values} for s in robot.diagnostics[-3:]}
        return all(
            part.format(name) in said.get(f"{NODE}: camera {name}", {}).get(key, "")
            for name in found
            for key, part in infos.items()
        )

    robot.until(informed, "camera_info of both cameras")
    header = robot.publish(cameras["left"], image_message(IMAGE))
    cameras["right"].publish(stamped(image_message(IMAGE), header))
    for name, nearer in (("left", 1.0), ("right", 0.5)):
        depth = image_message((depth_m() * nearer).astype("<f4"), "32FC1")
        depths[name].publish(stamped(depth, header))
    for name, nearer in (("left", 1.0), ("right", 0.5)):
        (message,) = robot.until(lambda name=name: found[name], f"places of {name}")
        away_m = {
            one.results[0].hypothesis.class_id: one.results[0].pose.pose.position.z
            for one in message.detections
        }
        assert away_m == {name: pytest.approx(m * nearer) for name, m in DISTANCES_M.items()}
