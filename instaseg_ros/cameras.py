"""What is remembered of each camera: the one place that says its time jumped, and that forgets."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from instaseg_ros.config import TrackingConfig
from instaseg_ros.errors import ImageError
from instaseg_ros.frames import Frame
from instaseg_ros.model.temporal import state_shape
from instaseg_ros.tracking import Tracker

log = logging.getLogger(__name__)

MOST_CAMERAS = 32  # remembered; of a 2 MP camera a temporal network's state takes 8 MB
LONGEST_GAP_NS = 1_000_000_000  # ours: what moves has left its own place after a second


@dataclass(slots=True)
class Camera:
    """One camera after its last frame.

    stamp_ns: of that frame. since_ns: from the frame before to it; None where there was none.
    jumped_back: that frame's stamp lay before the one remembered, so all was forgotten.
    tracker: of its objects; None without tracking. state: (C, h, w) of a temporal network; None
    without one, and while a frame is in the network.
    """

    stamp_ns: int
    since_ns: int | None = None
    jumped_back: bool = False
    tracker: Tracker | None = None
    state: Tensor | None = None


class Cameras:
    """The cameras, which go by their frames' `frame_id`.

    Where a stamp lies before that of the camera's last frame its time jumped (a recording that
    begins again, a clock that was set): everything of this camera, and of no other, is forgotten.
    Of more than MOST_CAMERAS the one unseen for longest is.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Camera] = {}  # the one seen last stands last
        self._was_full = False

    def __len__(self) -> int:
        return len(self._kept)

    def of(self, frames: Sequence[Frame]) -> list[Camera]:
        """That of each frame, which becomes its last one."""
        return [self._of(frame) for frame in frames]

    def trackers(self, cameras: Sequence[Camera], config: TrackingConfig) -> list[Tracker]:
        """That of each camera; without tracking none, and every object is forgotten."""
        if not config.enabled:
            for camera in self._kept.values():
                camera.tracker = None
            return []
        return [_tracker(camera, config) for camera in cameras]

    def clear(self) -> None:
        """Forget every camera. A frame still being decoded keeps the tracker that it was given."""
        self._kept.clear()

    def _of(self, frame: Frame) -> Camera:
        camera = self._kept.pop(frame.frame_id, None)
        if camera is None or frame.stamp_ns < camera.stamp_ns:
            camera = Camera(frame.stamp_ns, jumped_back=camera is not None)
        else:
            camera.since_ns = frame.stamp_ns - camera.stamp_ns
            camera.stamp_ns, camera.jumped_back = frame.stamp_ns, False
        self._kept[frame.frame_id] = camera
        if len(self._kept) > MOST_CAMERAS:
            self._forget_longest_unseen()
        return camera

    def _forget_longest_unseen(self) -> None:
        name = next(iter(self._kept))
        del self._kept[name]
        if not self._was_full:
            self._was_full = True
            log.warning(
                "images of more than %d cameras: forgetting those unseen for longest, first '%s'; "
                "if these are not so many cameras, give all images of one the same frame_id",
                MOST_CAMERAS,
                name,
            )


def require_different(frames: Sequence[Frame]) -> None:
    """Raises ImageError for two frames of one camera: the second needs the first one's state."""
    names = [frame.frame_id for frame in frames]
    if len(set(names)) < len(names):
        raise ImageError(
            f"batch: expected frames of different cameras, got frame_id {names}; the method "
            "remembers each camera's last frame, so give those of one camera one by one"
        )


def take_states(cameras: Sequence[Camera], size: tuple[int, int]) -> Tensor | None:
    """(B, C, h, w): what a temporal network remembers of the time before the cameras' last frames,
    zeros of those without a past; None if none has one. size: (height, width) of its input.

    A frame goes on where the one before ended if it is later by at most LONGEST_GAP_NS and the
    network sees it at the same size. The states are to be put back with `keep_states`; those of a
    frame that fails are lost.
    """
    past = [_take_state(camera, state_shape(1, size)[1:]) for camera in cameras]
    known = next((state for state in past if state is not None), None)
    if known is None:
        return None
    return torch.stack([torch.zeros_like(known) if s is None else s for s in past])


def keep_states(cameras: Sequence[Camera], states: Tensor) -> None:
    """Remember the states (B, C, h, w) after the cameras' last frames; a copy, as runtimes reuse
    their memory."""
    for camera, state in zip(cameras, states.clone(), strict=True):
        camera.state = state


def _take_state(camera: Camera, shape: tuple[int, ...]) -> Tensor | None:
    state, camera.state = camera.state, None
    follows = camera.since_ns is not None and 0 < camera.since_ns <= LONGEST_GAP_NS
    return state if state is not None and follows and state.shape == shape else None


def _tracker(camera: Camera, config: TrackingConfig) -> Tracker:
    if camera.tracker is None:
        camera.tracker = Tracker(config)
    camera.tracker.config = config
    return camera.tracker
