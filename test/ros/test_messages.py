"""ROS's own classes and those of recordings give the same messages."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy")

import numpy as np
from example_results import HEADER, message_of_each_depth_output, message_of_each_output
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, Image

from instaseg_ros.config import InputConfig
from instaseg_ros.recordings import result_messages
from instaseg_ros.recordings.message_types import message_classes, typestore
from instaseg_ros.ros.camera import described, to_frame
from instaseg_ros.ros.messages import MESSAGES

pytestmark = pytest.mark.ros


@pytest.mark.parametrize("made", [message_of_each_output, message_of_each_depth_output])
def test_ros_and_recordings_say_the_same(made):
    header = MESSAGES.Header(frame_id="camera_front")
    header.stamp.sec, header.stamp.nanosec = HEADER.stamp.sec, HEADER.stamp.nanosec
    theirs = made(MESSAGES, header)
    topics = {**result_messages.TOPICS, **result_messages.DEPTH_TOPICS}
    for name, ours in made(message_classes(), HEADER).items():
        msgtype = topics[name].type
        raw = [
            typestore().serialize_cdr(ours, msgtype),
            serialize_message(theirs[name]),
        ]
        # Read back, since ROS leaves what it pads with to chance.
        read_ours, read_theirs = (typestore().deserialize_cdr(data, msgtype) for data in raw)
        assert str(read_ours) == str(read_theirs)


@pytest.fixture
def info() -> CameraInfo:
    info = CameraInfo(width=640, height=480)
    info.k = [400.0, 0.0, 320.0, 0.0, 500.0, 240.0, 0.0, 0.0, 1.0]
    info.header.frame_id = "front"
    return info


def image(height: int, width: int) -> Image:
    message = Image(height=height, width=width, encoding="mono8", step=width)
    message.data = bytes(height * width)
    message.header.frame_id = "front"
    return message


def intrinsics(message: Image, info: CameraInfo | None) -> list[float] | None:
    """Focal lengths and the point that is looked at, in pixels of the image."""
    matrix = to_frame(message, InputConfig(), info).intrinsics
    if matrix is None:
        return None
    assert matrix.dtype == np.float64
    assert matrix[[0, 1, 2, 2, 2], [1, 0, 0, 1, 2]].tolist() == [0, 0, 0, 0, 1]
    return matrix[[0, 1, 0, 1], [0, 1, 2, 2]].tolist()


def test_intrinsics_are_those_of_the_image_that_came(info: CameraInfo):
    assert intrinsics(image(480, 640), info) == [400, 500, 320, 240]
    assert intrinsics(image(240, 320), info) == [200, 250, 160, 120]  # binned or scaled
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 100, 40, 320, 240
    assert intrinsics(image(240, 320), info) == [400, 500, 220, 200]
    assert intrinsics(image(120, 160), info) == [200, 250, 110, 100]


def test_rectification_is_stated_and_what_is_not_used_is_said(info: CameraInfo):
    info.p = [390.0, 0.0, 300.0, 0.0, 0.0, 490.0, 230.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    message = image(480, 640)
    for rectified, focal_px in ((False, 400), (True, 390)):
        matrix = to_frame(message, InputConfig(rectified=rectified), info).intrinsics
        assert matrix is not None and matrix[0, 0] == focal_px
        assert "rectified" not in described(info, rectified)
    info.d, info.distortion_model = [-0.3, 0.1, 0.0, 0.0, 0.0], "plumb_bob"
    frame = to_frame(message, InputConfig(), info)
    assert frame.distortion == ("plumb_bob", (-0.3, 0.1, 0.0, 0.0, 0.0))
    assert ", plumb_bob corrected: not rectified (input.rectified)" in described(info, False)
    assert to_frame(message, InputConfig(rectified=True), info).distortion is None
    assert "rectified" not in described(info, True)
    info.distortion_model = "of my own"
    assert ", of my own unknown, not corrected" in described(info, False)


def test_intrinsics_that_say_nothing_are_none(info: CameraInfo):
    assert intrinsics(image(480, 640), None) is None
    info.header.frame_id = "rear"
    assert intrinsics(image(480, 640), info) is None
    info.header.frame_id = "front"
    for k in ([0.0] * 9, [float("nan")] * 9, [400.0, 0.0, 320.0, *[0.0] * 5, 1.0]):
        info.k = k
        assert intrinsics(image(480, 640), info) is None


def test_stamps_before_1970_are_stamps():
    message = image(8, 8)
    message.header.stamp.sec, message.header.stamp.nanosec = -2, 500_000_000
    assert to_frame(message, InputConfig()).stamp_ns == -1_500_000_000
