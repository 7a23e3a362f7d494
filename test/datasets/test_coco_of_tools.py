"""COCO files as labelling tools write them: what can be taken is, what cannot is counted."""

from __future__ import annotations

from pathlib import Path

import dataset_layouts
import numpy as np
import pytest
from dataset_layouts import SIZE, square_polygon, write_coco_of_one, write_image

from instaseg_ros import cli
from instaseg_ros.datasets import open_dataset
from instaseg_ros.datasets.coco import Coco
from instaseg_ros.errors import InputError


def annotated(root: Path, annotations: list[dict], **others: object) -> Coco:
    """`write_coco_of_one`, read."""
    return Coco(write_coco_of_one(root, annotations, **others))


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        ({"segmentation": []}, "1 annotation without a mask (first: annotation 1)"),
        ({}, "1 annotation without a mask (first: annotation 1)"),
        ({"segmentation": [[1, 1, 9, 9], [5, 5]]}, "1 annotation without a mask"),
        ({"segmentation": {"size": [64, 128]}}, "1 annotation without a mask"),
        ({"segmentation": "a mask"}, "1 annotation without a mask"),
        (
            {"category_id": 4, "segmentation": square_polygon(9, 9, 9)},
            "of a category that is not there",
        ),
        ({"image_id": 8}, "1 annotation of an image that was not read (first: annotation 1: 8)"),
    ],
)
def test_what_has_no_mask_or_class_is_left_out_and_its_box_ignored(
    tmp_path: Path, annotation: dict, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = {"segmentation": square_polygon(40, 30, 10)}
    dataset = annotated(tmp_path, [whole, {"bbox": [8.5, 9, 20, 15.2], **annotation}])
    assert len(dataset.remarks) == 1 and said in dataset.remarks[0]
    sample = dataset[0]
    assert sample.ids.tolist() == [1]
    if annotation.get("image_id", 7) == 7:
        expected = np.zeros(SIZE, bool)
        expected[9:25, 8:29] = True
        np.testing.assert_array_equal(sample.ignore, expected)
    assert cli.main(["info", str(tmp_path / "some.json")]) == 0
    assert said in caplog.text


def test_painted_masks_of_cvat_are_objects(tmp_path: Path) -> None:
    """It writes them with iscrowd 1, as COCO does only what nobody counted."""
    mask = np.zeros(SIZE, np.uint8)
    mask[5:15, 20:30] = 1
    painted = {
        "segmentation": {"size": SIZE, "counts": dataset_layouts.column_runs(mask)},
        "iscrowd": 1,
    }
    drawn = {"segmentation": square_polygon(40, 30, 10)}
    only_painted = annotated(tmp_path / "a", [painted])
    both = annotated(tmp_path / "b", [{**a, "attributes": {}} for a in (painted, drawn)])
    for dataset, ids in ((only_painted, [1]), (both, [1, 2])):
        sample = dataset[0]
        assert sample.ids.tolist() == ids and not sample.crowd.any()
        np.testing.assert_array_equal(sample.labels == 1, mask)
        assert "1 annotation with iscrowd 1 taken for an object" in dataset.remarks[0]
    of_coco = annotated(tmp_path / "c", [painted, drawn])
    assert of_coco[0].crowd.sum() == 100 and not of_coco.remarks


def test_numbers_and_names_are_read_however_they_were_written(tmp_path: Path) -> None:
    runs = [100.0, 20.0, SIZE[0] * SIZE[1] - 120.0]
    image = {"id": "7", "file_name": "a.png", "height": 64.0, "width": "128"}
    names = [{"id": "3", "name": "c\nat"}, {"id": 12, "name": 5}, {"id": 90, "name": "c\nat"}]
    mask = {"segmentation": {"size": ["64", 128.0], "counts": runs}}
    flat = {"segmentation": square_polygon(40, 30, 10)[0], "category_id": 90}
    dataset = annotated(tmp_path, [mask, flat], images=[image], categories=names)
    assert dataset.class_names == ("c?at", "5")
    sample = dataset[0]
    assert (sample.labels == 1).sum() == 20 and (sample.labels == 2).sum() == 100
    assert sample.class_ids.tolist() == [0, 0] and not dataset.remarks
    no_size = {"id": 7, "coco_url": "http://images.cocodataset.org/val2017/a.png"}
    assert annotated(tmp_path, [mask], images=[no_size])[0].labels.shape == SIZE


@pytest.mark.parametrize(
    "name", ["images\\a.png", "C:\\labels\\a.png", "..\\images\\a.png", "/home/me/cam/a.png"]
)
def test_images_are_found_by_the_end_of_a_foreign_path(tmp_path: Path, name: str) -> None:
    image = {"id": 7, "file_name": name, "height": SIZE[0], "width": SIZE[1]}
    dataset = annotated(tmp_path, [{"segmentation": square_polygon(1, 1, 9)}], images=[image])
    assert dataset.files(0)[0] == tmp_path / "images" / "a.png" and len(dataset[0].ids) == 1


def test_one_file_is_not_taken_for_the_images_of_two_cameras(tmp_path: Path) -> None:
    images = [{"id": n, "file_name": f"/x/cam{n}/a.png"} for n in (7, 8)]
    with pytest.raises(InputError, match="expected its images"):
        annotated(tmp_path, [], images=images)
    for n in (7, 8):
        write_image(tmp_path / "images" / f"cam{n}" / "a.png", np.full((*SIZE, 3), n, np.uint8))
    dataset = annotated(tmp_path, [], images=images)
    assert [dataset[i].frame.image[0, 0, 0] for i in (0, 1)] == [7, 8]


def test_images_of_one_id_are_left_out_and_of_one_name_joined(tmp_path: Path) -> None:
    for name in ("b", "c"):
        write_image(tmp_path / "images" / f"{name}.png", np.zeros((*SIZE, 3), np.uint8))
    ids = {"a": 7, "b": 8, "c": 8}
    images = [{"id": i, "file_name": f"{name}.png"} for name, i in ids.items()]
    images += [{"id": 9, "file_name": "a.png"}, {"id": 10, "file_name": None}]
    objects = [
        {"image_id": i, "segmentation": square_polygon(20 * i - 130, 9, 9)} for i in (7, 8, 9)
    ]
    dataset = annotated(tmp_path, objects, images=images)
    assert len(dataset) == 1 and dataset[0].ids.tolist() == [1, 2]
    assert list(dataset.remarks) == [
        "2 images whose id another image has too (first: b.png: 8)",
        "1 image without the name of a file (first: id 10)",
        "1 annotation of an image that was not read (first: annotation 1: 8)",
    ]


@pytest.mark.parametrize(
    "others",
    [
        {"annotations": None},
        {"annotations": [[1], None, {"segmentation": 3}]},
        {"images": {"a": 1}},
        {"images": [5]},
        {"images": [{"id": 1, "coco_url": 5}]},
        {"categories": [[1, 2]]},
        {"categories": [{"id": 3, "name": {"a": 1}}]},
        {"images": [{"id": 7, "file_name": "a.png"}, {"id": 8, "file_name": "\ud800" * 9000}]},
        {"annotations": [{"image_id": 7, "category_id": 3, "segmentation": [[{}] * 6]}]},
        {"annotations": [{"image_id": 7, "category_id": 3, "segmentation": [{"counts": 1}]}]},
    ],
)
def test_whatever_a_file_holds_there_is_an_answer(tmp_path: Path, others: dict) -> None:
    path = write_coco_of_one(tmp_path, [], **others)
    try:
        dataset = open_dataset(path, "all")
        for index in range(len(dataset)):
            dataset[index]
    except InputError as error:
        assert str(path) in str(error) or "\ud800" in str(error)
