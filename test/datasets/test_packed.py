"""Datasets packed into shards: the same samples, and nothing believed that a shard says."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import dataset_layouts
import numpy as np
import pytest
from disc_images import write_discs

from instaseg_ros import cli
from instaseg_ros.datasets import Sequences, open_dataset, semantic_names, splits_of
from instaseg_ros.datasets.packing import Packing, pack
from instaseg_ros.errors import ConfigError, InputError
from instaseg_ros.samples import least_pixels
from instaseg_ros.synthetic_street import SyntheticStreet


def assert_equal(one: Any, other: Any) -> None:
    """Samples, in all but what a frame is called."""
    for field in dataclasses.fields(one):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if field.name == "frame":
            np.testing.assert_array_equal(left.image, right.image)
            assert left.stamp_ns == right.stamp_ns
            left, right = left.intrinsics, right.intrinsics
        assert (left is None) == (right is None), field.name
        if left is not None:
            np.testing.assert_array_equal(left, right, err_msg=field.name)
            assert left.dtype == right.dtype, field.name


def test_a_packed_dataset_has_the_same_samples_in_several_shards(tmp_path: Path) -> None:
    root = write_discs(tmp_path / "data", 20)
    packed = tmp_path / "packed"
    assert cli.main(["pack", str(root), str(packed), "--shard-mb", "1", "--frames", "12"]) == 0
    assert splits_of(packed) == ("train", "val")
    with pytest.raises(ConfigError, match="expected an empty folder"):
        pack([("", open_dataset(root, "all"), range(20))], packed, Packing())
    shards = pack(
        [("train", open_dataset(root, "train"), range(18))],
        tmp_path / "small",
        Packing(shard_bytes=60_000),
    )
    assert len(shards) > 2 and all(shard.stat().st_size <= 60_000 for shard in shards)
    for folder, split in ((packed, "val"), (tmp_path / "small", "all")):
        own, known = open_dataset(folder, split), open_dataset(root, split)
        if split == "all":
            known = open_dataset(root, "train")
        assert own.class_names == known.class_names and len(own) == len(known)
        assert least_pixels(own, 64, 64) == least_pixels(known, 64, 64)
        for index in range(len(own)):
            assert_equal(own[index], known[index])


def test_dense_classes_crowds_cameras_and_sequences_are_kept(tmp_path: Path) -> None:
    street = SyntheticStreet((64, 96), sequences=2, frames_per_sequence=2, seed=3)
    dataset_layouts.write_cityscapes(tmp_path / "city", [street[i] for i in range(4)])
    for name, known in (("city", open_dataset(tmp_path / "city", "all")), ("street", street)):
        pack([("val", known, range(4))], tmp_path / f"{name}_packed", Packing())
        own = open_dataset(tmp_path / f"{name}_packed", "val")
        assert semantic_names(own) == semantic_names(known)
        assert isinstance(own, Sequences) == isinstance(known, Sequences)
        for index in range(4):
            assert_equal(own[index], known[index])
            if isinstance(own, Sequences) and isinstance(known, Sequences):
                assert own.sequence(index) == known.sequence(index)


def test_images_can_be_made_smaller(tmp_path: Path) -> None:
    root = write_discs(tmp_path / "data", 2)
    known = open_dataset(root, "all")
    (shard,) = pack([("", known, range(2))], tmp_path / "packed", Packing(quality=60))
    own = open_dataset(tmp_path / "packed", "all")[0]
    difference = np.abs(own.frame.image.astype(int) - known[0].frame.image)
    assert 0 < difference.mean() < 8
    np.testing.assert_array_equal(own.labels, known[0].labels)
    assert any(name.endswith(".webp") for name in zipfile.ZipFile(shard).namelist())


def changed(path: Path, change: Callable[[dict[str, Any], dict[str, bytes]], None]) -> None:
    """Write a shard anew with another index or other files."""
    with zipfile.ZipFile(path) as shard:
        files = {name: shard.read(name) for name in shard.namelist()}
    index = json.loads(files.pop("index.json"))
    change(index, files)
    with zipfile.ZipFile(path, "w") as shard:
        shard.writestr("index.json", json.dumps(index))
        for name, content in files.items():
            shard.writestr(name, content)


def bomb(_: dict[str, Any], files: dict[str, bytes]) -> None:
    name = next(name for name in files if name.endswith("labels.png"))
    files[name] = bytes(cv2.imencode(".png", np.zeros((9, 9), np.uint16))[1])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda i, f: i.update(format="2"), "expected a shard written by `instaseg pack`"),
        (lambda i, f: i.update(shard=1), "expected shard-000.zip"),
        (lambda i, f: i.update(last=False), r"expected also shard-001\.zip"),
        (lambda i, f: i["samples"][0].update(ids=[1]), "expected the ids of its labels"),
        (lambda i, f: i["samples"][0].update(ids="x"), "expected whole numbers of 1 to 65535"),
        (lambda i, f: i["samples"][0].update(class_ids=[9] * 5), "whole numbers of 0 to 0"),
        (lambda i, f: i["samples"][0].update(fields=["crowd"]), "with the fields"),
        (lambda i, f: i["samples"][0].update(image="/etc/passwd"), "expected an image's suffix"),
        (lambda i, f: i["samples"][0].update(pose=[[1]]), "expected 4 rows of 4 numbers"),
        (lambda i, f: i["samples"][0].update(class_ids=[0]), "expected a class for each of"),
        (lambda i, f: i.update(class_names=[]), "expected at least one class"),
        (lambda i, f: i.update(class_names=["disc", "disc"]), "two are equal"),
        (lambda i, f: i.update(least_px=True), "least_px: expected a number of pixels or null"),
        (lambda i, f: i.update(shard="0"), "'shard' is no number"),
        (lambda i, f: i["samples"][0].update(name=7), "a sample with invalid names"),
        (lambda i, f: f.clear(), "found no such file"),
        (bomb, r"expected one channel of \(72, 80\) pixels"),
    ],
)
def test_what_a_shard_says_is_not_believed(
    tmp_path: Path, change: Callable[[Any, Any], None], said: str
) -> None:
    root = write_discs(tmp_path / "data", 1)
    (shard,) = pack([("", open_dataset(root, "all"), [0])], tmp_path / "packed", Packing())
    changed(shard, change)
    with pytest.raises(InputError, match=said):
        open_dataset(tmp_path / "packed", "all")[0]


def test_shards_of_two_datasets_are_not_mixed(tmp_path: Path) -> None:
    dataset = open_dataset(write_discs(tmp_path / "data", 8), "all")
    _, second, *_ = pack(
        [("", dataset, range(8))], tmp_path / "packed", Packing(shard_bytes=60_000)
    )
    changed(second, lambda index, _: index.update(class_names=["coin"]))
    with pytest.raises(
        InputError, match=f"{second.name}: belongs to another dataset than the shards"
    ):
        open_dataset(tmp_path / "packed", "all")


def test_compressed_files_are_refused_before_they_take_memory(tmp_path: Path) -> None:
    root = write_discs(tmp_path / "data", 1)
    (shard,) = pack([("", open_dataset(root, "all"), [0])], tmp_path / "packed", Packing())
    content = io.BytesIO()
    with zipfile.ZipFile(shard) as old, zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    shard.write_bytes(content.getvalue())
    with pytest.raises(InputError, match=r"index\.json uncompressed"):
        open_dataset(tmp_path / "packed", "all")
