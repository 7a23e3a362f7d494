"""`instaseg info DATASET`: show a dataset's content, a picture of it, and its broken files."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from instaseg_ros.errors import ConfigError, InstasegError

if TYPE_CHECKING:
    from instaseg_ros.datasets import Dataset

SHEET_IMAGES, SHEET_COLUMNS = 20, 4

EXAMPLES = """
instaseg info cityscapes/ --sheet sheet.png
instaseg info drive.json --check
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "dataset", metavar="DATA", help="`synthetic`, or a folder or file of a known layout"
    )
    parser.add_argument(
        "--split",
        help="a split of the dataset (default: train); if it has no val, train and val are the "
        "parts that training learns and holds out, and `all` (default) is everything",
    )
    parser.add_argument(
        "--check", action="store_true", help="read every file, and only list the broken ones"
    )
    parser.add_argument("--limit", type=int, help="count at most this many images, evenly spread")
    parser.add_argument(
        "--min-pixels", type=int, default=100, help="count objects of at least this size separately"
    )
    parser.add_argument(
        "--sheet",
        type=Path,
        metavar="FILE.png",
        help=f"a picture of {SHEET_IMAGES} labelled images",
    )


def run(args: argparse.Namespace) -> int:
    """1 if a file is broken, else 0."""
    if args.limit is not None and args.limit < 1:
        raise ConfigError(f"--limit: expected at least 1, got {args.limit}")
    if args.sheet and args.sheet.suffix.lower() not in (".png", ".jpg"):
        raise ConfigError(f"--sheet: expected a name in .png or .jpg, got {args.sheet}")
    from instaseg_ros.datasets import ALL, kind_name, lacks_val, open_dataset, splits_of, spread
    from instaseg_ros.datasets.survey import survey, table

    known = splits_of(args.dataset)
    split = args.split or (ALL if lacks_val(known) else "train" if "train" in known else known[0])
    if args.check:
        return check(args.dataset, split)
    dataset = open_dataset(args.dataset, split)
    print(f"{args.dataset} {split}: {kind_name(dataset)} of {len(dataset)} images")
    contents, broken = survey(dataset, spread(len(dataset), args.limit or len(dataset)))
    if contents:
        print(table(contents, dataset.class_names, args.min_pixels))
    if broken:
        return _named(broken)
    if args.sheet:
        _write_sheet(dataset, args.sheet)
    return 0


def check(path: str, split: str) -> int:
    """Read every file of a dataset; 1 if one is broken, else 0."""
    from instaseg_ros.datasets import open_dataset
    from instaseg_ros.datasets.survey import survey

    dataset = open_dataset(path, split)
    contents, broken = survey(dataset, range(len(dataset)))
    print(f"{path} {split}: {len(contents)} of {len(dataset)} images are whole")
    return _named(broken)


def _named(broken: list[str]) -> int:
    """Print what is broken; returns the exit code."""
    for said in broken:
        print(said, file=sys.stderr)
    return 1 if broken else 0


def _write_sheet(dataset: Dataset, path: Path) -> None:
    import cv2

    from instaseg_ros.datasets import spread
    from instaseg_ros.datasets.survey import sheet
    from instaseg_ros.files import OutputFile

    output = OutputFile(path, overwrite=True)
    picture = sheet(dataset, spread(len(dataset), SHEET_IMAGES), SHEET_COLUMNS)
    if not cv2.imwrite(str(output.part), picture[..., ::-1]):
        raise InstasegError(f"{path} cannot be written: is the disk full?")
    output.commit()
    print(f"sheet: {path}")
