"""The generator against itself: what it says about a picture must be true of the picture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from instaseg_ros.errors import InputError
from instaseg_ros.synthetic_street import CLASS_NAMES, Camera, SyntheticStreet, make_scene, render
from instaseg_ros.synthetic_street.export import write_bag, write_png_folder

SIZE = (96, 192)


@pytest.fixture(scope="module")
def street() -> SyntheticStreet:
    return SyntheticStreet(SIZE, split="val", sequences=2, frames_per_sequence=8, seed=3)


def test_sample_is_consistent(street: SyntheticStreet) -> None:
    for index in (0, 5, 15):
        sample = street[index]
        assert sample.frame.image.shape == (*SIZE, 3) and sample.frame.image.dtype == np.uint8
        assert sample.labels.shape == SIZE and sample.labels.dtype == np.uint16
        assert sample.ids.dtype == np.uint16 and sample.class_ids.dtype == np.int64
        present = np.unique(sample.labels)
        assert sample.ids.tolist() == present[present > 0].tolist()
        assert len(sample.class_ids) == len(sample.ids)
        assert set(sample.class_ids.tolist()) <= set(range(len(CLASS_NAMES)))
        assert sample.ignore is not None and not sample.ignore[sample.labels > 0].any()
        counts = np.bincount(sample.labels.ravel())
        assert (counts[sample.ids] >= 12).all()


def test_same_seed_same_sample_other_seed_other_sample(street: SyntheticStreet) -> None:
    again = SyntheticStreet(SIZE, split="val", sequences=2, frames_per_sequence=8, seed=3)
    for index in (3, 12):
        np.testing.assert_array_equal(street[index].frame.image, again[index].frame.image)
        np.testing.assert_array_equal(street[index].labels, again[index].labels)
    train = SyntheticStreet(SIZE, split="train", sequences=2, frames_per_sequence=8, seed=3)
    assert (train[3].frame.image != street[3].frame.image).mean() > 0.3


def test_training_samples_follow_the_generator() -> None:
    street = SyntheticStreet(SIZE, depth=False)
    one, same = (street.training_sample(np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(one.frame.image, same.frame.image)
    assert one.frame.depth is None
    rng = np.random.default_rng(0)
    seen = {int(k) for _ in range(40) for k in street.training_sample(rng).class_ids}
    assert seen == set(range(len(CLASS_NAMES)))


def test_training_samples_may_be_cut_to_rows_around_the_horizon() -> None:
    street = SyntheticStreet((64, 128))
    for seed in range(20):
        whole = street.training_sample(np.random.default_rng(seed)).frame
        part = street.training_sample(np.random.default_rng(seed), 32).frame
        assert part.image.shape == (32, 128, 3) and part.intrinsics is not None
        assert whole.intrinsics is not None
        above = whole.intrinsics[1, 2] - part.intrinsics[1, 2]
        assert 0 <= above <= 32 and part.intrinsics[0, 0] == whole.intrinsics[0, 0]
        horizon = part.intrinsics[1, 2]
        assert above in (0, 32) or 32 * 0.3 <= horizon <= 32 * 0.7


def test_ids_last_through_a_sequence(street: SyntheticStreet) -> None:
    class_of: dict[int, int] = {}
    shared = 0
    for index in range(8):
        sample = street[index]
        for label, class_id in zip(sample.ids.tolist(), sample.class_ids.tolist(), strict=True):
            shared += label in class_of
            assert class_of.setdefault(label, class_id) == class_id
    assert shared > 5


def test_window_of_the_view_is_that_part_of_the_view() -> None:
    scene = make_scene((1, 2, 3))
    whole = Camera.of_size(128, 256)
    full = render(scene, 0.0, whole)
    part = render(scene, 0.0, whole.window(32, 64, 64, 128))
    assert (part.labels == full.labels[32:96, 64:192]).mean() > 0.99
    np.testing.assert_allclose(part.depth, full.depth[32:96, 64:192], rtol=1e-3)


def test_depth_of_the_road_is_exact(street: SyntheticStreet) -> None:
    """Every road pixel, lifted with depth, intrinsics and pose, lies at world height 0 (y down)."""
    sample = street[0]
    frame, pose = sample.frame, sample.pose
    assert frame.depth is not None and frame.intrinsics is not None and pose is not None
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    rays = np.linalg.inv(frame.intrinsics) @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    points = pose[:3, :3] @ (rays * frame.depth.ravel()) + pose[:3, 3:]
    near_ego = (
        (np.abs(points[0] - pose[0, 3]) < 1.0)
        & (sample.labels.ravel() == 0)
        & (y.ravel() > 0.8 * SIZE[0])
    )
    assert near_ego.sum() > 200
    assert np.median(np.abs(points[1, near_ego])) < 1e-3
    assert points[1].max() < 1e-2  # nothing below the road


def test_a_thing_is_where_its_path_says() -> None:
    """The lifted pixels of each label lie around the position of the thing with that label."""
    scene = make_scene((4, 5), 2.0)
    camera, time_s = Camera.of_size(192, 384), 1.0
    view, pose = render(scene, time_s, camera), scene.pose(time_s)
    checked = 0
    for label in np.unique(view.labels)[1:]:
        y, x = np.nonzero(view.labels == label)
        rays = np.linalg.inv(camera.matrix) @ np.stack([x, y, np.ones(len(x))])
        points = pose[:3, :3] @ (rays * view.depth[y, x]) + pose[:3, 3:]
        thing = scene.things[label - 1]
        at = thing.position(time_s)
        reach = (thing.length + thing.width) / 2 + 0.8
        assert np.hypot(points[0] - at[0], points[2] - at[1]).max() < reach, CLASS_NAMES[
            thing.class_id
        ]
        checked += 1
    assert checked >= 3


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(InputError, match="split"):
        SyntheticStreet(split="test")
    with pytest.raises(InputError, match="positive"):
        SyntheticStreet((0, 10))
    with pytest.raises(IndexError):
        SyntheticStreet(SIZE, sequences=1, frames_per_sequence=2)[2]


def test_png_folder_holds_the_truth(street: SyntheticStreet, tmp_path: Path) -> None:
    write_png_folder(street, tmp_path / "out", frames=[2, 3])
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    assert meta["class_names"] == list(CLASS_NAMES)
    assert [frame["file"] for frame in meta["frames"]] == ["000000.png", "000001.png"]
    sample = street[3]
    assert sample.frame.depth is not None
    read = {
        kind: cv2.imread(str(tmp_path / "out" / kind / "000001.png"), cv2.IMREAD_UNCHANGED)
        for kind in ("images", "labels", "depth")
    }
    np.testing.assert_array_equal(read["images"][..., ::-1], sample.frame.image)
    np.testing.assert_array_equal(read["labels"], sample.labels)
    near = sample.frame.depth < 65
    np.testing.assert_allclose(read["depth"][near] / 1000, sample.frame.depth[near], atol=6e-4)
    assert meta["frames"][1]["ids"] == sample.ids.tolist()
    np.testing.assert_allclose(meta["frames"][1]["pose"], sample.pose)


@pytest.mark.parametrize("jpeg_quality", [None, 70])
def test_bag_holds_the_truth(
    street: SyntheticStreet, tmp_path: Path, jpeg_quality: int | None
) -> None:
    pytest.importorskip("rosbags")
    from instaseg_ros.recordings import bags

    path = tmp_path / "street.mcap"
    write_bag(street, path, frames=[4, 5, 6], jpeg_quality=jpeg_quality)
    frames, truths = list(bags.BagSource(path)), list(bags.read_truth(path))
    assert len(frames) == len(truths) == 3
    for index, frame, truth in zip((4, 5, 6), frames, truths, strict=True):
        sample = street[index]
        np.testing.assert_array_equal(truth.labels, sample.labels)
        classes = [CLASS_NAMES[k] for k in sample.class_ids]
        assert truth.class_names == dict(zip(sample.ids.tolist(), classes, strict=True))
        assert frame.stamp_ns == truth.stamp_ns == sample.frame.stamp_ns
        difference = np.abs(frame.image.astype(int) - sample.frame.image).mean()
        assert difference == 0 if jpeg_quality is None else difference < 8


def test_variation_keeps_the_truth_right() -> None:
    """With it, labels are of things and their classes, everything still lies where its path says,
    and equal seeds give equal frames."""
    street = SyntheticStreet(SIZE, depth=False, variation=True)
    classes, objects = set(), 0
    for seed in range(12):
        sample = street.training_sample(np.random.default_rng(seed))
        again = street.training_sample(np.random.default_rng(seed))
        np.testing.assert_array_equal(sample.frame.image, again.frame.image)
        np.testing.assert_array_equal(sample.labels, again.labels)
        np.testing.assert_array_equal(np.unique(sample.labels[sample.labels > 0]), sample.ids)
        assert sample.ignore is not None and not (sample.labels[sample.ignore] > 0).any()
        classes |= set(sample.class_ids.tolist())
        objects += len(sample.ids)
    assert {CLASS_NAMES.index("car"), CLASS_NAMES.index("person")} <= classes and objects > 40


def test_patterns_change_colours_alone_and_last_through_a_sequence() -> None:
    scene = make_scene((1, 2, 3), 1.0, variation=True)
    camera = Camera.of_size(128, 256)
    with_them = render(scene, 0.0, camera)
    without = render(replace(scene, surfaces=None), 0.0, camera)
    other = render(replace(scene, surfaces=(scene.surfaces or 0) + 1), 0.0, camera)
    for view in (without, other):
        np.testing.assert_array_equal(with_them.labels, view.labels)
        np.testing.assert_array_equal(with_them.inverse_depth, view.inverse_depth)
        assert np.abs(with_them.image.astype(int) - view.image).mean() > 5
    later = render(scene, 0.1, camera)
    shared = set(np.unique(with_them.labels)) & set(np.unique(later.labels)) - {0}
    large = [n for n in shared if min((v.labels == n).sum() for v in (with_them, later)) > 100]
    assert large
    for n in large:  # the same thing has the same colours
        means = [v.image[v.labels == n].mean(0) for v in (with_them, later)]
        assert np.abs(means[0] - means[1]).max() < 25


def test_without_variation_frames_are_those_that_weights_were_measured_on() -> None:
    """Published figures are of these held-out frames. (Within what CPUs may round differently.)"""
    street = SyntheticStreet((64, 128), split="val", sequences=3, frames_per_sequence=2)
    frames = [street[i] for i in range(0, 6, 2)]
    assert [len(frame.ids) for frame in frames] == [4, 8, 10]
    pixels = [int((frame.labels > 0).sum()) for frame in frames]
    np.testing.assert_allclose(pixels, [340, 1755, 1298], atol=8)
    means = [frame.frame.image.mean() for frame in frames]
    np.testing.assert_allclose(means, [149.27, 154.3, 112.14], atol=0.3)
    assert make_scene((1, 2, 3)).surfaces is None
