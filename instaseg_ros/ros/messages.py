"""ROS message classes for `recordings.result_messages`, and what /diagnostics gets."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import Point, Pose, PoseWithCovariance, Quaternion, Vector3
from numpy.typing import NDArray
from rclpy.time import Time
from sensor_msgs.msg import CompressedImage, Image, PointCloud2, PointField
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from instaseg_ros.ros.diagnostics import Diagnosis

try:
    from vision_msgs.msg import (
        BoundingBox2D,
        BoundingBox3D,
        Detection2D,
        Detection2DArray,
        Detection3D,
        Detection3DArray,
        LabelInfo,
        ObjectHypothesis,
        ObjectHypothesisWithPose,
        Point2D,
        Pose2D,
        VisionClass,
    )
except ImportError as error:
    raise ImportError(
        "the node needs vision_msgs: on a robot `apt install ros-$ROS_DISTRO-vision-msgs`, "
        "elsewhere `make ros`"
    ) from error


def _bytes(pixels: NDArray[Any]) -> array[int]:
    """A value for a uint8[] field; rclpy would check each element of any other type."""
    data = array("B")
    data.frombytes(pixels.data.cast("B"))
    return data


# The message classes for `instaseg_ros.recordings.result_messages`.
MESSAGES = SimpleNamespace(
    bytes=_bytes,
    BoundingBox2D=BoundingBox2D,
    BoundingBox3D=BoundingBox3D,
    ColorRGBA=ColorRGBA,
    CompressedImage=CompressedImage,
    Detection2D=Detection2D,
    Detection2DArray=Detection2DArray,
    Detection3D=Detection3D,
    Detection3DArray=Detection3DArray,
    Header=Header,
    Image=Image,
    LabelInfo=LabelInfo,
    Marker=Marker,
    MarkerArray=MarkerArray,
    ObjectHypothesis=ObjectHypothesis,
    ObjectHypothesisWithPose=ObjectHypothesisWithPose,
    Point=Point,
    Point2D=Point2D,
    Pose=Pose,
    PointCloud2=PointCloud2,
    PointField=PointField,
    Pose2D=Pose2D,
    PoseWithCovariance=PoseWithCovariance,
    Quaternion=Quaternion,
    Vector3=Vector3,
    VisionClass=VisionClass,
)


def diagnostic_array(diagnoses: Mapping[str, Diagnosis], stamp: Time) -> DiagnosticArray:
    """Statuses by name, as a message for /diagnostics."""
    message = DiagnosticArray(
        status=[
            DiagnosticStatus(
                level=bytes([diagnosis.level]),
                name=name,
                message=diagnosis.message,
                values=[KeyValue(key=key, value=value) for key, value in diagnosis.values.items()],
            )
            for name, diagnosis in diagnoses.items()
        ]
    )
    message.header.stamp = stamp.to_msg()
    return message
