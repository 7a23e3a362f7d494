"""Views that show no object: parts of pictures, and random places of the dataset's images."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import dataset_layouts
import numpy as np
import pytest
import torch
from disc_images import QUICK, write_discs

from instaseg_ros.config import METHODS, AugmentConfig, Config, TrainConfig, merge
from instaseg_ros.datasets import Dataset, open_dataset
from instaseg_ros.errors import ConfigError, InputError, InstasegError
from instaseg_ros.synthetic_street import SyntheticStreet
from instaseg_ros.training.backgrounds import LONGEST_PX, Backgrounds, WithBackgrounds
from instaseg_ros.training.cache import kept
from instaseg_ros.training.data import to_batch, training_batches
from instaseg_ros.training.device_views import draw, make_batch, resident
from instaseg_ros.training.objects import object_index
from instaseg_ros.training.source import open_source
from instaseg_ros.training.trainer import train
from instaseg_ros.training.views import EndlessStreet, ObjectViews

STILL = AugmentConfig(scale_low=1, scale_high=1, flip=0, color=0, blur=0, noise=0)
BLUE = 10, 20, 200  # of every pixel of the pictures; no image of the discs has it


def write_pictures(folder: Path, *sizes: tuple[int, int]) -> Path:
    folder.mkdir()
    for number, size in enumerate(sizes or ((90, 120), (40, 200))):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((*size, 3), BLUE[::-1], np.uint8))
    return folder


def config(**options: Any) -> TrainConfig:
    plain = {"augment": STILL, "crop_height": 64, "crop_width": 64, "workers": 0, "batch_size": 4}
    return dataclasses.replace(TrainConfig(), **{**plain, "steps": 10, **options})


@pytest.fixture
def discs(tmp_path: Path) -> Dataset:
    return open_dataset(write_discs(tmp_path / "discs", 5), "all")


def views_of(dataset: Dataset, tmp_path: Path, options: TrainConfig) -> ObjectViews:
    """With the pictures of `pictures`, which is made, behind the dataset."""
    folder = tmp_path / "pictures"
    pictures = Backgrounds(str(folder if folder.exists() else write_pictures(folder)))
    with_them = WithBackgrounds(dataset, pictures)
    if options.cache != "none":
        with_them = kept(with_them)  # type: ignore[assignment]
    objects = object_index(with_them, tmp_path / "objects.npz")
    return ObjectViews(with_them, objects, options, len(pictures))


def test_a_share_of_the_views_shows_pictures_and_the_others_stay_the_same(
    discs: Dataset, tmp_path: Path
) -> None:
    share = dataclasses.replace(STILL, paste=2.0)
    options = config(augment=share, backgrounds="pictures", background_share=0.25)
    mixed = views_of(discs, tmp_path, options)
    objects = object_index(discs, tmp_path / "objects_alone.npz")
    alone = ObjectViews(discs, objects, config(augment=share))
    pictures = 0
    for index in range(100):
        (view,), (other,) = mixed[index], alone[index]
        (again,) = mixed[index]
        np.testing.assert_array_equal(view.frame.image, again.frame.image)
        if not len(view.ids):
            pictures += 1
            assert view.ignore is not None and not view.labels.any() and view.semantic is None
            assert (view.frame.image[~view.ignore] == BLUE).all() and not view.ignore.all()
        else:
            np.testing.assert_array_equal(view.frame.image, other.frame.image)
            np.testing.assert_array_equal(view.labels, other.labels)
    assert 13 < pictures < 38


def test_places_without_objects_are_seen_too(tmp_path: Path) -> None:
    """One object, in a corner: of twenty random places, one is near it."""
    image, labels = tmp_path / "images", tmp_path / "labels"
    for folder in (image, labels):
        folder.mkdir()
    label = np.zeros((128, 512), np.uint16)
    label[20:40, 20:40] = 1
    ramp = np.broadcast_to(np.arange(512) // 2, (128, 512)).astype(np.uint8)
    cv2.imwrite(str(image / "a.png"), ramp)
    cv2.imwrite(str(labels / "a.png"), label)
    dataset = open_dataset(tmp_path, "all")
    objects = object_index(dataset, tmp_path / "objects.npz")
    for share, low, high in ((0.0, 0, 0), (0.5, 40, 75), (1.0, 100, 119)):
        views = ObjectViews(dataset, objects, config(anywhere_share=share))
        empty = [not len(views[index][0].ids) for index in range(120)]
        assert low <= sum(empty) <= high
    right = [views[index][0].frame.image.max() for index in range(60)]
    assert max(right) == 255  # to the last column


def test_pictures_are_shrunk_and_keep_their_sides(tmp_path: Path) -> None:
    pictures = Backgrounds(str(write_pictures(tmp_path / "p", (100, 2 * LONGEST_PX), (30, 40))))
    assert [pictures[i].frame.image.shape for i in (0, 1)] == [(50, LONGEST_PX, 3), (30, 40, 3)]
    assert len(pictures) == 2 and pictures.files(1) == (tmp_path / "p" / "1.png",)


def test_batches_are_the_same_from_memory(discs: Dataset, tmp_path: Path) -> None:
    options = config(backgrounds="pictures", background_share=0.5, augment=AugmentConfig())
    plain, from_memory = (
        list(training_batches(views_of(discs, tmp_path, one), one, 0))
        for one in (options, dataclasses.replace(options, cache="memory"))
    )
    for one, other in zip(plain, from_memory, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.targets.labels, other.targets.labels)
        assert torch.equal(one.targets.ignore, other.targets.ignore)


def test_views_of_the_device_are_those_of_the_host(tmp_path: Path) -> None:
    """Also of a dataset with dense classes, which are unknown in pictures."""
    street = SyntheticStreet((96, 160), sequences=2, frames_per_sequence=2, seed=4)
    dataset_layouts.write_cityscapes(tmp_path, [street[i] for i in range(4)])
    options = config(
        backgrounds="p", background_share=0.4, anywhere_share=0.3, cache="device", seed=3
    )
    views = views_of(open_dataset(tmp_path, "all"), tmp_path, options)
    assert views.dataset.semantic_names  # type: ignore[attr-defined]
    cpu, count = torch.device("cpu"), 24
    host = to_batch([views[i] for i in range(count)])
    data = resident(views.dataset, cpu)  # type: ignore[arg-type]
    device = make_batch(data, draw(views, range(count), cpu), options)
    assert torch.equal(device.images, host.images)
    for name in ("labels", "ignore", "semantic"):
        assert torch.equal(getattr(device.targets, name), getattr(host.targets, name)), name
    blue = (host.images == torch.tensor(BLUE)[:, None, None]).all(1)
    assert blue.any() and not host.targets.semantic[blue].any()  # type: ignore[index]


def test_the_synthetic_street_takes_pictures_too(tmp_path: Path) -> None:
    folder = str(write_pictures(tmp_path / "p", (200, 200)))
    options = config(backgrounds=folder, background_share=0.5, horizon_rows=32)
    source = open_source(options, tmp_path)
    assert isinstance(source.views, EndlessStreet)
    without = EndlessStreet(config(horizon_rows=32))
    pictures = 0
    for index in range(12):
        (view,), (other,) = source.views[index], without[index]
        assert view.frame.image.shape == (32, 64, 3)
        if (view.frame.image == BLUE).all():
            pictures += 1
            assert not len(view.ids)
        else:
            np.testing.assert_array_equal(view.frame.image, other.frame.image)
    assert 1 < pictures < 11
    to_batch([source.views[index] for index in range(12)])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_from_pictures_alone(method: str, tmp_path: Path) -> None:
    """A batch without any object has a loss, and its gradient is finite."""
    options = {
        **QUICK,
        "train.dataset": str(write_discs(tmp_path / "discs", 3)),
        "train.backgrounds": str(write_pictures(tmp_path / "p")),
        "train.background_share": 1.0,
        "train.steps": 2,
        "train.save_every": 1,
    }
    train(merge(Config().for_method(method), options), tmp_path / "run")
    log = (tmp_path / "run" / "log.csv").read_text()
    assert len(log.splitlines()) == 3 and "nan" not in log


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"background_share": 0.1}, "train.background_share: got 0.1 with train.backgrounds ''"),
        ({"backgrounds": "p"}, "train.background_share: got 0.0 with train.backgrounds 'p'"),
        (
            {"backgrounds": "p", "background_share": 0.1, "clip_frames": 2},
            "train.background_share: expected 0 with train.clip_frames above 1",
        ),
        (
            {"backgrounds": "p", "background_share": 0.6, "anywhere_share": 0.5},
            "train.background_share: expected at most 1 together",
        ),
        ({"anywhere_share": 0.5}, "train.anywhere_share: expected 0 for the synthetic street"),
        (
            {"backgrounds": "nowhere", "background_share": 0.1},
            "train.backgrounds: nowhere: expected a folder of images",
        ),
    ],
)
def test_what_cannot_be_is_told(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InstasegError) as error:
        open_source(config(**options), tmp_path)
    assert said in str(error.value)
    assert isinstance(error.value, ConfigError) != ("nowhere" in said)


@pytest.mark.parametrize("synthetic", [False, True])
def test_a_picture_that_cannot_be_read_is_named(synthetic: bool, tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "p")
    data = {} if synthetic else {"dataset": str(write_discs(tmp_path / "discs", 3))}
    options = config(backgrounds=str(folder), background_share=0.1, **data)
    (folder / "9.webp").write_bytes(b"RIFF")
    with pytest.raises(InputError, match=r"9\.webp: expected an image"):
        open_source(options, tmp_path)
    for file in folder.iterdir():
        file.unlink()
    with pytest.raises(InputError, match=r"train\.backgrounds: .*p: expected images .*found none"):
        open_source(options, tmp_path)
