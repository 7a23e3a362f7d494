"""Keeps the labelled frames on disk: each change whole or not at all, whatever ends the process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from instaseg_ros.datasets import kind_of
from instaseg_ros.errors import ConfigError
from instaseg_ros.frames import Frame
from instaseg_ros.labelling.coco_store import CocoStore
from instaseg_ros.labelling.editing import Drawing
from instaseg_ros.labelling.frames import Origin
from instaseg_ros.labelling.label_image_store import LabelImageStore


class Store(Protocol):
    """A dataset on disk. class_names: its classes. no_ignore: why ignored pixels cannot be written;
    empty if they can.

    Frames have the number and the origin that `Frames` gives them. `save` and `save_classes` raise
    OSError if the disk refuses; nothing is lost then, and they may be called again. They belong in
    one thread, the rest in any. Only one process has a dataset open.
    """

    class_names: list[str]
    no_ignore: str

    def load(self, number: int, frame: Frame, origin: Origin) -> Drawing | None:
        """The frame as it was saved; None if it was not. Raises InputError if it is damaged."""
        ...

    def save(self, number: int, frame: Frame, origin: Origin, drawing: Drawing) -> None: ...

    def labelled(self, keys: str) -> set[int]:
        """The numbers of the frames that are saved, of those whose keys begin like this, as far as
        they are known."""
        ...

    def add_class(self, name: str) -> None:
        """Add a class after all others; only `save_classes`, or `save`, writes it."""
        ...

    def save_classes(self) -> None: ...

    def close(self) -> None: ...


def open_store(path: str | Path, class_names: Sequence[str], in_place: bool) -> Store:
    """Open the dataset at `path` to label it; a new one has these classes.

    in_place: it exists, and its own frames are labelled. Raises ConfigError for anything else than
    label images and COCO, and if another process has it open.
    """
    root = Path(path)
    if not in_place:
        return LabelImageStore(root, class_names)
    kind = kind_of(root)
    if kind.name == "COCO":
        return CocoStore(root)
    if (root / "labels").is_dir():
        return LabelImageStore(root, class_names, in_place)
    raise ConfigError(
        f"dataset {root}: expected COCO or label images in labels/, which are corrected in place, "
        f"found {kind.name}; give -o with a new folder to correct a copy"
    )
