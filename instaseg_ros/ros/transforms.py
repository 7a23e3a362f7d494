"""Asks tf2 where one frame is in another, where tf2_ros is installed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.time import Time

Pose = NDArray[np.float64]

try:
    import tf2_ros
except ImportError:
    tf2_ros = None

MISSING = "tf2_ros is not installed: apt install ros-$ROS_DISTRO-tf2-ros-py"


class Transforms:
    """Listens to /tf and /tf_static until `close`, if tf2_ros is there, and only if a pose is
    needed: a vehicle's /tf is busy."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._wanted = False
        self._buffer: Any = None
        self._listener: Any = None

    def adapt(self) -> None:
        """Begin to listen if a pose was asked for; for the executor's thread."""
        if self._wanted and self._listener is None and tf2_ros is not None:
            self._buffer = tf2_ros.Buffer()
            self._listener = tf2_ros.TransformListener(self._buffer, self._node, spin_thread=False)

    def pose(self, target: str, source: str) -> tuple[Pose | None, str]:
        """(4, 4) from the coordinates of the frame `source` to those of `target`, the newest known,
        or None and the reason. Cameras on one rig do not move against each other."""
        if tf2_ros is None:
            return None, MISSING
        self._wanted = True
        if self._listener is None:
            return None, "the node begins to listen to /tf"
        try:
            found = self._buffer.lookup_transform(target, source, Time()).transform
        except Exception as error:  # of tf2's many kinds
            return None, f"tf2 says: {error}"
        return matrix(found), ""

    def close(self) -> None:
        """Unsubscribe."""
        if self._listener is not None:
            self._listener.unregister()
            self._listener = None


def matrix(transform: Any) -> Pose:
    """(4, 4) of a geometry_msgs/Transform, whose rotation is a unit quaternion."""
    q, t = transform.rotation, transform.translation
    x, y, z, w = np.array([q.x, q.y, q.z, q.w]) / (np.linalg.norm([q.x, q.y, q.z, q.w]) or 1.0)
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = t.x, t.y, t.z
    return pose
