"""Opens datasets: each has `class_names` and a length, and gives a `Sample` per index."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from instaseg_ros.datasets import cityscapes, coco, cvppp, kitti_mots, label_images, packed
from instaseg_ros.datasets.border import named
from instaseg_ros.datasets.parts import TRAIN, VAL, Part, part
from instaseg_ros.datasets.reading import unknown_split
from instaseg_ros.errors import InputError
from instaseg_ros.recordings.bag_paths import BAG_SUFFIXES
from instaseg_ros.samples import (
    SYNTHETIC,
    Dataset,
    Sample,
    Sequences,
    least_pixels,
    remarks,
    semantic_names,
    spread,
)

__all__ = [
    "ALL",
    "KINDS",
    "RECORDING",
    "SYNTHETIC",
    "Dataset",
    "Sample",
    "Sequences",
    "kind_name",
    "kind_of",
    "lacks_val",
    "least_pixels",
    "open_dataset",
    "remarks",
    "semantic_names",
    "splits_of",
    "spread",
]

RECORDING = "recording"  # the kind of dataset that a robot writes
ALL = "all"  # instead of a split, for a dataset without splits

log = logging.getLogger(__name__)


def _bag(path: Path, _: str) -> Dataset:
    from instaseg_ros.datasets.bag import LabelledBag

    return LabelledBag(path)


class Kind(NamedTuple):
    """One kind of dataset, and how to recognise it.

    layout: in words. splits: finds the existing splits; if there are none, `open` accepts any split
    and takes everything. signs: patterns, each of which must match something in the folder; "a|b":
    either one. suffixes: of the file that may be given instead of a folder.
    """

    name: str
    layout: str
    open: Callable[[Path, str], Dataset]
    splits: Callable[[Path], tuple[str, ...]]
    signs: tuple[str, ...]
    suffixes: tuple[str, ...] = ()

    def fits(self, path: Path) -> bool:
        if not path.is_dir():
            return path.suffix.lower() in self.suffixes
        return all(
            any(next(path.glob(pattern), None) for pattern in sign.split("|"))
            for sign in self.signs
        )


KINDS = (  # the first that fits is used
    Kind(
        "Cityscapes",
        "leftImg8bit/SPLIT/CITY/*_leftImg8bit.png, gtFine/SPLIT/CITY/*_gtFine_instanceIds.png",
        cityscapes.Cityscapes,
        cityscapes.splits,
        ("leftImg8bit", "gtFine"),
    ),
    Kind(
        "KITTI MOTS",
        "[training/]image_02/SEQUENCE/*.png, [training/]instances/SEQUENCE/*.png or "
        "instances_txt/SEQUENCE.txt; the official split",
        kitti_mots.KittiMots,
        kitti_mots.splits,
        ("image_02|training/image_02", "instances*|training/instances*"),
    ),
    Kind(
        "COCO",
        "annotations/instances_SPLIT*.json, or such a file itself; images in SPLIT*/, "
        "images/SPLIT*/, images/ or beside it",
        coco.Coco,
        coco.splits,
        ("annotations/instances*.json",),
        (".json",),
    ),
    Kind(
        "label images",
        "images/[SPLIT/]NAME.jpg, and instances/[SPLIT/]NAME.png (16-bit, Cityscapes' class * 1000 "
        "+ instance) or labels/[SPLIT/]NAME.png (instance); ignore/ and semantic/, if any",
        label_images.LabelImages,
        label_images.splits,
        ("images", "instances|labels"),
    ),
    Kind(
        "packed",
        "shard-000.zip, shard-001.zip, ... written by `instaseg pack`",
        packed.open_packed,
        packed.splits,
        ("shard-*.zip",),
    ),
    Kind(
        "CVPPP leaves",
        "plant*_rgb.png beside plant*_label.png, up to two folders deep; val: every fifth plant",
        cvppp.Cvppp,
        cvppp.splits,
        ("|".join(cvppp.PATTERNS),),
    ),
    Kind(
        RECORDING,
        "a rosbag2 folder, .mcap or .db3 with image, ground_truth/labels, ground_truth/detections",
        _bag,
        lambda _: (),
        ("|".join(f"*{suffix}" for suffix in BAG_SUFFIXES),),
        BAG_SUFFIXES,
    ),
)


def open_dataset(path: str | Path, split: str) -> Dataset:
    """Open the dataset at `path`, whose kind is detected from its files by KINDS; `synthetic`: 50
    sequences of the synthetic street with four frames each.

    split: one of `splits_of`. If there is no `val`, `train` and `val` are the parts that training
    learns and holds out (`parts.part`), and ALL is both.
    Logs what was left out. Raises InputError for an unknown split and, with the known layouts, if
    no kind fits.
    """
    if str(path) == SYNTHETIC:
        from instaseg_ros.synthetic_street import SyntheticStreet

        if split not in (TRAIN, VAL):
            raise unknown_split(path, split, (TRAIN, VAL))
        return SyntheticStreet(split=split, sequences=50, frames_per_sequence=4, depth=False)
    root = Path(path)
    kind = kind_of(root)
    with named(f"dataset {root}"):
        known = kind.splits(root)
        if split in known and not (split == TRAIN and lacks_val(known)):
            return _said(root, kind.open(root, split))
        there = [*dict.fromkeys((*known, TRAIN, VAL, ALL))] if lacks_val(known) else known
        if split not in there:
            raise unknown_split(root, split, there)
        whole = _said(root, kind.open(root, TRAIN if known else ""))
    if split == ALL:
        return whole
    chosen, rule = part(whole, split)
    reason = "no split `val`" if known else "no splits"
    log.info("dataset %s, %s: it has %s; %s (`%s`: all)", root, split, reason, rule, ALL)
    return chosen


def splits_of(path: str | Path) -> tuple[str, ...]:
    """The splits at a path; empty if the data has no splits. Raises InputError as `open_dataset`
    does."""
    if str(path) == SYNTHETIC:
        return TRAIN, VAL
    root = Path(path)
    with named(f"dataset {root}"):
        return kind_of(root).splits(root)


def lacks_val(splits: Sequence[str]) -> bool:
    """Whether data with these splits has no `val` of its own, so that one must be held out."""
    return not splits or (TRAIN in splits and VAL not in splits)


def kind_name(dataset: Dataset) -> str:
    """The name of the dataset's class; for a part, that of the whole."""
    return type(dataset.whole if isinstance(dataset, Part) else dataset).__name__


def _said(root: Path, dataset: Dataset) -> Dataset:
    """Log the dataset's remarks, and return it."""
    for remark in remarks(dataset):
        log.warning("dataset %s: %s", root, remark)
    return dataset


def kind_of(root: Path) -> Kind:
    """The first of KINDS that fits a path. Raises InputError if none does."""
    if not root.exists():
        raise InputError(
            f"dataset {root}: expected `synthetic` or a path; no such file or directory"
        )
    for kind in KINDS:
        if kind.fits(root):
            return kind
    known = "".join(f"\n  {kind.name}: {kind.layout}" for kind in KINDS)
    found = ", ".join(sorted(p.name for p in root.iterdir())[:8]) if root.is_dir() else "a file"
    raise InputError(
        f"dataset {root}: expected `synthetic`, or one of{known}\nfound: {found or 'nothing'}"
    )
