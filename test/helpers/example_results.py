"""A frame's result and the messages that are made of it."""

from __future__ import annotations

import written_recordings
from written_recordings import CLASS_NAMES

from instaseg_ros.recordings import result_messages

__all__ = ["CLASS_NAMES", "HEADER", "INSTANCES", "messages"]

HEADER = written_recordings.header(3)
INSTANCES = written_recordings.instances(3)


def messages(msgs, header) -> dict:
    """One message of each output."""
    return {
        "labels": result_messages.labels_message(msgs, header, INSTANCES.labels),
        "detections": result_messages.detections_message(msgs, header, INSTANCES, CLASS_NAMES),
        "label_info": result_messages.label_info_message(msgs, header, CLASS_NAMES),
        "overlay": result_messages.overlay_message(msgs, header, written_recordings.image(3)),
        "markers": result_messages.markers_message(msgs, header, INSTANCES, CLASS_NAMES),
    }
