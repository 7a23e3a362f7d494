"""Several cameras: what is remembered, whose time jumped, and which are forgotten."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from instaseg_ros.cameras import (
    LONGEST_GAP_NS,
    Cameras,
    keep_states,
    require_different,
    take_states,
)
from instaseg_ros.config import MOST_CAMERAS, TrackingConfig
from instaseg_ros.errors import ImageError
from instaseg_ros.frames import Frame
from instaseg_ros.model.temporal import state_shape
from instaseg_ros.recordings.sources import open_source
from instaseg_ros.tracking import Tracker

SIZE = (8, 16)
TRACKING = TrackingConfig(enabled=True)


def frame(stamp_ns: int, camera: str) -> Frame:
    return Frame(np.zeros((*SIZE, 3), np.uint8), stamp_ns, camera)


def seen(cameras: Cameras, stamp_ns: int, name: str) -> tuple[Tracker, float, bool]:
    """A frame of one camera goes through: its tracker, what was remembered, did time jump."""
    (camera,) = found = cameras.of([frame(stamp_ns, name)])
    (tracker,) = cameras.trackers(found, TRACKING)
    past = take_states(found, SIZE)
    keep_states(found, torch.full(state_shape(1, SIZE), float(stamp_ns)))
    return tracker, -1.0 if past is None else float(past[0, 0, 0, 0]), camera.jumped_back


def test_cameras_whose_stamps_differ_do_not_disturb_each_other() -> None:
    """Two drivers on one topic: the right one's images are a little older when they come."""
    cameras, trackers = Cameras(), []
    for k in range(1, 4):
        trackers.append([seen(cameras, k * 1000 - late, n) for n, late in (("l", 0), ("r", 5))])
    for side, late in ((0, 0), (1, 5)):
        (first, none, _), (second, one, _), (third, two, _) = (pair[side] for pair in trackers)
        assert first is second is third
        assert (none, one, two) == (-1, 1000 - late, 2000 - late)
    assert not any(jumped for pair in trackers for _, _, jumped in pair)


def test_a_camera_with_a_name_is_itself_whatever_its_frame_id() -> None:
    cameras = Cameras()
    images = [replace(frame(1, frame_id), camera=n) for n, frame_id in (("l", "f"), ("r", "f"))]
    left, right = cameras.of(images)
    assert left is not right
    (again,) = cameras.of([replace(frame(2, "g"), camera="l")])
    assert again is left
    assert again.since_ns == 1
    require_different(images)
    with pytest.raises(ImageError, match=r"different cameras, got \['l', 'l'\]"):
        require_different([images[0], replace(frame(1, "h"), camera="l")])


def test_one_rule_for_all_that_is_remembered() -> None:
    """Tracker and state are forgotten together, and only that camera's."""
    cameras = Cameras()
    before = {name: seen(cameras, 1000, name)[0] for name in ("l", "r")}
    tracker, past, jumped = seen(cameras, 999, "l")
    assert tracker is not before["l"]
    assert past == -1
    assert jumped
    assert seen(cameras, 1001, "r") == (before["r"], 1000, False)
    assert seen(cameras, 1000, "l") == (tracker, 999, False)
    assert seen(cameras, 1000, "l") == (tracker, -1, False)  # repeated: no time went by


def test_a_state_is_of_use_for_a_second() -> None:
    cameras = Cameras()
    seen(cameras, 0, "l")
    assert seen(cameras, LONGEST_GAP_NS, "l")[1] == 0
    assert seen(cameras, 2 * LONGEST_GAP_NS + 1, "l")[1] == -1


def test_as_many_cameras_are_remembered_as_are_said() -> None:
    cameras, names = Cameras(), [str(k) for k in range(MOST_CAMERAS)]
    first = [seen(cameras, 0, name)[0] for name in names]
    assert [seen(cameras, 1, name)[0] for name in names] == first
    assert len(cameras) == MOST_CAMERAS


def test_cameras_long_unseen_are_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    cameras = Cameras()
    kept = seen(cameras, 0, "kept")[0]
    first = seen(cameras, 0, "0")[0]
    with caplog.at_level(logging.WARNING):
        for k in range(1, 3 * MOST_CAMERAS):
            seen(cameras, k, str(k))
            assert seen(cameras, k, "kept")[0] is kept
            assert len(cameras) <= MOST_CAMERAS
    assert seen(cameras, 5000, "0")[0] is not first
    (record,) = caplog.records
    assert "same frame_id" in record.message
    assert "'0'" in record.message


def test_an_image_folder_is_one_camera(tmp_path: Path) -> None:
    for k in range(3):
        cv2.imwrite(str(tmp_path / f"{k}.png"), np.zeros((*SIZE, 3), np.uint8))
    cameras = Cameras()
    camera, same, also = (camera for f in open_source(tmp_path) for camera in cameras.of([f]))
    assert camera is same is also
    assert camera.since_ns is not None
    assert 0 < camera.since_ns <= LONGEST_GAP_NS


def test_more_cameras_at_once_than_are_remembered() -> None:
    cameras, names = Cameras(), [str(k) for k in range(MOST_CAMERAS + 3)]
    found = cameras.of([frame(0, name) for name in names])
    assert len({id(camera) for camera in found}) == len(names)
    assert len(cameras.trackers(found, TRACKING)) == len(names)
    keep_states(found, torch.zeros(state_shape(len(names), SIZE)))


def test_without_tracking_objects_are_forgotten_and_states_are_not() -> None:
    cameras = Cameras()
    before = seen(cameras, 1, "l")[0]
    assert cameras.trackers(cameras.of([frame(1, "r")]), TrackingConfig()) == []
    assert seen(cameras, 2, "l")[1:] == (1.0, False)
    assert seen(cameras, 3, "l")[0] is not before
