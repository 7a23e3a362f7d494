"""Gives a frame its depth from a depth message, and pairs the two in a recording."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.config import InputConfig
from instaseg_ros.errors import ImageError, TruncatedInputError
from instaseg_ros.frames import Frame
from instaseg_ros.recordings.image_messages import (
    camera_matrix,
    compressed_to_depth,
    image_to_depth,
    lens_distortion,
)
from instaseg_ros.recordings.message_types import stamp_ns
from instaseg_ros.recordings.recording import RawMessage
from instaseg_ros.registration import View, registered

AHEAD = 16  # images that wait for depth that was recorded later; and depth images kept for later

# From a frame, a frame: the pose (4, 4) that takes the second's coordinates to the first's, or None
# and the reason.
PoseOf = Callable[[str, str], tuple[NDArray[np.float64] | None, str]]


class Depth(NamedTuple):
    """A depth message, and its camera's CameraInfo or None."""

    message: Any
    camera_info: Any


def with_depth(frame: Frame, depth: Depth, config: InputConfig, pose_of: PoseOf) -> Frame:
    """The frame with the depth of a message in its own pixels. Raises ImageError, with what is
    missing."""
    if frame.intrinsics is None:
        raise ImageError(
            f"image: expected a calibrated camera_info of its frame '{frame.frame_id}'; publish it "
            "beside the images"
        )
    message, info = depth
    to_depth = compressed_to_depth if hasattr(message, "format") else image_to_depth
    values = to_depth(message, config.max_pixels)
    frame_id, size = message.header.frame_id, values.shape
    if info is not None and info.header.frame_id == frame_id:
        lens = lens_distortion(info, config.rectified)
        source = View(frame_id, size, camera_matrix(info, size, config.rectified), lens)
    else:
        source = View(frame_id, size)
    target = View(frame.frame_id, frame.image.shape[:2], frame.intrinsics, frame.distortion)
    pose, why = None, ""
    if frame_id not in ("", frame.frame_id):
        pose, why = pose_of(frame.frame_id, frame_id)
    return replace(frame, depth=registered(values, source, target, pose, why))


@dataclass
class _Waiting:
    """An image, its stamp or None if it is damaged, and the nearest depth message so far."""

    raw: RawMessage
    stamp_ns: int | None
    away_ns: float = math.inf
    depth: Any = None

    def offer(self, depth_ns: int, depth: Any) -> None:
        if self.stamp_ns is not None and abs(depth_ns - self.stamp_ns) < self.away_ns:
            self.away_ns, self.depth = abs(depth_ns - self.stamp_ns), depth

    def is_decided(self, recent: Sequence[tuple[int, Any]]) -> bool:
        """Whether no nearer depth is to be expected after the recent ones."""
        return self.stamp_ns is None or bool(recent and recent[-1][0] >= self.stamp_ns)

    def within(self, slop_ns: float) -> tuple[RawMessage, Any]:
        return self.raw, self.depth if self.away_ns <= slop_ns else None


def paired(
    messages: Iterable[RawMessage],
    depth_topic: str,
    read: Callable[[RawMessage], Any],
    slop_ns: float,
) -> Iterator[tuple[RawMessage, Any]]:
    """Yield each image with the depth message of its stamp, else the nearest within the slop, or
    None. An image waits for the first later depth, but not past AHEAD further images.

    messages: of the image topic and `depth_topic`, as recorded. read: any of them, None if it is
    damaged. A break of the recording is raised after its images.
    """
    recent: deque[tuple[int, Any]] = deque(maxlen=AHEAD)
    waiting: deque[_Waiting] = deque()
    broken: TruncatedInputError | None = None
    source = iter(messages)
    while True:
        try:
            raw = next(source)
        except StopIteration:
            break
        except TruncatedInputError as error:
            broken = error
            break
        message = read(raw)
        if raw.topic == depth_topic:
            if message is not None:
                recent.append((stamp_ns(message.header), message))
                for image in waiting:
                    image.offer(*recent[-1])
        else:
            waiting.append(_Waiting(raw, None if message is None else stamp_ns(message.header)))
            for one in recent:
                waiting[-1].offer(*one)
        while waiting and (len(waiting) > AHEAD or waiting[0].is_decided(recent)):
            yield waiting.popleft().within(slop_ns)
    for image in waiting:
        yield image.within(slop_ns)
    if broken is not None:
        raise broken
