"""Small datasets in the layouts of others, made of frames of the synthetic street."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from instaseg_ros.datasets import Dataset, Sample
from instaseg_ros.synthetic_street import CLASS_NAMES, SyntheticStreet

SIZE = (64, 128)
CITYSCAPES_IDS = {"person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28}
KITTI_IDS = {"car": 1, "person": 2}


def street_samples(frames: int = 3) -> list[Sample]:
    """Frames of the synthetic street, of SIZE, one after the other."""
    data = SyntheticStreet(SIZE, sequences=1, frames_per_sequence=frames, seed=3, depth=False)
    return [data[i] for i in range(frames)]


def classes_and_masks(sample: Sample, class_names: tuple[str, ...]) -> set[tuple[str, bytes]]:
    """Class and mask of each object: what must survive being written and read."""
    return {
        (class_names[k], (sample.labels == i).tobytes())
        for i, k in zip(sample.ids.tolist(), sample.class_ids.tolist(), strict=True)
    }


def assert_holds(
    dataset: Dataset, samples: list[Sample], keep: Collection[str] = CLASS_NAMES
) -> None:
    """The dataset has these images, and those of their objects whose class is in `keep`."""
    assert len(dataset) == len(samples)
    for i, sample in enumerate(samples):
        read = dataset[i]
        np.testing.assert_array_equal(read.frame.image, sample.frame.image)
        assert read.labels.dtype == read.ids.dtype == np.uint16
        assert read.class_ids.dtype == np.int64
        assert read.ids.tolist() == sorted(set(read.labels.ravel().tolist()) - {0})
        expected = {o for o in classes_and_masks(sample, CLASS_NAMES) if o[0] in keep}
        assert classes_and_masks(read, dataset.class_names) == expected and expected
        for file in dataset.files(i):
            assert file.exists()


def write_image(path: Path, image: np.ndarray) -> Path:
    """An image file of the kind that the path's end names: (H, W, 3) RGB, or (H, W) labels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image)
    return path


def class_and_number(
    sample: Sample, class_of: dict[str, int], number_is_id: bool = False
) -> np.ndarray:
    """Label image of class * 1000 + number, from 0 unless the number is the object's id."""
    values = np.zeros(sample.labels.shape, np.uint16)
    for n, (i, k) in enumerate(zip(sample.ids, sample.class_ids, strict=True)):
        if CLASS_NAMES[k] in class_of:
            number = int(i) if number_is_id else n
            values[sample.labels == i] = class_of[CLASS_NAMES[k]] * 1000 + number
    return values


def write_label_images(root: Path, samples: list[Sample], split: str = "") -> Path:
    """Images and, of the same names, instances as class * 1000 + number; returns `root`."""
    for n, sample in enumerate(samples):
        write_image(root / "images" / split / f"{n}.png", sample.frame.image)
        write_image(
            root / "instances" / split / f"{n}.png", class_and_number(sample, CITYSCAPES_IDS)
        )
    return root


def write_cityscapes(root: Path, samples: list[Sample], split: str = "train") -> Path:
    """The folders of Cityscapes with one town; returns `root`."""
    for n, sample in enumerate(samples):
        name = f"{split}/ulm/ulm_{n:06d}_000019"
        truth = class_and_number(sample, CITYSCAPES_IDS)
        truth[truth == 0] = 7  # road
        write_image(root / "leftImg8bit" / f"{name}_leftImg8bit.png", sample.frame.image)
        write_image(root / "gtFine" / f"{name}_gtFine_instanceIds.png", truth)
    return root


def write_kitti_mots(root: Path, samples: list[Sample], sequence: str, form: str) -> Path:
    """A sequence of KITTI MOTS, its first pixels to be ignored; returns `root`.

    form: `instances` (PNG) or `instances_txt`.
    """
    from pycocotools import mask as mask_api  # not on every machine with a GPU

    lines = []
    for t, sample in enumerate(samples):
        write_image(root / "training" / "image_02" / sequence / f"{t:06d}.png", sample.frame.image)
        truth = class_and_number(sample, KITTI_IDS, number_is_id=True)
        truth[:2, :2] = 10_000
        if form == "instances":
            write_image(root / form / sequence / f"{t:06d}.png", truth)
        for value in np.unique(truth[truth > 0]).tolist():
            rle = mask_api.encode(np.asfortranarray(truth == value, np.uint8))["counts"].decode()
            lines.append(f"{t} {value} {value // 1000} {SIZE[0]} {SIZE[1]} {rle}")
    if form == "instances_txt":
        (root / form).mkdir(parents=True, exist_ok=True)
        (root / form / f"{sequence}.txt").write_text("\n".join(lines) + "\n")
    return root


def write_cvppp(root: Path, samples: list[Sample]) -> Path:
    """The folder A1 of the leaf segmentation challenge; returns `root`."""
    for n, sample in enumerate(samples, 1):
        write_image(root / "A1" / f"plant{n:03d}_rgb.png", sample.frame.image)
        write_image(root / "A1" / f"plant{n:03d}_label.png", sample.labels)
    return root


def write_coco(root: Path, samples: list[Sample], split: str = "train2017") -> Path:
    """Images and their file of annotations, whose path is returned.

    Category ids 10, 20, ...; the even objects as COCO's string, the odd ones as numbers.
    """
    from pycocotools import mask as mask_api  # not on every machine with a GPU

    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for n, sample in enumerate(samples):
        write_image(root / split / f"{n}.png", sample.frame.image)
        images.append({"id": 100 + n, "file_name": f"{n}.png", "height": SIZE[0], "width": SIZE[1]})
        for i, k in zip(sample.ids.tolist(), sample.class_ids.tolist(), strict=True):
            mask = np.asfortranarray(sample.labels == i, np.uint8)
            counts = mask_api.encode(mask)["counts"].decode() if i % 2 == 0 else column_runs(mask)
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": 100 + n,
                    "category_id": 10 * (k + 1),
                    "iscrowd": 0,
                    "segmentation": {"size": list(SIZE), "counts": counts},
                }
            )
    categories = [{"id": 10 * (k + 1), "name": name} for k, name in enumerate(CLASS_NAMES)]
    document = {"images": images, "annotations": annotations, "categories": categories[::-1]}
    path = root / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def column_runs(mask: np.ndarray) -> list[int]:
    """Lengths of the runs of a mask down its columns, zeros first."""
    values = np.concatenate([[0], mask.ravel("F"), [-1]])
    starts = np.flatnonzero(np.diff(values))
    first = [] if values[1] == 0 else [0]
    return first + np.diff(np.concatenate([[0], starts])).tolist()[len(first) :]


def write_coco_of_one(root: Path, annotations: list[dict], /, **others: object) -> Path:
    """COCO of one black image; `others` replaces parts of the file."""
    write_image(root / "images" / "a.png", np.zeros((*SIZE, 3), np.uint8))
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


def square_polygon(left: int, top: int, side: int) -> list[list[int]]:
    """A square as COCO's segmentation: one polygon of x, y, x, y, ..."""
    right, bottom = left + side, top + side
    return [[left, top, right, top, right, bottom, left, bottom]]
