"""Where instances are, against shapes whose place is known."""

from __future__ import annotations

import numpy as np
import pytest

from instaseg_ros.clustering.label_image import labelled_instances
from instaseg_ros.frames import Instances, Locations
from instaseg_ros.localization import locate
from instaseg_ros.rays import sight_rays

SIZE = (120, 160)
K = np.array([[200.0, 0, 79.5], [0, 200, 59.5], [0, 0, 1]])
RAYS = sight_rays(K, SIZE)
X, Y = RAYS[..., 0].astype(float), RAYS[..., 1].astype(float)


def instances_of(labels: np.ndarray) -> Instances:
    count = int(labels.max())
    scores = np.linspace(1, 0.5, count).astype(np.float32)
    return labelled_instances(labels.astype(np.uint16), np.zeros(count, np.int64), scores)


def one(mask: np.ndarray, depth: np.ndarray, **options: int) -> Locations:
    return locate(instances_of(mask.astype(np.uint16)), depth.astype(np.float32), RAYS, **options)


def square(half: int = 15) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[60 - half : 60 + half, 80 - half : 80 + half] = True
    return mask


def test_plane_in_front_of_the_camera():
    found = one(square(), np.full(SIZE, 4.0))
    assert found.ids.tolist() == [1] and found.rows.tolist() == [0]
    assert found.distances_m[0] == pytest.approx(4, rel=1e-2)
    np.testing.assert_allclose(found.centroids[0], (0, 0, 4), atol=1e-2)
    # 30 pixels of 4 m / 200 each; the spread of evenly spread points is a twelfth of the square.
    np.testing.assert_allclose(np.diag(found.covariances[0])[:2], 0.6**2 / 12, rtol=0.02)
    np.testing.assert_allclose(found.box_sizes[0], (0.6, 0.6, 0), atol=0.03)
    np.testing.assert_allclose(found.box_centers[0], (0, 0, 4), atol=0.02)
    assert found.depth_pixels.tolist() == [900]


def test_tilted_plane_spreads_along_its_slope():
    """z = 5 + x: the points lie on a line in x and z."""
    depth = 5 / (1 - X)
    found = one(square(), depth)
    mean = np.array([(X * depth)[square()].mean(), 0, depth[square()].mean()])
    np.testing.assert_allclose(found.centroids[0], mean, atol=0.02)
    spread = found.covariances[0]
    assert spread[0, 2] == pytest.approx(spread[0, 0], rel=0.02)
    assert spread[2, 2] == pytest.approx(spread[0, 0], rel=0.02)
    np.testing.assert_allclose(spread, spread.T)


def test_sphere_shows_its_near_half():
    """Of radius 1 around (1, 0.5, 8)."""
    middle = np.array([1, 0.5, 8.0])
    rays = np.dstack([X, Y, np.ones(SIZE)])
    a, b, c = (rays**2).sum(2), rays @ middle, middle @ middle - 1
    hit = b**2 > a * c
    depth = np.where(hit, (b - np.sqrt(np.maximum(b**2 - a * c, 0))) / a, 50)
    found = one(hit, depth)
    points = (rays * depth[..., None])[hit]
    np.testing.assert_allclose(found.centroids[0], points.mean(0), atol=0.08)
    np.testing.assert_allclose(
        found.box_centers[0], points.min(0) / 2 + points.max(0) / 2, atol=0.1
    )
    np.testing.assert_allclose(found.box_sizes[0], np.ptp(points, axis=0), atol=0.25)
    assert np.linalg.norm(found.centroids[0]) < np.linalg.norm(middle)  # what is seen is nearer


def test_box_seen_from_a_corner_is_kept_whole():
    """A lorry 2 m wide, from 6 m to 14 m ahead: most pixels see its side, which is no outlier."""
    back, side = 6.0, -2.0
    depth = np.full(SIZE, 60.0)
    rear = (-4 / back < X) & (side / back > X) & (np.abs(Y) < 1.2 / back)
    along = np.divide(side, X, out=np.zeros(SIZE), where=X < 0)
    flank = (along >= back) & (along < 14) & (np.abs(Y) < 1.2 / np.maximum(along, back))
    depth[rear], depth[flank] = back, along[flank]
    mask = rear | flank
    found = one(mask, depth)
    points = (np.dstack([X, Y, np.ones(SIZE)]) * depth[..., None])[mask]
    np.testing.assert_allclose(found.centroids[0], points.mean(0), atol=0.25)
    assert found.box_sizes[0, 2] > 6


@pytest.mark.parametrize("behind", [7.0, 40.0, 0.0])
def test_a_mask_that_covers_background_keeps_its_distance(behind):
    mask = square(15)
    depth = np.full(SIZE, behind)
    depth[square(13)] = 4  # the outer quarter of the mask is of something else
    found = one(mask, depth)
    assert found.distances_m[0] == pytest.approx(4, rel=1e-2)
    assert found.centroids[0, 2] == pytest.approx(4, abs=0.02)
    assert found.box_sizes[0, 2] < 0.05
    assert found.depth_pixels[0] == pytest.approx(26 * 26, rel=0.02)


def test_noise_and_holes():
    rng = np.random.default_rng(1)
    depth = 10 / (1 + 0.05 * rng.standard_normal(SIZE))
    depth[rng.random(SIZE) < 0.5] = 0
    found = one(square(), depth)
    np.testing.assert_allclose(found.centroids[0], (0, 0, 10), atol=0.15)
    assert found.covariances[0, 2, 2] == pytest.approx(0.5**2, rel=0.3)
    assert found.depth_pixels[0] == pytest.approx(450, abs=60)


def test_objects_without_enough_depth_are_left_out():
    labels = np.zeros(SIZE, np.uint16)
    labels[10:30, 10:30], labels[50:70, 50:70], labels[90:110, 90:110] = 1, 2, 3
    depth = np.full(SIZE, 5, np.float32)
    depth[labels == 2] = 0
    depth[labels == 3] = np.where(np.arange(400) < 19, 5, 0)
    found = locate(instances_of(labels), depth, RAYS, min_pixels=20)
    assert found.ids.tolist() == [1]
    found = locate(instances_of(labels), depth, RAYS, min_pixels=19)
    assert found.ids.tolist() == [1, 3] and found.rows.tolist() == [0, 2]
    assert len(found) == 2


def test_thin_objects_are_measured_at_their_edges():
    mask = np.zeros(SIZE, bool)
    mask[20:100, 80:82] = True  # a pole of two pixels
    found = one(mask, np.where(mask, 6.0, 30.0))
    assert found.distances_m[0] == pytest.approx(6, rel=1e-2)
    assert found.depth_pixels[0] == 160


@pytest.mark.parametrize("metres", [0.02, 5000.0])
def test_depth_that_no_sensor_measures_is_unknown(metres):
    assert len(one(square(), np.full(SIZE, metres))) == 0


@pytest.mark.parametrize("metres", [0.07, 0.3, 63.999, 900.0])
def test_any_other_depth(metres):
    found = one(square(), np.full(SIZE, metres))
    assert found.centroids[0, 2] == pytest.approx(metres, rel=1e-3)


def test_ids_are_those_of_the_label_image_and_nothing_is_changed():
    labels = np.zeros(SIZE, np.uint16)
    labels[10:30, 10:40], labels[60:90, 70:100] = 65535, 7
    ids = np.array([65535, 7], np.uint16)
    empty = np.zeros((2, 4), np.float32)
    instances = Instances(
        labels, ids, ids.astype(np.int64), empty[:, 0], empty, empty[:, :2], empty
    )
    labels.flags.writeable = False
    depth = np.full((120, 320), 3, np.float32)[:, ::2]
    depth.flags.writeable = False
    found = locate(instances, depth, RAYS)
    assert found.ids.tolist() == [65535, 7]
    assert found.centroids[0, 0] < 0 < found.centroids[1, 0] + 0.2


def test_no_instances():
    found = locate(Instances.empty(*SIZE), np.ones(SIZE, np.float32), RAYS)
    assert len(found) == 0
    assert found.centroids.shape == (0, 3) and found.covariances.shape == (0, 3, 3)
