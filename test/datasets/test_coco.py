"""COCO's annotations: masks as pycocotools makes them, and what happens where they overlap."""

from __future__ import annotations

from pathlib import Path

import dataset_layouts
import numpy as np
import pytest
from dataset_layouts import SIZE, assert_holds, square_polygon, street_samples, write_coco_of_one
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
        np.testing.assert_array_equal(
            decode_rle(dataset_layouts.column_runs(mask), height, width), mask
        )


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ("", "fill 4 x 5 pixels, got 0 pixels"),
        ("5", "fill 4 x 5 pixels, got 5 pixels"),
        ("d", "breaks off"),
        ("5~", "expected characters"),
        ("oooooooooooooooo1", "more than 30 bits"),
        ("oooo0", "within 20 pixels, got one of 1048575"),
        ([3, 18], "got 21 pixels"),
        ([2**62, 2**62, 2**62, 2**62 + 20], "got one of 46116860184273879"),  # 20 in 64 bits
        ([2**63 + 20], "got one of 9223372036854775828"),
        ([10**30], "whole numbers from 0"),
        ([float("nan"), 20.0], "whole numbers from 0"),
        ([[3], [18, 1]], "inhomogeneous|whole numbers from 0"),
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


@pytest.mark.parametrize("far", [200, 4e7, 1e30])
def test_points_far_from_the_image_change_nothing_in_it(far: float) -> None:
    """pycocotools, given such points, writes where it must not."""
    for polygon, expected in (
        ([-far, -far, far, -far, far, far, -far, far], np.ones((16, 24), bool)),
        ([0, 0, far, 0, far, far], decode_polygons([[0, 0, 40, 0, 40, 40]], 16, 24)),
        ([-far, -far, -far, far, 9, far, 9, -far], np.arange(24) < np.full((16, 1), 9)),
        ([far, far, 2 * far, far, far, 2 * far], np.zeros((16, 24), bool)),
    ):
        np.testing.assert_array_equal(decode_polygons([polygon], 16, 24), expected)
    with pytest.raises(ValueError, match="finite"):
        decode_polygons([[0, 0, 1e200, 0, 1e200, 1e200]], 16, 24)
    with pytest.raises(ValueError, match="pixels of outline"):
        decode_polygons([[0, 0, 9000, 9000] * 300], 9000, 9000)


def test_round_trip_with_categories_that_are_not_contiguous(tmp_path: Path) -> None:
    samples = street_samples()
    path = dataset_layouts.write_coco(tmp_path, samples)
    for dataset in (open_dataset(tmp_path, "all"), open_dataset(path, "all")):
        assert isinstance(dataset, Coco)
        assert_holds(dataset, samples)
        assert dataset.class_names == ("person", "rider", "car", "truck", "bus")


def test_smaller_objects_lie_on_larger_ones_and_crowds_below_all(tmp_path: Path) -> None:
    crowd = np.zeros(SIZE, np.uint8)
    crowd[:, :40] = 1
    path = write_coco_of_one(
        tmp_path,
        [
            {"segmentation": square_polygon(20, 10, 10), "category_id": 90},
            {"segmentation": square_polygon(10, 5, 30)},
            {
                "segmentation": {"size": SIZE, "counts": dataset_layouts.column_runs(crowd)},
                "iscrowd": 1,
            },
            {"segmentation": square_polygon(22, 12, 10)},  # as large as the first, and after it
            {"segmentation": square_polygon(22, 12, 10)},  # hides the one before
        ],
    )
    sample = open_dataset(path, "train")[0]
    assert sample.labels[15, 12] == 2 and sample.labels[11, 21] == 1 and sample.labels[15, 25] == 4
    assert sample.ids.tolist() == [1, 2, 4] and sample.class_ids.tolist() == [1, 0, 0]
    assert sample.crowd is not None and sample.ignore is None
    np.testing.assert_array_equal(sample.crowd, crowd * (sample.labels == 0))


def test_a_thousand_objects_need_no_thousand_masks(tmp_path: Path) -> None:
    runs = [{"size": SIZE, "counts": [k, 1, SIZE[0] * SIZE[1] - k - 1]} for k in range(1000)]
    sample = Coco(write_coco_of_one(tmp_path, [{"segmentation": one} for one in runs]))[0]
    assert len(sample.ids) == 1000 and sample.labels[9, 0] == 10 and sample.labels[0, 1] == 65


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, r"annotation 0: expected polygons \[x, y"),
        ({"segmentation": [[10**400, 2, 3, 4, 5, 6]]}, "annotation 0: int too large"),
        ({"segmentation": {"size": [64, 128], "counts": "1"}}, "annotation 0: expected runs that"),
        ({"segmentation": {"size": [9, 9], "counts": [81]}}, r"expected a mask of \(64, 128\)"),
    ],
)
def test_broken_annotations_are_named(tmp_path: Path, annotation: dict, said: str) -> None:
    path = write_coco_of_one(tmp_path, [annotation])
    with pytest.raises(InputError, match=said) as caught:
        Coco(path)[0]
    assert str(caught.value).startswith(f"{path}: ")


def test_broken_files_are_named(tmp_path: Path) -> None:
    small = {"id": 1, "file_name": "a.png", "height": 9, "width": 9}
    path = write_coco_of_one(tmp_path, [], images=[small])
    with pytest.raises(InputError, match=r"a\.png: expected \(9, 9\) pixels as .*some\.json says"):
        Coco(path)[0]
    with pytest.raises(InputError, match=r"expected its images, such as b\.png, in one of"):
        Coco(write_coco_of_one(tmp_path, [], images=[{**small, "file_name": "b.png"}]))
    with pytest.raises(InputError, match=r"some\.json: expected images, found none"):
        Coco(write_coco_of_one(tmp_path, [], images=[]))
    with pytest.raises(InputError, match=r"expected `images`, .*KeyError: 'id'"):
        Coco(write_coco_of_one(tmp_path, [], categories=[{"name": "cat"}]))
    deep = "[" * 100_000
    for content, said in (
        ("[1]", "JSON object, found list"),
        ('{"images": [', "expected JSON"),
        (deep, "expected JSON, found: maximum recursion"),
        (f'{{"images": [], "categories": [{{"id": {"9" * 5000}}}]}}', "expected JSON"),
    ):
        path.write_text(content)
        with pytest.raises(InputError, match=said):
            Coco(path)


def test_the_file_of_a_split_is_found_or_asked_for(tmp_path: Path) -> None:
    samples = street_samples(1)
    dataset_layouts.write_coco(tmp_path, samples, "train2017")
    dataset_layouts.write_coco(tmp_path, samples, "train2014")
    assert len(open_dataset(tmp_path, "train2014")) == 1
    for split in ("train", "val"):  # which would be held out of it
        with pytest.raises(InputError, match=r"one annotations/instances_train\*\.json.*2014"):
            open_dataset(tmp_path, split)
    dataset_layouts.write_coco(tmp_path / "other", samples, "default")
    assert_holds(open_dataset(tmp_path / "other", "val"), samples)
    for name in ("Train", "Validation"):  # as CVAT writes them
        dataset_layouts.write_coco(tmp_path / "cvat", street_samples(1 + (name == "Train")), name)
    assert [len(open_dataset(tmp_path / "cvat", split)) for split in ("train", "val")] == [2, 1]


def test_without_pycocotools_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from instaseg_ros.errors import MissingExtraError

    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(MissingExtraError, match=r"'\.\[coco\]'"):
        decode_polygons(square_polygon(0, 0, 5), 9, 9)
