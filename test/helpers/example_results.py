"""A frame's result and the messages that are made of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import written_recordings
from written_recordings import CLASS_NAMES

from instaseg_ros.frames import Frame
from instaseg_ros.localization import locate, object_points
from instaseg_ros.rays import sight
from instaseg_ros.recordings import result_messages

__all__ = [
    "CLASS_NAMES",
    "DEPTH",
    "HEADER",
    "INSTANCES",
    "INTRINSICS",
    "message_of_each_depth_output",
    "message_of_each_output",
]

HEADER = written_recordings.header(3)
INSTANCES = written_recordings.two_instances(3)
INTRINSICS = np.array([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]])
# The first object stands at 4 m, the second at 8 m.
DEPTH = np.where(INSTANCES.labels == 300, np.float32(4), np.float32(8))


def message_of_each_output(msgs: Any, header: Any) -> dict[str, Any]:
    """One message of each output of the node, by the output's name.

    msgs: the message classes, of ROS or of rosbags; header: a `Header` of the same.
    """
    return {
        "labels": result_messages.labels_message(msgs, header, INSTANCES.labels),
        "labels/compressed": result_messages.compressed_labels_message(
            msgs, header, INSTANCES.labels
        ),
        "detections": result_messages.detections_message(msgs, header, INSTANCES, CLASS_NAMES),
        "label_info": result_messages.label_info_message(msgs, header, CLASS_NAMES),
        "overlay": result_messages.overlay_message(msgs, header, written_recordings.noise_image(3)),
        "markers": result_messages.markers_message(msgs, header, INSTANCES, CLASS_NAMES),
    }


def message_of_each_depth_output(msgs: Any, header: Any) -> dict[str, Any]:
    """Likewise of those with depth, and `markers` at their distance."""
    frame = Frame(np.zeros((*DEPTH.shape, 3), np.uint8), intrinsics=INTRINSICS)
    rays = sight(frame)
    located = locate(INSTANCES, DEPTH, rays)
    points = object_points(INSTANCES, located, DEPTH, rays)
    found = msgs, header, INSTANCES
    return {
        "detections_3d": result_messages.detections_3d_message(*found, located, CLASS_NAMES),
        "points": result_messages.points_message(msgs, header, *points),
        "markers": result_messages.markers_message(*found, CLASS_NAMES, frame, located),
    }
