"""A frame's result and the messages that are made of it."""

from __future__ import annotations

from typing import Any

import written_recordings
from written_recordings import CLASS_NAMES

from instaseg_ros.recordings import result_messages

__all__ = ["CLASS_NAMES", "HEADER", "INSTANCES", "message_of_each_output"]

HEADER = written_recordings.header(3)
INSTANCES = written_recordings.two_instances(3)


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
