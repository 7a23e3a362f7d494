"""Remembers each camera's last frame: stamp, tracker and network state; detects time jumps."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from instaseg_ros.config import MOST_CAMERAS, TrackingConfig
from instaseg_ros.errors import ImageError
from instaseg_ros.frames import Frame
from instaseg_ros.model.temporal import state_shape
from instaseg_ros.tracking import Tracker

log = logging.getLogger(__name__)

LONGEST_GAP_NS = 1_000_000_000  # our choice: after a second, moving objects have left their place


@dataclass(slots=True)
class Camera:
    """One camera after its last frame.

    stamp_ns: stamp of that frame. since_ns: time since the frame before it; None for the first.
    jumped_back: the frame's stamp was earlier than the last one, so everything was forgotten.
    tracker: follows its objects; None without tracking. state: (C, h, w) of a temporal network;
    None without one, and while a frame is in the network.
    """

    stamp_ns: int
    since_ns: int | None = None
    jumped_back: bool = False
    tracker: Tracker | None = None
    state: Tensor | None = None


class Cameras:
    """All cameras seen, identified by the `camera` of their frames, or else their `frame_id`.

    A stamp earlier than that of the camera's last frame means that time jumped back (a recording
    restarted, a clock was set): everything about this camera, and only this one, is forgotten.
    Beyond MOST_CAMERAS, the camera unseen for longest is forgotten.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Camera] = {}  # most recently seen last
        self._was_full = False

    def __len__(self) -> int:
        return len(self._kept)

    def of(self, frames: Sequence[Frame]) -> list[Camera]:
        """The camera of each frame; the frame becomes the camera's last one."""
        return [self._of(frame) for frame in frames]

    def trackers(self, cameras: Sequence[Camera], config: TrackingConfig) -> list[Tracker]:
        """The tracker of each camera; without tracking, none, and all objects are forgotten."""
        if not config.enabled:
            for camera in self._kept.values():
                camera.tracker = None
            return []
        return [_tracker(camera, config) for camera in cameras]

    def clear(self) -> None:
        """Forget every camera. A frame still being decoded keeps the tracker it was given."""
        self._kept.clear()

    def _of(self, frame: Frame) -> Camera:
        name = name_of(frame)
        camera = self._kept.pop(name, None)
        if camera is None or frame.stamp_ns < camera.stamp_ns:
            camera = Camera(frame.stamp_ns, jumped_back=camera is not None)
        else:
            camera.since_ns = frame.stamp_ns - camera.stamp_ns
            camera.stamp_ns, camera.jumped_back = frame.stamp_ns, False
        self._kept[name] = camera
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
                "if there are fewer cameras, give all images of one camera the same frame_id",
                MOST_CAMERAS,
                name,
            )


def name_of(frame: Frame) -> str:
    """What identifies the frame's camera."""
    return frame.camera or frame.frame_id


def require_different(frames: Sequence[Frame]) -> None:
    """Raises ImageError for two frames of one camera, as the second needs the first one's state."""
    names = [name_of(frame) for frame in frames]
    if len(set(names)) < len(names):
        raise ImageError(
            f"batch: expected frames of different cameras, got {names}; the method "
            "remembers each camera's last frame, so pass frames of one camera one by one"
        )


def take_states(cameras: Sequence[Camera], size: tuple[int, int]) -> Tensor | None:
    """(B, C, h, w): the temporal network's states before the cameras' last frames; zeros for
    cameras without a past; None if no camera has one. size: (height, width) of its input.

    A frame continues from the one before it if it is at most LONGEST_GAP_NS later and the network
    sees it at the same size. Put the states back with `keep_states`; those of a frame that fails
    are lost.
    """
    past = [_take_state(camera, state_shape(1, size)[1:]) for camera in cameras]
    known = next((state for state in past if state is not None), None)
    if known is None:
        return None
    return torch.stack([torch.zeros_like(known) if s is None else s for s in past])


def keep_states(cameras: Sequence[Camera], states: Tensor) -> None:
    """Remember the states (B, C, h, w) after the cameras' last frames, as copies: runtimes reuse
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
