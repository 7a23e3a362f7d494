"""Our build of vision_msgs is the one that real robots speak."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.ros

# Of the released vision_msgs 4.1: a type hash follows from the names and types of all fields.
DETECTION_2D_ARRAY = "RIHS01_214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968"


def test_the_type_hash_is_that_of_the_released_package() -> None:
    import rclpy
    from vision_msgs.msg import Detection2DArray

    context = rclpy.Context()
    rclpy.init(context=context)
    try:
        node = rclpy.create_node("type_hash", context=context)
        publisher = node.create_publisher(Detection2DArray, "~/detections", 1)
        endpoints = node.get_publishers_info_by_topic(publisher.topic_name)
        assert {str(endpoint.topic_type_hash) for endpoint in endpoints} == {DETECTION_2D_ARRAY}
        node.destroy_node()
    finally:
        rclpy.shutdown(context=context)
