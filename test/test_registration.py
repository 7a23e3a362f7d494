"""Depth images of other sizes and cameras, against planes and boxes of known place."""

from __future__ import annotations

import numpy as np
import pytest

from instaseg_ros.errors import ImageError
from instaseg_ros.frames import Distortion
from instaseg_ros.registration import View, registered

SIZE = (120, 160)
K = np.array([[200.0, 0, 79.5], [0, 200, 59.5], [0, 0, 1]])
IMAGE = View("camera", SIZE, K)
LENS = Distortion("plumb_bob", (-0.3, 0.1, 0.0, 0.0, 0.0))


def with_box(size=SIZE, k=K, shift=(0.0, 0.0, 0.0)):
    """Depth of a wall at 10 m and a box face 1 m wide at 5 m, seen by a camera moved by `shift`."""
    y, x = np.indices(size)
    rays = np.dstack([x, y, np.ones(size)]) @ np.linalg.inv(k).T
    depth = np.full(size, 10 - shift[2])
    near = 5 - shift[2]
    points = rays * near + np.array(shift)
    depth[(np.abs(points[..., :2]) < 0.5).all(2)] = near
    return depth.astype(np.float32)


def moved(shift) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, 3] = shift
    return pose


def test_depth_of_the_image_itself_is_taken_as_it_is():
    depth = with_box()
    for source in (IMAGE, View("camera", SIZE), View("", SIZE)):
        assert registered(depth, source, IMAGE) is depth
    lens = View("camera", SIZE, K, LENS)  # registered to the image that is not rectified
    assert registered(depth, lens, lens) is depth
    assert registered(depth, View("camera", SIZE), lens) is depth


@pytest.mark.parametrize("times", [0.5, 2, 3])
def test_another_size_of_the_same_view_is_scaled_by_nearest_neighbour(times):
    size = tuple(int(side * times) for side in SIZE)
    k = K * [[times], [times], [1]]
    k[:2, 2] += (times - 1) / 2
    for source in (View("camera", size, k), View("camera", size)):
        scaled = registered(with_box(size, k), source, IMAGE)
        assert scaled.shape == SIZE
        assert set(np.unique(scaled).tolist()) == {5, 10}  # nothing in between
        assert (scaled == with_box()).mean() > 0.985


def test_another_field_of_view_of_one_frame_is_projected():
    """Such as a driver's crop, with its own camera_info."""
    k = K + np.array([[100, 0, 0], [0, 100, -10], [0, 0, 0.0]])
    size = (100, 160)
    seen = registered(with_box(size, k), View("camera", size, k), IMAGE)
    known = seen > 0
    assert 0.3 < known.mean() < 0.7
    assert (seen == with_box())[known].mean() > 0.97


@pytest.mark.parametrize("times", [1, 0.25])
def test_another_camera_is_projected_and_the_nearer_surface_hides_the_farther(times):
    """A depth camera 30 cm to the left and 10 cm behind; a coarse one leaves no holes."""
    shift = (-0.3, 0.0, -0.1)
    size = tuple(int(side * times) for side in SIZE)
    k = K * [[times], [times], [1]]
    depth = with_box(size, k, shift)
    seen = registered(depth, View("depth", size, k), IMAGE, moved(shift))
    truth = with_box()
    inside = np.zeros(SIZE, bool)
    inside[8:-8, 8:-30] = True  # what both see
    known = (seen > 0) & inside
    shadow = np.zeros(SIZE, bool)
    shadow[40:80, 98:112] = True  # of the box, on the wall, for the camera at the left
    assert known[~shadow & inside].mean() > 0.99
    assert (np.abs(seen - truth) < 1e-3)[known & ~shadow].mean() > (0.98 if times == 1 else 0.9)


def test_what_is_behind_the_camera_is_not_seen():
    depth = np.full(SIZE, 2, np.float32)
    assert not registered(depth, View("depth", SIZE, K), IMAGE, moved((0, 0, -3))).any()


def test_unknown_depth_stays_unknown():
    depth = np.zeros(SIZE, np.float32)
    depth[0, 0] = np.nan
    assert not registered(depth, View("depth", SIZE, K), IMAGE, np.eye(4)).any()


@pytest.mark.parametrize(
    ("source", "target", "pose", "said"),
    [
        (View("camera", (90, 160)), IMAGE, None, "160 x 90 in frame 'camera'.*aspect ratio"),
        (View("depth", SIZE), IMAGE, np.eye(4), "expected the depth's calibrated camera_info"),
        (
            View("depth", SIZE, K),
            View("camera", SIZE),
            np.eye(4),
            "expected the image's calibrated",
        ),
        (View("depth", SIZE, K, LENS), IMAGE, np.eye(4), "depth's camera_info has distortion"),
        (View("camera", SIZE, K, LENS), IMAGE, None, "expected rectified images"),
        (View("depth", SIZE, K), View("camera", SIZE, K, LENS), np.eye(4), "image's camera_info"),
        (View("depth", SIZE, K), IMAGE, None, r"transform .* is missing \(no tf\); publish it on"),
    ],
)
def test_what_is_missing_is_named(source, target, pose, said):
    with pytest.raises(ImageError, match=said):
        registered(np.ones(source.size, np.float32), source, target, pose, "no tf")
