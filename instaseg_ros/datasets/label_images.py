"""Images beside 16-bit label images, in two layouts.

`images/[SPLIT/]NAME.jpg` with `instances/[SPLIT/]NAME.png`, Cityscapes' way of writing: a pixel is
class * 1000 + instance, or the bare class number on objects that nobody counted; or with
`labels/[SPLIT/]NAME.png`: a pixel is the instance number, and all objects are of one class.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from instaseg_ros.errors import InputError
from instaseg_ros.sources import IMAGE_SUFFIXES
from instaseg_ros.types import Frame

from .sample import Sample

CITYSCAPES = {
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
_NOT_EVALUATED = (29, 30)  # caravan, trailer
_INDEX = np.full(1 << 16, -1, np.int64)
_INDEX[list(CITYSCAPES)] = range(len(CITYSCAPES))


def read_image(path: Path, flags: int = cv2.IMREAD_COLOR_RGB) -> NDArray[Any]:
    """The image at `path`; RGB unless `flags` say otherwise. Raises InputError."""
    image = cv2.imread(str(path), flags) if path.is_file() else None
    if image is None:
        found = "a file that is no image" if path.is_file() else "no such file"
        raise InputError(f"{path}: expected an image, found {found}")
    return image


def from_cityscapes_ids(
    image: NDArray[np.uint8], encoded: NDArray[np.uint16], stamp_ns: int = 0
) -> Sample:
    """A sample from an image of class * 1000 + instance, renumbered 1..N."""
    values = np.flatnonzero(np.bincount(encoded.ravel(), minlength=1 << 16))
    index = _INDEX[np.where(values >= 1000, values // 1000, values)]
    objects = (values >= 1000) & (index >= 0)
    number, crowd, ignore = np.zeros((3, 1 << 16), np.uint16)
    number[values[objects]] = np.arange(1, objects.sum() + 1)
    crowd[values[values < 1000]] = index[values < 1000] + 1
    for class_id in _NOT_EVALUATED:
        ignore[[class_id, *range(class_id * 1000, (class_id + 1) * 1000)]] = 1
    return Sample(
        Frame(image, stamp_ns),
        number[encoded],
        np.arange(1, objects.sum() + 1, dtype=np.uint16),
        index[objects],
        ignore=ignore[encoded].astype(bool),
        crowd=crowd[encoded].astype(np.uint8),
    )


class LabelImages:
    """The layouts above. split: a folder below `images` and the labels; "": there is none.

    class_name: of the objects of the second layout.
    """

    def __init__(self, root: str | Path, split: str = "", class_name: str = "object") -> None:
        root = Path(root)
        self._coded = (root / "instances").is_dir()
        folder = root / "images" / split
        self._labels = root / ("instances" if self._coded else "labels") / split
        for needed in (folder, self._labels):
            if not needed.is_dir():
                raise InputError(f"{needed}: no such folder; expected images beside label images")
        self._images = sorted(
            file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES
        )
        if not self._images:
            raise InputError(f"{folder}: no image in it")
        self.class_names = tuple(CITYSCAPES.values()) if self._coded else (class_name,)

    def __len__(self) -> int:
        return len(self._images)

    def files(self, index: int) -> tuple[Path, Path]:
        """Image and label image of a sample."""
        image = self._images[index]
        return image, self._labels / f"{image.stem}.png"

    def __getitem__(self, index: int) -> Sample:
        image_file, label_file = self.files(index)
        image = read_image(image_file)
        encoded = read_image(label_file, cv2.IMREAD_UNCHANGED)
        if encoded.ndim != 2 or encoded.shape != image.shape[:2]:
            raise InputError(
                f"{label_file}: expected one channel of {image.shape[:2]} pixels as its image has, "
                f"got {encoded.shape}"
            )
        encoded = encoded.astype(np.uint16)
        if self._coded:
            return from_cityscapes_ids(image, encoded)
        ids = np.flatnonzero(np.bincount(encoded.ravel())[1:]) + 1
        return Sample(
            Frame(image),
            encoded,
            ids.astype(np.uint16),
            np.zeros(len(ids), np.int64),
        )
