"""Images beside 16-bit label images.

`images/[SPLIT/]NAME.jpg` with one of

- `instances/[SPLIT/]NAME.png`, Cityscapes' way of writing: a pixel is class * 1000 + instance, or
  the bare class number on objects that nobody counted;
- `labels/[SPLIT/]NAME.png`: a pixel is the instance number, and all objects are of one class,
  unless `meta.json` of the synthetic street's export says which is what.

`ignore/[SPLIT/]NAME.png`, where there is one, is not 0 on ignored ground. Beside `instances`,
`semantic/[SPLIT/]NAME.png` may hold Cityscapes' label id of every pixel.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from instaseg_ros.errors import InputError
from instaseg_ros.types import Frame

from .cityscapes import CITYSCAPES, SEMANTIC, dense_classes, from_cityscapes_ids
from .reading import (
    images_in,
    read_image,
    read_json,
    read_labels,
    subfolders,
    unknown_split,
)
from .sample import Sample, present_ids


class LabelImages:
    """The layouts above. split: a folder below `images` and the labels; a dataset without such
    folders gives all it has for any.

    class_name: of objects whose class is written nowhere.
    """

    def __init__(self, root: str | Path, split: str = "", class_name: str = "object") -> None:
        root = Path(root)
        self._coded = (root / "instances").is_dir()
        known = subfolders(root / "images")
        if known and split not in known:
            raise unknown_split(root, split, known)
        split = split if known else ""
        self._images = images_in(root / "images" / split)
        self._labels = root / ("instances" if self._coded else "labels") / split
        self._ignore = root / "ignore" / split
        self._semantic = root / "semantic" / split
        dense = self._coded and self._semantic.is_dir()
        self.semantic_names = tuple(SEMANTIC.values()) if dense else ()
        self.class_names = tuple(CITYSCAPES.values()) if self._coded else (class_name,)
        self._classes: dict[str, dict[int, int]] | None = None  # by file name and instance
        if not self._coded and (root / "meta.json").is_file():
            self._read_meta(root / "meta.json")

    def _read_meta(self, path: Path) -> None:
        meta = read_json(path)
        try:
            self.class_names = tuple(meta["class_names"])
            self._classes = {
                Path(frame["file"]).stem: dict(zip(frame["ids"], frame["class_ids"], strict=True))
                for frame in meta["frames"]
            }
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}: expected `class_names` and per frame `file`, `ids` and `class_ids`, as "
                f"the synthetic street's export writes them; {type(error).__name__}: {error}"
            ) from error

    def __len__(self) -> int:
        return len(self._images)

    def files(self, index: int) -> tuple[Path, ...]:
        image = self._images[index]
        folders = [self._ignore] if self._ignore.is_dir() else []
        folders += [self._semantic] if self.semantic_names else []
        return image, *(folder / f"{image.stem}.png" for folder in (*folders, self._labels))

    def __getitem__(self, index: int) -> Sample:
        image_file, *more, label_file = self.files(index)
        image = read_image(image_file)
        labels = read_labels(label_file, image.shape[:2])
        if self._coded:
            sample = from_cityscapes_ids(image, labels)
        else:
            ids = present_ids(labels)
            sample = Sample(Frame(image), labels, ids, self._class_ids(label_file, ids))
        for file in more:
            values = read_labels(file, image.shape[:2])
            if file.is_relative_to(self._semantic):
                sample = dataclasses.replace(sample, semantic=dense_classes(values))
            else:
                ignore = values > 0 if sample.ignore is None else (values > 0) | sample.ignore
                sample = dataclasses.replace(sample, ignore=ignore)
        return sample

    def _class_ids(self, label_file: Path, ids: np.ndarray) -> np.ndarray:
        if self._classes is None:
            return np.zeros(len(ids), np.int64)
        known = self._classes.get(label_file.stem, {})
        unknown = set(ids.tolist()) - known.keys()
        if unknown:
            raise InputError(
                f"{label_file}: expected instances that meta.json lists, found {sorted(unknown)}"
            )
        return np.array([known[i] for i in ids.tolist()], np.int64)
