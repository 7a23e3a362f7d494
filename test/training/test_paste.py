"""Whole objects of other images are pasted into views, of which all that is said stays true."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import dataset_layouts
import numpy as np
import pytest
import torch

from instaseg_ros.config import TrainConfig
from instaseg_ros.datasets import Dataset, Sample, open_dataset
from instaseg_ros.errors import ConfigError
from instaseg_ros.frames import Frame
from instaseg_ros.synthetic_street import SyntheticStreet
from instaseg_ros.training.cache import kept
from instaseg_ros.training.data import to_batch, training_batches
from instaseg_ros.training.objects import object_index
from instaseg_ros.training.paste import LEAST_SEEN, cut_out, pasted
from instaseg_ros.training.source import open_source
from instaseg_ros.training.views import ObjectViews

SIZE = 96, 160
CLASSES = ("disc", "box", "rare")
SKY, ROAD, THING = 1, 2, 3  # dense classes + 1
HORIZON = 40


class Plain:
    """Images in which a class has a colour of its own: 30, 60, 90 of red; ground is (0, 200, 0).

    Of each image one object, so far down as it is large; every tenth image has a rare one. The last
    column of each image is a group, the first ignored ground.
    """

    class_names = CLASSES
    semantic_names = ("sky", "road", "thing")

    def __init__(self, images: int = 40) -> None:
        self.images = images

    def __len__(self) -> int:
        return self.images

    def files(self, _: int) -> tuple[Path, ...]:
        return ()

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng(index)
        image = np.full((*SIZE, 3), (0, 200, 0), np.uint8)
        labels = np.zeros(SIZE, np.uint16)
        semantic = np.full(SIZE, SKY, np.uint8)
        semantic[HORIZON:] = ROAD
        class_id = 2 if index % 10 == 9 else index % 2
        side = int(rng.integers(8, 40))
        top, left = HORIZON, int(rng.integers(4, SIZE[1] - side - 4))
        where = slice(top, top + side), slice(left, left + side)
        number = 7 + index
        image[where], labels[where], semantic[where] = (30 + 30 * class_id, 0, 0), number, THING
        ignore, crowd = np.zeros(SIZE, bool), np.zeros(SIZE, np.uint8)
        ignore[:, 0], crowd[:, -1] = True, 1
        ids = np.array([number], np.uint16)
        return Sample(
            Frame(image), labels, ids, np.array([class_id]), ignore, crowd=crowd, semantic=semantic
        )


def config(**augment: object) -> TrainConfig:
    plain = {"flip": 0.5, "color": 0.0, "blur": 0.0, "noise": 0.0, "paste": 3.0}
    base = TrainConfig()
    return dataclasses.replace(
        base,
        augment=dataclasses.replace(base.augment, **{**plain, **augment}),  # type: ignore[arg-type]
        batch_size=2,
        steps=3,
        crop_height=64,
        crop_width=96,
        workers=0,
    )


def views(dataset: Dataset, tmp_path: Path, options: TrainConfig) -> ObjectViews:
    return ObjectViews(dataset, object_index(dataset, tmp_path / "objects.npz"), options)


@pytest.mark.parametrize("turn", [False, True])
def test_what_is_said_of_a_view_is_what_it_shows(tmp_path: Path, turn: bool) -> None:
    with_some = views(Plain(), tmp_path, config(turn=turn))
    without = views(Plain(), tmp_path, config(turn=turn, paste=0.0))
    more = 0
    for index in range(60):
        (view,), (before,) = with_some[index], without[index]
        assert (
            view.ids.tolist() == (np.flatnonzero(np.bincount(view.labels.ravel())[1:]) + 1).tolist()
        )
        assert view.ids.dtype == np.uint16 and len(view.class_ids) == len(view.ids)
        more += len(view.ids) - len(before.ids)
        assert view.ignore is not None and before.ignore is not None
        assert view.crowd is not None and view.semantic is not None
        thing = view.labels > 0
        assert (view.semantic[thing] == THING).all()
        assert not view.ignore[thing].any() and not view.crowd[thing].any()
        for i, k in zip(view.ids, view.class_ids, strict=True):
            inside = (view.labels == i) & ~_rim(view.labels)
            # Edges are soft, and magnified images as well.
            assert (
                np.abs(view.frame.image[inside].astype(int)[:, 0] - (30 + 30 * k)).max(initial=0)
                < 16
            )
        # What nothing was pasted on is as it was; what is left of hidden objects is ignored.
        new = (view.frame.image != before.frame.image).any(2) | (view.labels != before.labels)
        for name in ("ignore", "crowd", "semantic"):
            one, other = getattr(view, name), getattr(before, name)
            np.testing.assert_array_equal(one[~new], other[~new], err_msg=name)
        assert view.ignore[new & ~thing].all()
    assert more > 60


def _rim(labels: np.ndarray) -> np.ndarray:
    """Pixels near another label."""
    rim = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        for by in range(-3, 4):
            rim |= np.roll(labels, by, axis) != labels
    return rim


def test_objects_stand_where_their_size_is_plausible(tmp_path: Path) -> None:
    """Here all begin at the horizon: so do pasted ones, and stand on the road."""
    for (view,) in (
        views(Plain(), tmp_path, config(scale_low=1, scale_high=1))[i] for i in range(30)
    ):
        assert view.semantic is not None
        horizon = np.flatnonzero((view.semantic != SKY).any(1))[0]
        rows = np.flatnonzero((view.labels > 0).any(1))
        assert abs(rows[0] - horizon) <= 1


def test_views_are_a_function_of_seed_and_index(tmp_path: Path) -> None:
    one, other = (views(Plain(), tmp_path, config()) for _ in range(2))
    for index in (11, 3):
        first, again = one[index][0], other[index][0]
        np.testing.assert_array_equal(first.frame.image, again.frame.image)
        np.testing.assert_array_equal(first.labels, again.labels)
    seeded = views(Plain(), tmp_path, dataclasses.replace(config(), seed=1))
    assert any((one[i][0].labels != seeded[i][0].labels).any() for i in range(5))


def test_batches_are_the_same_from_memory(tmp_path: Path) -> None:
    street = SyntheticStreet(SIZE, sequences=3, frames_per_sequence=2, seed=4)
    dataset_layouts.write_cityscapes(tmp_path / "city", [street[i] for i in range(6)])
    plain = open_dataset(tmp_path / "city", "all")
    options = config(color=0.3, noise=1.0)
    batches = [
        list(training_batches(views(data, tmp_path, options), options, 0))
        for data in (plain, kept(plain))
    ]
    assert len(batches[0]) == 3
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one.images, other.images)
        for name in ("labels", "ignore", "semantic"):
            assert torch.equal(getattr(one.targets, name), getattr(other.targets, name)), name


def test_classes_are_pasted_equally_often(tmp_path: Path) -> None:
    """Every tenth object of 1000 is rare, and a third of the pasted ones."""
    data = Plain(1000)
    with_some = views(data, tmp_path, config(paste=1.0, scale_low=1, scale_high=1))
    without = views(data, tmp_path, config(paste=0.0, scale_low=1, scale_high=1))
    seen: Counter[int] = Counter()
    for index in range(300):
        (view,), (before,) = with_some[index], without[index]
        seen.update(view.class_ids[~np.isin(view.ids, before.ids)].tolist())
    assert 270 <= sum(seen.values()) <= 300  # few find no place
    assert 0.26 < seen[2] / sum(seen.values()) < 0.41


def test_but_for_what_is_pasted_a_view_is_as_without(tmp_path: Path) -> None:
    """What is random in a view does not depend on it: window, colour and noise stay."""
    with_some, without = (
        views(Plain(), tmp_path, config(paste=p, color=0.0, noise=1.0)) for p in (1.0, 0.0)
    )
    assert without.paste is None
    changed = 0
    for index in range(10):
        (view,), (before,) = with_some[index], without[index]
        differ = (view.frame.image != before.frame.image).any(2)
        changed += differ.any()
        assert (view.labels[differ] > 0).all() or (view.ids != before.ids).any()
        assert differ.mean() < 0.7
    assert changed >= 5


def square(labels: np.ndarray, number: int, top: int, left: int, side: int) -> None:
    labels[top : top + side, left : left + side] = number


def of_labels(labels: np.ndarray, color: int = 0) -> Sample:
    ids = np.unique(labels[labels > 0]).astype(np.uint16)
    image = np.full((*labels.shape, 3), color, np.uint8)
    return Sample(Frame(image), labels, ids, np.arange(len(ids)))


def test_a_rider_takes_the_bicycle_along_and_no_bystander() -> None:
    labels = np.zeros((60, 60), np.uint16)
    square(labels, 5, 30, 20, 12)  # bicycle
    labels[26:30, 22:30] = 3  # rider, two thirds of whose box are the bicycle's too
    labels[30:38, 24:28] = 3
    square(labels, 9, 30, 32, 12)  # touches the bicycle
    cutout = cut_out(of_labels(labels), 3)
    assert set(np.unique(cutout.number)) == {0, 1, 2}
    assert cutout.class_ids.tolist() == [0, 1]  # of 3 and 5
    assert (cutout.number == 1).sum() == (labels == 3).sum()


@pytest.mark.parametrize("above_all", [False, True])
def test_what_is_nearer_stays_in_front(above_all: bool) -> None:
    labels = np.zeros((60, 60), np.uint16)
    square(labels, 1, 20, 20, 30)  # reaches down to row 50
    source = np.zeros((60, 60), np.uint16)
    square(source, 4, 20, 10, 20)
    view = pasted(of_labels(labels), cut_out(of_labels(source, 255), 4), MOVED, WHOLE, above_all)
    assert view.ids.tolist() == [1, 2] and view.class_ids.tolist() == [0, 0]
    assert (view.labels == 1).sum() == (30 * 30 - (20 * 10 if above_all else 0))
    assert (view.frame.image[25, 25] > 200).all() == above_all
    assert view.frame.image[30, 15].tolist() == [255] * 3


MOVED = np.array([[1, 0, 6.0], [0, 1, 16]])  # a cutout begins 4 pixels before its object
WHOLE = np.array([0, 0, 60, 60.0])


def test_what_is_left_of_a_hidden_object_is_ignored() -> None:
    labels = np.zeros((60, 60), np.uint16)
    square(labels, 6, 20, 12, 10)  # all of it hidden but a column
    square(labels, 8, 40, 45, 10)
    labels[20:30, 30] = 6  # one of eleven columns stays: less than LEAST_SEEN
    assert LEAST_SEEN > 1 / 11
    source = np.zeros((60, 60), np.uint16)
    square(source, 4, 20, 10, 20)
    view = pasted(of_labels(labels), cut_out(of_labels(source), 4), MOVED, WHOLE)
    assert view.ids.tolist() == [1, 8] and view.class_ids.tolist() == [0, 1]
    assert view.ignore is not None and view.ignore.sum() == 10 and view.ignore[20:30, 30].all()
    batch = to_batch([view])
    assert batch.targets.labels.max() == 2


def test_only_what_its_image_shows_whole_is_pasted(tmp_path: Path) -> None:
    labels = np.zeros((60, 90), np.uint16)
    square(labels, 1, 10, 0, 10)  # cut by the border
    square(labels, 2, 10, 20, 10)
    square(labels, 3, 14, 30, 10)  # nearer, touches 2 along six pixels of 40
    square(labels, 4, 10, 50, 6)
    square(labels, 5, 10, 60, 6)
    labels[30:36, 60:66] = 5  # in two pieces

    class One:
        class_names = tuple("abcde")

        def __len__(self) -> int:
            return 1

        def files(self, _: int) -> tuple[Path, ...]:
            return ()

        def __getitem__(self, _: int) -> Sample:
            return of_labels(labels)

    objects = object_index(One(), tmp_path / "objects.npz")
    assert objects["id"][objects["whole"]].tolist() == [3, 4]
    assert objects[["top", "bottom"]][4].tolist() == (10, 36)


def test_with_clips_or_views_of_the_device_it_is_refused(tmp_path: Path) -> None:
    data = dataclasses.replace(config(), dataset=str(tmp_path))
    for change in ({"clip_frames": 2}, {"cache": "device"}):
        with pytest.raises(ConfigError, match=r"train\.augment\.paste: expected 0 with train\."):
            open_source(dataclasses.replace(data, **change), tmp_path)


def test_without_a_whole_object_it_is_refused(tmp_path: Path) -> None:
    options = dataclasses.replace(config(), min_object_px=50)
    data = Plain(4)
    objects = object_index(data, tmp_path / "objects.npz")
    objects["whole"] = False
    with pytest.raises(ConfigError, match=r"train\.augment\.paste: .* set it to 0"):
        ObjectViews(data, objects, options)
