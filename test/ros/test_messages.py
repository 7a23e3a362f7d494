"""ROS's own classes and those of recordings give the same messages."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy")

from rclpy.serialization import serialize_message
from test_outputs import HEADER, messages

from instaseg_ros import outputs
from instaseg_ros.bag_types import message_classes, typestore
from instaseg_ros.ros.messages import MESSAGES

pytestmark = pytest.mark.ros


def test_ros_and_recordings_say_the_same():
    header = MESSAGES.Header(frame_id="camera_front")
    header.stamp.sec, header.stamp.nanosec = HEADER.stamp.sec, HEADER.stamp.nanosec
    theirs = messages(MESSAGES, header)
    for name, ours in messages(message_classes(), HEADER).items():
        msgtype = outputs.TOPICS[name].type
        raw = [
            typestore().serialize_cdr(ours, msgtype),
            serialize_message(theirs[name]),
        ]
        # Read back, since ROS leaves what it pads with to chance.
        read_ours, read_theirs = (typestore().deserialize_cdr(data, msgtype) for data in raw)
        assert str(read_ours) == str(read_theirs)
