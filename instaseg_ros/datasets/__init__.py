"""Datasets: each has `class_names`, a length, and gives a `Sample` per index."""

from __future__ import annotations

from pathlib import Path

from instaseg_ros.errors import InputError

from .label_images import LabelImages
from .sample import Dataset, Sample

__all__ = ["Dataset", "Sample", "open_dataset"]


def open_dataset(path: str | Path, split: str) -> Dataset:
    """The dataset at `path`, its kind told from what lies there.

    split: `train` or `val`; a dataset without splits gives all it has for either.
    Raises InputError, with the layouts that are known, when nothing fits.
    """
    root = Path(path)
    if not root.exists():
        raise InputError(
            f"dataset {root}: expected `synthetic` or a path; no such file or directory"
        )
    if (root / "images").is_dir() and any((root / d).is_dir() for d in ("instances", "labels")):
        return LabelImages(root, split if (root / "images" / split).is_dir() else "")
    raise InputError(
        f"dataset {root}: expected `images` beside `instances` or `labels`, found "
        f"{', '.join(sorted(p.name for p in root.iterdir())[:8]) if root.is_dir() else 'a file'}"
    )
