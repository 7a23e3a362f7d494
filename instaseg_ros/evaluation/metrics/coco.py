"""Computes COCO's mask AP from label images, with pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.errors import MissingExtraError
from instaseg_ros.frames import Instances

NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


def require_pycocotools() -> None:
    """Raises MissingExtraError without the package."""
    try:
        import pycocotools.mask  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError("pycocotools", "coco", "COCO's mask AP") from error


class CocoFrames:
    """Collects the masks of many frames, run-length encoded, for `average_precision`."""

    def __init__(self, class_names: Sequence[str]) -> None:
        require_pycocotools()
        self._class_names = tuple(class_names)
        self._images: list[dict[str, Any]] = []
        self._truth: list[dict[str, Any]] = []
        self._predicted: list[dict[str, Any]] = []

    def add(
        self,
        labels: NDArray[np.uint16],
        ids: NDArray[np.uint16],
        class_ids: NDArray[np.int64],
        predicted: Instances,
        ignore: NDArray[np.bool_] | None = None,
        crowd: NDArray[np.uint8] | None = None,
    ) -> None:
        """Add a frame, with the arguments of `frame_counts`; objects of class -1 are left out.
        Ignored pixels become a crowd of every class and are removed from objects."""
        if ignore is not None:
            labels = np.where(ignore, np.uint16(0), labels)
            ids, class_ids = ids[there := np.isin(ids, labels)], class_ids[there]
        image = len(self._images)
        height, width = labels.shape
        self._images.append({"id": image, "height": height, "width": width})
        for label, class_id in zip(ids, class_ids, strict=True):
            if class_id >= 0:
                self._add_truth(labels == label, image, int(class_id), crowd=0)
        for class_id in range(len(self._class_names)):
            mask = np.zeros(labels.shape, bool) if ignore is None else ignore.astype(bool)
            if crowd is not None:
                mask = mask | (crowd == class_id + 1)
            if mask.any():
                self._add_truth(mask, image, class_id, crowd=1)
        rows = zip(predicted.ids, predicted.class_ids, predicted.scores, strict=True)
        for label, class_id, score in rows:
            if class_id >= 0:
                entry = _mask_entry(predicted.labels == label, image, int(class_id))
                self._predicted.append({**entry, "score": float(score)})

    def extend(self, other: CocoFrames) -> None:
        """Add the frames of another one of the same classes."""
        first = len(self._images)
        self._images += [{**one, "id": first + one["id"]} for one in other._images]
        for mine, others in (
            (self._truth, other._truth),
            (self._predicted, other._predicted),
        ):
            mine += [{**one, "image_id": first + one["image_id"]} for one in others]

    def average_precision(self) -> dict[str, float]:
        """The NAMES: means over the classes, at IoU 0.5:0.05:0.95 except ap50 and ap75, and by
        COCO's object sizes (below 32^2, to 96^2, above). NaN without objects."""
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        truth, predicted = COCO(), COCO()
        for side, entries in ((truth, self._truth), (predicted, self._predicted)):
            side.dataset = {
                "images": self._images,
                "categories": [{"id": c, "name": n} for c, n in enumerate(self._class_names)],
                "annotations": [{**a, "id": k} for k, a in enumerate(entries, 1)],
            }
        with contextlib.redirect_stdout(io.StringIO()):  # it prints every step
            truth.createIndex()
            predicted.createIndex()
            evaluation = COCOeval(truth, predicted, "segm")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        values = [float(value) for value in evaluation.stats[: len(NAMES)]]
        return {n: v if v >= 0 else float("nan") for n, v in zip(NAMES, values, strict=True)}

    def _add_truth(self, mask: NDArray[np.bool_], image: int, class_id: int, crowd: int) -> None:
        self._truth.append(
            {**_mask_entry(mask, image, class_id), "iscrowd": crowd, "ignore": crowd}
        )


def _mask_entry(mask: NDArray[np.bool_], image: int, class_id: int) -> dict[str, Any]:
    from pycocotools import mask as masks

    encoded = masks.encode(np.asfortranarray(mask, np.uint8))
    return {
        "image_id": image,
        "category_id": class_id,
        "segmentation": encoded,
        "area": float(masks.area(encoded)),
        "bbox": masks.toBbox(encoded).tolist(),
    }
