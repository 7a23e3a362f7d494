"""Writes results as annotations that other tools read: COCO's JSON, and the text of KITTI MOTS.

Needs pycocotools (extra `coco`), which encodes the masks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from instaseg_ros.config import Config
from instaseg_ros.errors import ConfigError, InstasegError, require
from instaseg_ros.files import OutputFile
from instaseg_ros.frames import Frame, Instances, Result

ABOUT_IMAGES = "about.txt"
JPEG_QUALITY = 95
KITTI_CLASSES = {"car": 1, "person": 2}


class CocoSink:
    """`NAME.json`, COCO's instance annotations (Lin et al. 2014), and the images in the folder NAME
    beside it: a dataset that `instaseg train`, pycocotools, CVAT and FiftyOne open.

    An image also has its `stamp_ns`, `frame_id` and, if given, `topic`; an annotation its `score`
    and, as `track_id`, the label value. Masks are runs (compressed RLE), exact to the pixel.

    files: the names of the images written, in order.
    """

    def __init__(
        self,
        path: Path,
        class_names: Sequence[str],
        config: Config,
        overwrite: bool,
        topic: str = "",
    ) -> None:
        _require_pycocotools()
        self.files: list[str] = []
        self._topic = {"topic": topic} if topic else {}
        self._output = OutputFile(path, overwrite)
        self._folder = OutputFile(path.with_suffix(""), overwrite, marker=ABOUT_IMAGES)
        self._folder.part.mkdir()
        about = f"Images of {path.name}, written by instaseg_ros.\n"
        (self._folder.part / ABOUT_IMAGES).write_text(about, encoding="utf-8")
        self._names: set[str] = set()  # in lower case, as some file systems ignore case
        self._document: dict[str, list[dict[str, Any]]] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": k, "name": name} for k, name in enumerate(class_names, 1)],
        }

    def write(self, frame: Frame, result: Result) -> None:
        images, annotations = self._document["images"], self._document["annotations"]
        name = unused_name(frame, self._names, ".jpg")
        height, width = frame.image.shape[:2]
        quality = (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY)
        if not cv2.imwrite(str(self._folder.part / name), frame.image[..., ::-1], quality):
            raise InstasegError(f"output {self._folder.path} cannot be written: is the disk full?")
        image_id = len(images) + 1
        images.append(
            {
                "id": image_id,
                "file_name": name,
                "height": height,
                "width": width,
                "stamp_ns": frame.stamp_ns,
                "frame_id": frame.frame_id,
                **self._topic,
            }
        )
        self.files.append(name)
        instances = result.instances
        for k, (mask, box) in enumerate(_masks(instances)):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(instances.class_ids[k]) + 1,
                    "segmentation": {"size": [height, width], "counts": _runs(mask)},
                    "area": int(np.count_nonzero(mask)),
                    "bbox": box,
                    "iscrowd": 0,
                    "score": round(float(instances.scores[k]), 6),
                    "track_id": int(instances.ids[k]),
                }
            )

    def close(self) -> None:
        text = json.dumps(self._document)
        self._output.part.write_text(text, encoding="utf-8")
        self._folder.commit()
        self._output.commit()

    def discard(self) -> None:
        self._output.discard()
        self._folder.discard()


class KittiMotsSink:
    """`NAME.txt` as KITTI MOTS (Voigtlaender et al. 2019) wants the results of a sequence: a line
    `frame id class height width rle` for each car (1) and person (2); frames count from 0.

    Raises ConfigError without tracking, or for weights that know neither class.
    """

    def __init__(
        self, path: Path, class_names: Sequence[str], config: Config, overwrite: bool
    ) -> None:
        _require_pycocotools()
        if not config.tracking.enabled:
            raise ConfigError(
                f"output {path}: KITTI MOTS wants ids that last; --set tracking.enabled=true"
            )
        self._classes = [KITTI_CLASSES.get(name) for name in class_names]
        if not any(self._classes):
            raise ConfigError(
                f"output {path}: KITTI MOTS knows {', '.join(KITTI_CLASSES)}, the weights "
                f"{', '.join(class_names)}; write .json instead"
            )
        self._output = OutputFile(path, overwrite)
        self._lines = self._output.part.open("w", encoding="utf-8")
        self._frames = 0

    def write(self, frame: Frame, result: Result) -> None:
        instances = result.instances
        height, width = instances.labels.shape
        for k, (mask, _) in enumerate(_masks(instances)):
            if number := self._classes[instances.class_ids[k]]:
                words = self._frames, instances.ids[k], number, height, width, _runs(mask)
                print(*words, file=self._lines)
        self._frames += 1

    def close(self) -> None:
        self._lines.close()
        self._output.commit()

    def discard(self) -> None:
        self._lines.close()
        self._output.discard()


def unused_name(frame: Frame, taken: set[str], suffix: str) -> str:
    """A file name for the frame: its own, or its number; with another number if that is taken, as
    for a.jpg after a.png. It is then in `taken`, in lower case."""
    stem = Path(frame.name).name or f"{len(taken):06d}"
    name, number = f"{stem}{suffix}", 1
    while name.lower() in taken:
        number += 1
        name = f"{stem}_{number}{suffix}"
    taken.add(name.lower())
    return name


def _masks(instances: Instances) -> Iterator[tuple[NDArray[np.bool_], list[int]]]:
    """(H, W) bool of each instance, and its box [x, y, width, height]."""
    for number in instances.ids:
        mask = instances.labels == number
        x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
        yield mask, [x, y, width, height]


def _runs(mask: NDArray[np.bool_]) -> str:
    """COCO's compressed runs."""
    from pycocotools import mask as mask_api

    encoded = mask_api.encode(np.asfortranarray(mask.view(np.uint8)))
    text: str = encoded["counts"].decode("ascii")
    return text


def _require_pycocotools() -> None:
    require("pycocotools.mask", "coco", "writing masks as runs")
