"""COCO's annotations: masks as pycocotools makes them, and what happens where they overlap."""

from __future__ import annotations

import json
from pathlib import Path

import layouts
import numpy as np
import pytest
from layouts import SIZE, assert_same, street, write
from pycocotools import mask as mask_api

from instaseg_ros.datasets import open_dataset
from instaseg_ros.datasets.coco import Coco
from instaseg_ros.datasets.rle import decode_polygons, decode_rle
from instaseg_ros.errors import InputError


@pytest.mark.parametrize("seed", range(20))
def test_runs_are_decoded_as_pycocotools_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 60, 2).tolist()
    noise = rng.random((height, width)) < rng.choice([0, 0.02, 0.5, 1])
    blocks = np.kron(rng.random((5, 5)) < 0.5, np.ones((40, 40)))[:height, :width] > 0
    for mask in (noise, blocks):
        rle = mask_api.encode(np.asfortranarray(mask, np.uint8))
        np.testing.assert_array_equal(decode_rle(rle["counts"], height, width), mask)
        np.testing.assert_array_equal(decode_rle(rle["counts"].decode(), height, width), mask)
        np.testing.assert_array_equal(decode_rle(layouts.runs(mask), height, width), mask)


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ("", "fill 4 x 5 pixels, got 0 pixels"),
        ("5", "fill 4 x 5 pixels, got 5 pixels"),
        ("d", "breaks off"),
        ("5~", "expected characters"),
        ("oooooooooooooooo1", "more than 30 bits"),
        ([3, 18], "got 21 pixels"),
        ([30, -10], "whole numbers from 0"),
        ([19.5, 0.5], "whole numbers from 0"),
        (["a"], "whole numbers from 0"),
    ],
)
def test_what_are_no_runs_is_refused(counts, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        decode_rle(counts, 4, 5)


def test_polygons_are_those_of_pycocotools() -> None:
    polygons = [[2.5, 3, 30, 4.2, 17, 28.8], [40, 2, 60, 2, 60, 20, 40, 20], [1, 1, 9, 9]]
    expected = mask_api.decode(mask_api.merge(mask_api.frPyObjects(polygons[:2], 32, 64)))
    np.testing.assert_array_equal(decode_polygons(polygons, 32, 64), expected > 0)
    assert not decode_polygons([[1, 1, 9, 9]], 32, 64).any()
    for wrong in (
        [[1, 2, 3, 4, 5, 6, 7]],
        [["a"] * 6],
        [1, 2, 3, 4, 5, 6],
        [[0, 0, 5, 5, 1e999, 1]],
    ):
        with pytest.raises(ValueError, match=r"polygons|could not convert"):
            decode_polygons(wrong, 32, 64)


def test_round_trip_with_categories_that_are_not_contiguous(tmp_path: Path) -> None:
    samples = street()
    path = layouts.write_coco(tmp_path, samples)
    for dataset in (open_dataset(tmp_path, "train"), open_dataset(path, "val")):
        assert isinstance(dataset, Coco)
        assert_same(dataset, samples)
        assert dataset.class_names == ("person", "rider", "car", "truck", "bus")


def one_image(root: Path, annotations: list[dict], **others: object) -> Path:
    """A dataset of one black image; `others` replaces parts of the file."""
    write(root / "images" / "a.png", np.zeros((*SIZE, 3), np.uint8))
    image = {"id": 7, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}
    ground = {"image_id": 7, "category_id": 3, "iscrowd": 0}
    document = {
        "images": [image],
        "annotations": [{"id": n, **ground, **a} for n, a in enumerate(annotations)],
        "categories": [{"id": 3, "name": "cat"}, {"id": 90, "name": "cup"}],
        **others,
    }
    path = root / "some.json"
    path.write_text(json.dumps(document))
    return path


def square(left: int, top: int, side: int) -> list[list[int]]:
    right, bottom = left + side, top + side
    return [[left, top, right, top, right, bottom, left, bottom]]


def test_smaller_objects_lie_on_larger_ones_and_crowds_below_all(tmp_path: Path) -> None:
    crowd = np.zeros(SIZE, np.uint8)
    crowd[:, :40] = 1
    path = one_image(
        tmp_path,
        [
            {"segmentation": square(20, 10, 10), "category_id": 90},
            {"segmentation": square(10, 5, 30)},
            {"segmentation": {"size": SIZE, "counts": layouts.runs(crowd)}, "iscrowd": 1},
            {"segmentation": square(22, 12, 10)},  # as large as the first, and after it
            {"segmentation": square(22, 12, 10)},  # hides the one before
        ],
    )
    sample = open_dataset(path, "train")[0]
    assert sample.labels[15, 12] == 2 and sample.labels[11, 21] == 1 and sample.labels[15, 25] == 4
    assert sample.ids.tolist() == [1, 2, 4] and sample.class_ids.tolist() == [1, 0, 0]
    assert sample.crowd is not None and sample.ignore is None
    np.testing.assert_array_equal(sample.crowd, crowd * (sample.labels == 0))


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        ({"segmentation": []}, r"annotation 0: expected a segmentation of polygons or runs, found"),
        ({}, "expected a segmentation of polygons or runs, found None"),
        ({"segmentation": [[1, 2, 3, 4, 5]]}, r"annotation 0: expected polygons \[x, y"),
        ({"segmentation": {"size": [64, 128], "counts": "1"}}, "annotation 0: expected runs that"),
        ({"segmentation": {"size": [9, 9], "counts": [81]}}, r"expected a mask of \(64, 128\)"),
        ({"segmentation": {"size": [64, 128]}}, "polygons or runs, found {'size': "),
        ({"category_id": 4}, "annotation 0 has category_id 4, which is not in the file"),
        ({"image_id": 8}, "annotation 0 has image_id 8, which is not in the file"),
    ],
)
def test_broken_annotations_are_named(tmp_path: Path, annotation: dict, said: str) -> None:
    path = one_image(tmp_path, [annotation])
    with pytest.raises(InputError, match=said) as caught:
        Coco(path)[0]
    assert str(caught.value).startswith(f"{path}: ")


def test_broken_files_are_named(tmp_path: Path) -> None:
    small = {"id": 1, "file_name": "a.png", "height": 9, "width": 9}
    path = one_image(tmp_path, [], images=[small])
    with pytest.raises(InputError, match=r"a\.png: expected \(9, 9\) pixels as .*some\.json says"):
        Coco(path)[0]
    with pytest.raises(InputError, match=r"expected its images, such as b\.png, in one of"):
        Coco(one_image(tmp_path, [], images=[{**small, "file_name": "b.png"}]))
    with pytest.raises(InputError, match=r"some\.json: expected images, found none"):
        Coco(one_image(tmp_path, [], images=[]))
    with pytest.raises(InputError, match=r"expected `images`, .*KeyError: 'id'"):
        Coco(one_image(tmp_path, [], categories=[{"name": "cat"}]))
    for content, said in (("[1]", "JSON object, found list"), ('{"images": [', "expected JSON")):
        path.write_text(content)
        with pytest.raises(InputError, match=said):
            Coco(path)


def test_the_file_of_a_split_is_found_or_asked_for(tmp_path: Path) -> None:
    samples = street(1)
    layouts.write_coco(tmp_path, samples, "train2017")
    layouts.write_coco(tmp_path, samples, "train2014")
    assert len(open_dataset(tmp_path, "train2014")) == 1
    with pytest.raises(InputError, match=r"one annotations/instances_train\*\.json, found .*2014"):
        open_dataset(tmp_path, "train")
    with pytest.raises(InputError, match=r"one annotations/instances_val\*\.json, found"):
        open_dataset(tmp_path, "val")
    layouts.write_coco(tmp_path / "other", samples, "default")
    assert_same(open_dataset(tmp_path / "other", "val"), samples)


def test_without_pycocotools_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from instaseg_ros.errors import MissingExtraError

    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(MissingExtraError, match=r"instaseg_ros\[coco\]"):
        decode_polygons(square(0, 0, 5), 9, 9)
