"""Datasets of images and label images: what is written in a layout is read from it, or named."""

from __future__ import annotations

from pathlib import Path

import cv2
import dataset_layouts
import numpy as np
import pytest
from dataset_layouts import (
    CITYSCAPES_IDS,
    KITTI_IDS,
    SIZE,
    assert_holds,
    street_samples,
    write_image,
)

from instaseg_ros.datasets import KINDS, Sequences, open_dataset
from instaseg_ros.datasets.cityscapes import Cityscapes
from instaseg_ros.datasets.cvppp import Cvppp
from instaseg_ros.datasets.kitti_mots import KittiMots
from instaseg_ros.datasets.label_images import LabelImages
from instaseg_ros.errors import InputError
from instaseg_ros.synthetic_street import SyntheticStreet
from instaseg_ros.synthetic_street.export import write_png_folder

IMAGE = np.zeros((*SIZE, 3), np.uint8)


def test_label_images_of_cityscapes_numbers(tmp_path: Path) -> None:
    samples = street_samples()
    dataset_layouts.write_label_images(tmp_path, samples, "train")
    dataset = open_dataset(tmp_path, "all")
    assert isinstance(dataset, LabelImages)
    assert_holds(dataset, samples)


def test_plain_labels_are_of_one_class_and_need_no_split(tmp_path: Path) -> None:
    labels = np.zeros(SIZE, np.uint16)
    labels[5:9], labels[20:22] = 700, 3
    write_image(tmp_path / "images" / "a.png", IMAGE)
    write_image(tmp_path / "labels" / "a.png", labels)
    write_image(tmp_path / "ignore" / "a.png", (labels == 3).astype(np.uint8))
    for split in ("train", "val"):
        dataset = open_dataset(tmp_path, split)
        sample = dataset[0]
        assert dataset.class_names == ("object",) and sample.ids.tolist() == [3, 700]
        np.testing.assert_array_equal(sample.labels, labels)
        np.testing.assert_array_equal(sample.ignore, labels == 3)


def test_folder_of_the_synthetic_street_keeps_its_classes(tmp_path: Path) -> None:
    data = SyntheticStreet(SIZE, sequences=1, frames_per_sequence=2, seed=3)
    write_png_folder(data, tmp_path / "out")
    dataset = open_dataset(tmp_path / "out", "all")
    assert_holds(dataset, [data[0], data[1]])
    np.testing.assert_array_equal(dataset[1].ignore, data[1].ignore)
    (tmp_path / "out" / "meta.json").write_text('{"class_names": ["car"], "frames": [{}]}')
    with pytest.raises(InputError, match=r"meta\.json: expected `class_names` and per frame"):
        open_dataset(tmp_path / "out", "train")


def test_cityscapes_groups_are_crowds_and_void_is_ignored(tmp_path: Path) -> None:
    samples = street_samples()
    dataset_layouts.write_cityscapes(tmp_path, samples)
    dataset = open_dataset(tmp_path, "all")
    assert isinstance(dataset, Cityscapes)
    assert_holds(dataset, samples)
    truth = np.full(SIZE, 7, np.uint16)  # road
    # a group of cars, unlabelled, own car, a group of caravans, another car, a caravan
    for row, value in enumerate((26, 0, 1, 29, 26011, 29003)):
        truth[row] = value
    write_image(dataset.files(1)[1], truth)
    sample = dataset[1]
    assert sample.crowd is not None and sample.ignore is not None
    assert (sample.crowd[0] == 1 + dataset.class_names.index("car")).all()
    assert not sample.crowd[1:].any()
    assert sample.ignore[1:4].all() and not sample.ignore[[0, *range(4, 64)]].any()
    assert sample.ids.tolist() == [1] and (sample.labels[4] == 1).all()


@pytest.mark.parametrize("form", ["instances", "instances_txt"])
def test_kitti_mots_keeps_tracks_and_the_official_split(tmp_path: Path, form: str) -> None:
    samples = street_samples()
    dataset_layouts.write_kitti_mots(tmp_path, samples, "0000", form)
    dataset_layouts.write_kitti_mots(tmp_path, samples[:1], "0018", form)
    dataset = open_dataset(tmp_path, "train")
    assert isinstance(dataset, KittiMots)
    assert_holds(dataset, [_without_corner(s) for s in samples], tuple(KITTI_IDS))
    assert [dataset[i].frame.stamp_ns for i in range(3)] == [0, 100_000_000, 200_000_000]
    assert isinstance(dataset, Sequences)
    assert [dataset.sequence(i) for i in range(3)] == ["0000"] * 3
    read, expected = (
        dataset[2],
        dataset_layouts.class_and_number(samples[2], KITTI_IDS, number_is_id=True),
    )
    np.testing.assert_array_equal(read.labels[2:], expected[2:])
    assert read.ignore is not None and read.ignore.sum() == 4 and read.ignore[:2, :2].all()
    assert len(open_dataset(tmp_path, "val")) == 1
    with pytest.raises(InputError, match="expected a split of train, val, got 'test'"):
        open_dataset(tmp_path, "test")


def _without_corner(sample):
    sample.labels[:2, :2] = 0  # what `dataset_layouts` marks as ignored
    return sample


def test_both_forms_of_kitti_mots_hold_the_same(tmp_path: Path) -> None:
    samples = street_samples()
    png, text = (
        KittiMots(dataset_layouts.write_kitti_mots(tmp_path / form, samples, "0001", form))
        for form in ("instances", "instances_txt")
    )
    for i in range(len(samples)):
        np.testing.assert_array_equal(png[i].labels, text[i].labels)
        np.testing.assert_array_equal(png[i].class_ids, text[i].class_ids)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0 1001 1 64 128", r"line 1: expected `frame id class height width rle`"),
        ("0 1001 1 64 100 PPo1", r"line 1: expected a mask of \(64, 128\) pixels"),
        ("0 1001 1 64 128 11", r"line 1: expected runs that fill 64 x 128 pixels, got 2"),
        (
            "0 1001 1 64 128 0PP8\n0 1002 1 64 128 0PP8",
            "line 2: expected masks that do not overlap, found that of 1002 over that of 1001",
        ),
        ("0 5001 5 64 128 0PP8", r"0000\.txt: expected ids of 1000 to 2999 or 10000, found \[5001"),
        ("0 70000 1 64 128 0PP8", r"line 1: expected an id of 1 to 10000, found 70000"),
    ],
)
def test_broken_lines_of_kitti_mots_are_named(tmp_path: Path, line: str, said: str) -> None:
    write_image(tmp_path / "image_02" / "0000" / "000000.png", IMAGE)
    (tmp_path / "instances_txt").mkdir()
    (tmp_path / "instances_txt" / "0000.txt").write_text(line)
    with pytest.raises(InputError, match=said):
        KittiMots(tmp_path)[0]


def test_every_fifth_plant_is_for_validation(tmp_path: Path) -> None:
    samples = street_samples(10)
    dataset_layouts.write_cvppp(tmp_path, samples)
    train, val = (open_dataset(tmp_path, split) for split in ("train", "val"))
    assert isinstance(train, Cvppp) and train.class_names == ("leaf",)
    names = [val.files(i)[0].name for i in range(len(val))]
    assert names == ["plant005_rgb.png", "plant010_rgb.png"] and len(train) == 8
    np.testing.assert_array_equal(val[0].labels, samples[4].labels)
    np.testing.assert_array_equal(val[0].ids, samples[4].ids)
    assert len(Cvppp(tmp_path / "A1", "")) == 10
    with pytest.raises(InputError, match=r"plant\*_rgb\.png, at least five .* found 0"):
        Cvppp(tmp_path / "A1" / "absent")


def test_leaves_by_colour_are_leaves_by_number(tmp_path: Path) -> None:
    """A palette comes out of OpenCV as colours."""
    (sample,) = street_samples(1)
    dataset_layouts.write_cvppp(tmp_path, [sample])
    dataset = Cvppp(tmp_path, "")
    numbers = dataset[0]
    colors = np.random.default_rng(0).permutation(255)[: 3 * 80].reshape(80, 3).astype(np.uint8) + 1
    colors[0] = 0
    assert sample.ids.max() < len(colors)
    write_image(dataset.files(0)[1], colors[sample.labels])
    assert dataset_layouts.classes_and_masks(
        dataset[0], ("leaf",)
    ) == dataset_layouts.classes_and_masks(numbers, ("leaf",))


def test_missing_and_broken_images_are_named(tmp_path: Path) -> None:
    dataset = LabelImages(dataset_layouts.write_label_images(tmp_path, street_samples(1)))
    image, labels = dataset.files(0)
    whole = labels.read_bytes()
    for content, said in (
        (None, "expected an image, found No such file"),
        (b"", "expected an image, found no bytes"),
        (whole[: len(whole) // 2], "expected an image, found a PNG that breaks off"),
        (_png(np.zeros((9, 9), np.uint16)), r"of 8 or 16 bits and \(64, 128\) pixels .* \(9, 9\)"),
        (_png(IMAGE), r"expected one channel .* found uint8 of \(64, 128, 3\)"),
    ):
        labels.unlink() if content is None else labels.write_bytes(content)
        with pytest.raises(InputError, match=said) as caught:
            dataset[0]
        assert str(caught.value).startswith(f"{labels}: ")
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    jpeg = cv2.imencode(".jpg", noise)[1].tobytes()
    labels.write_bytes(whole)
    image.write_bytes(jpeg)
    assert dataset[0].frame.image.shape == (*SIZE, 3)
    image.write_bytes(jpeg[:-100])
    with pytest.raises(InputError, match=r"0\.png: expected an image, found a JPEG that breaks"):
        dataset[0]


def _png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def test_unknown_layouts_are_answered_with_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    with pytest.raises(InputError) as caught:
        open_dataset(tmp_path, "train")
    assert all(kind.layout in str(caught.value) for kind in KINDS)
    assert str(caught.value).endswith("found: pictures")
    with pytest.raises(InputError, match="absent: expected `synthetic` or a path; no such file"):
        open_dataset(tmp_path / "absent", "train")


def test_synthetic_is_a_word(tmp_path: Path) -> None:
    dataset = open_dataset("synthetic", "val")
    assert isinstance(dataset, SyntheticStreet) and len(dataset) == 200
    assert dataset.class_names == tuple(CITYSCAPES_IDS) and dataset.files(0) == ()
