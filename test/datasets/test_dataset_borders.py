"""Datasets that lack something: splits, classes, or readable files."""

from __future__ import annotations

import json
from pathlib import Path

import dataset_layouts
import numpy as np
import pytest
from dataset_layouts import SIZE, street_samples, write_image

from instaseg_ros.datasets import (
    Sequences,
    kind_name,
    lacks_val,
    least_pixels,
    open_dataset,
    splits_of,
)
from instaseg_ros.datasets.kitti_mots import KittiMots
from instaseg_ros.errors import InputError

IMAGE = np.zeros((*SIZE, 3), np.uint8)


@pytest.mark.parametrize(
    ("class_ids", "left_out"), [([0, 99], 1), ([0, -1], 1), (["x", [1]], 2), (["0", 0.0], 0)]
)
def test_objects_of_no_class_are_ignored_and_counted(
    tmp_path: Path, class_ids: list, left_out: int, caplog: pytest.LogCaptureFixture
) -> None:
    labels = np.zeros(SIZE, np.uint16)
    labels[5:9], labels[20:22] = 1, 2
    write_image(tmp_path / "images" / "a.png", IMAGE)
    write_image(tmp_path / "labels" / "a.png", labels)
    frame = {"file": "a.png", "ids": [1, 2], "class_ids": class_ids}
    meta = {"class_names": ["car"], "frames": [frame]}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    sample = open_dataset(tmp_path, "all")[0]
    assert sample.class_ids.tolist() == [0] * (2 - left_out) and len(sample.ids) == 2 - left_out
    np.testing.assert_array_equal(sample.labels, labels * np.isin(labels, sample.ids))
    if left_out:
        np.testing.assert_array_equal(sample.ignore, (labels > 0) & (sample.labels == 0))
        assert f"{left_out} object{'s' * (left_out > 1)} of a class not in 0 to 0" in caplog.text
    for change in ({"class_names": "car"}, {"class_names": ["car", "car"]}, {"frames": [None]}):
        (tmp_path / "meta.json").write_text(json.dumps({**meta, **change}))
        with pytest.raises(InputError, match=r"meta\.json: expected `class_names` and per frame"):
            open_dataset(tmp_path, "all")


def test_an_error_that_nobody_foresaw_has_the_names_of_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a parser of ours or of others, in whatever reader, when opened and when read."""
    samples, plain = street_samples(2), tmp_path / "plain"
    roots = {
        dataset_layouts.write_label_images(tmp_path / "coded", samples): "label_images",
        dataset_layouts.write_cityscapes(tmp_path / "cityscapes", samples): "cityscapes",
        dataset_layouts.write_kitti_mots(
            tmp_path / "kitti", samples, "0000", "instances"
        ): "kitti_mots",
        dataset_layouts.write_cvppp(tmp_path / "leaves", samples): "cvppp",
        dataset_layouts.write_coco(tmp_path / "coco", samples).parents[1]: "coco",
    }

    def broken(*_: object) -> None:
        raise MemoryError("too much")

    for root, module in roots.items():
        dataset = open_dataset(root, "all")
        assert len([*dataset]) == 2
        with monkeypatch.context() as patch:
            patch.setattr(f"instaseg_ros.datasets.{module}.read_image", broken)
            with pytest.raises(InputError, match="cannot be read; MemoryError: too much") as caught:
                dataset[1]
        assert all(str(file) in str(caught.value) for file in dataset.files(1))
    (plain / "image_02" / "0000").mkdir(parents=True)
    (plain / "instances_txt").mkdir()
    write_image(plain / "image_02" / "0000" / "000000.png", IMAGE)
    (plain / "instances_txt" / "0000.txt").write_bytes(b"0 \xff")
    with pytest.raises(InputError, match=r"0000\.txt: expected the masks, found: 'utf-8'"):
        open_dataset(plain, "all")
    with monkeypatch.context() as patch:
        patch.setattr("instaseg_ros.datasets.kitti_mots.images_in", broken)
        with pytest.raises(InputError, match=f"dataset {plain}: cannot be read; MemoryError"):
            open_dataset(plain, "all")


@pytest.mark.parametrize(
    ("folders", "split", "said"),
    [
        ((), "tset", r"a split of train, val, all, got 'tset'$"),
        ((), "vla", r"got 'vla'; did you mean 'val'\?"),
        (("train", "val", "test"), "tset", r"test, train, val, got 'tset'; did you mean 'test'\?"),
        (("train", "val"), "all", r"a split of train, val, got 'all'"),
        (("val",), "train", r"a split of val, got 'train'$"),
        (("train",), "vla", r"a split of train, val, all, got 'vla'; did you mean"),
    ],
)
def test_a_split_that_is_not_there_is_refused(
    tmp_path: Path, folders: tuple[str, ...], split: str, said: str
) -> None:
    for folder in folders or ("",):
        dataset_layouts.write_label_images(tmp_path, street_samples(1), folder)
    with pytest.raises(InputError, match=said):
        open_dataset(tmp_path, split)
    with pytest.raises(InputError, match="a split of train, val, got 'tset'"):
        open_dataset("synthetic", "tset")


def test_what_training_holds_out_is_val_for_everybody(tmp_path: Path) -> None:
    dataset_layouts.write_label_images(tmp_path / "flat", street_samples(3))
    dataset_layouts.write_label_images(tmp_path / "train", street_samples(3), "train")
    dataset_layouts.write_kitti_mots(tmp_path / "kitti", street_samples(3), "0000", "instances")
    for root in (tmp_path / "flat", tmp_path / "train", tmp_path / "kitti"):
        names = {
            split: [opened.files(i)[0].stem[-1] for i in range(len(opened))]
            for split in ("train", "val", "all")
            for opened in [open_dataset(root, split)]
        }
        assert names == {"train": ["0", "1"], "val": ["2"], "all": ["0", "1", "2"]}
        assert [splits_of(root), lacks_val(splits_of(root))] in ([(), True], [("train",), True])
    part = open_dataset(tmp_path / "kitti", "val")
    assert isinstance(part, Sequences) and part.sequence(0) == "0000"
    assert kind_name(part) == "KittiMots" and least_pixels(part, 1024, 2048) == 1
    assert least_pixels(open_dataset(tmp_path / "flat", "val"), 512, 1024) == 25
    assert least_pixels(open_dataset("synthetic", "val"), 512, 1024) == 100


def test_masks_of_frames_that_are_not_there_are_counted(tmp_path: Path) -> None:
    write_image(tmp_path / "image_02" / "0000" / "000000.png", IMAGE)
    (tmp_path / "instances_txt").mkdir()
    (tmp_path / "instances_txt" / "0000.txt").write_text("3 1001 1 64 128 0PP8\n-1 1 1 4 4 0")
    (remark,) = KittiMots(tmp_path).remarks
    assert remark.startswith("2 masks of a frame without an image (first: ")
