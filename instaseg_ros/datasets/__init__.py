"""Datasets: each has `class_names`, a length, and gives a `Sample` per index."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from instaseg_ros.errors import InputError
from instaseg_ros.sources import BAG_SUFFIXES

from .cityscapes import Cityscapes
from .coco import Coco
from .cvppp import PATTERNS, Cvppp
from .kitti_mots import KittiMots
from .label_images import LabelImages
from .sample import Dataset, Sample, Sequences, semantic_names

__all__ = ["KINDS", "Dataset", "Sample", "Sequences", "open_dataset", "semantic_names"]


def _bag(path: Path, _: str) -> Dataset:
    from .bag import LabelledBag  # imports packages that the others do not need

    return LabelledBag(path)


class Kind(NamedTuple):
    """One kind of dataset, and how it is known.

    layout: in words. signs: patterns, each of which something in the folder fits; "a|b": one of
    the two. suffixes: of the file that may be given in place of a folder.
    """

    name: str
    layout: str
    open: Callable[[Path, str], Dataset]
    signs: tuple[str, ...]
    suffixes: tuple[str, ...] = ()

    def fits(self, path: Path) -> bool:
        if not path.is_dir():
            return path.suffix in self.suffixes
        return all(
            any(next(path.glob(pattern), None) for pattern in sign.split("|"))
            for sign in self.signs
        )


KINDS = (  # the first that fits
    Kind(
        "Cityscapes",
        "leftImg8bit/SPLIT/CITY/*_leftImg8bit.png, gtFine/SPLIT/CITY/*_gtFine_instanceIds.png",
        Cityscapes,
        ("leftImg8bit", "gtFine"),
    ),
    Kind(
        "KITTI MOTS",
        "[training/]image_02/SEQUENCE/*.png, [training/]instances/SEQUENCE/*.png or "
        "instances_txt/SEQUENCE.txt; the official split",
        KittiMots,
        ("image_02|training/image_02", "instances*|training/instances*"),
    ),
    Kind(
        "COCO",
        "annotations/instances_SPLIT*.json, or such a file itself; images in SPLIT*/, "
        "images/SPLIT*/, images/ or beside it",
        Coco,
        ("annotations/instances*.json",),
        (".json",),
    ),
    Kind(
        "label images",
        "images/[SPLIT/]NAME.jpg, and instances/[SPLIT/]NAME.png (16-bit, Cityscapes' class * 1000 "
        "+ instance) or labels/[SPLIT/]NAME.png (instance); ignore/ and semantic/, if any",
        LabelImages,
        ("images", "instances|labels"),
    ),
    Kind(
        "CVPPP leaves",
        "plant*_rgb.png beside plant*_label.png, up to two folders deep; val: every fifth plant",
        Cvppp,
        ("|".join(PATTERNS),),
    ),
    Kind(
        "recording",
        "a rosbag2 folder, .mcap or .db3 with image, ground_truth/labels, ground_truth/detections",
        _bag,
        ("|".join(f"*{suffix}" for suffix in BAG_SUFFIXES),),
        BAG_SUFFIXES,
    ),
)


def open_dataset(path: str | Path, split: str) -> Dataset:
    """The dataset at `path`, its kind told by KINDS from what lies there; the word `synthetic`: 50
    sequences of the synthetic street, four frames of each.

    split: `train` or `val`; a dataset without splits gives all it has for either.
    Raises InputError, with the layouts that are known, when nothing fits.
    """
    root = Path(path)
    if str(path) == "synthetic":
        from .synthetic_street import SyntheticStreet

        return SyntheticStreet(split=split, sequences=50, frames_per_sequence=4, depth=False)
    if not root.exists():
        raise InputError(
            f"dataset {root}: expected `synthetic` or a path; no such file or directory"
        )
    for kind in KINDS:
        if kind.fits(root):
            return kind.open(root, split)
    known = "".join(f"\n  {kind.name}: {kind.layout}" for kind in KINDS)
    found = ", ".join(sorted(p.name for p in root.iterdir())[:8]) if root.is_dir() else "a file"
    raise InputError(
        f"dataset {root}: expected `synthetic`, or one of{known}\nfound: {found or 'nothing'}"
    )
