"""Parses entries of COCO files, including the variants that tools write."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.samples import whole


class Annotation(NamedTuple):
    """One object or crowd. class_id: -1 if unknown; segmentation: polygons, or a dictionary of
    `size` and `counts`, or None; box: x, y, width, height, None if unknown. row: its place in the
    file's list."""

    id: Any
    class_id: int
    is_crowd: bool
    segmentation: Any
    box: tuple[float, ...] | None
    row: int


def id_of(value: Any) -> Any:
    """An id, comparable with others: some tools write 1 here and "1" there."""
    number = whole(value)
    return str(value) if number is None else number


def file_name(entry: Any) -> str | None:
    """COCO's `file_name`, or the end of LVIS' `coco_url`; None without both."""
    name = entry.get("file_name") or entry.get("coco_url", "").rpartition("/")[2]
    return name if isinstance(name, str) and name and "\0" not in name else None


def last_part(name: str) -> str:
    """The file name in a path of any operating system."""
    return (_parts(name) or [name])[-1]


def find_file(folders: Iterable[Path], name: str, least_parts: int = 1) -> Path | None:
    """The image's file. For a path from another machine, the longest end of it that exists, with at
    least `least_parts` parts."""
    as_it_is = next((f / name for f in folders if _is_file(f / name)), None)
    if as_it_is is not None:
        return as_it_is
    parts = _parts(name)
    ends = ("/".join(parts[first:]) for first in range(len(parts) - least_parts + 1))
    return next((f / end for end in ends for f in folders if _is_file(f / end)), None)


def _parts(name: str) -> list[str]:
    return [part for part in re.split(r"[\\/]+", name) if part not in ("", ".", "..")]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # not a valid file name
        return False


def segmentation_of(value: Any) -> Any:
    """The segmentation in COCO's form; None if it has no mask."""
    if isinstance(value, list) and value and not isinstance(value[0], list):
        value = (
            value[0] if isinstance(value[0], dict) else [value]
        )  # a single one, with or without a list
    if isinstance(value, dict):
        return value if {"size", "counts"} <= value.keys() and value["counts"] else None
    if isinstance(value, list) and any(not isinstance(p, list) or len(p) > 5 for p in value):
        return value
    return None


def why_objects(entries: Sequence[Any]) -> str:
    """Why entries marked as crowds are objects; "" if they may be crowds.

    CVAT marks all painted masks as crowds, since they are run-length coded. It gives every
    annotation `attributes`, which COCO's own files do not have.
    """
    given = [entry for entry in entries if isinstance(entry, dict)]
    if given and all(whole(entry.get("iscrowd")) for entry in given):
        return "all annotations have it"
    if any("attributes" in entry for entry in given):
        return "CVAT marks painted masks so"
    return ""


def box_of(value: Any) -> tuple[float, ...] | None:
    """x, y, width, height; None if it is not a box."""
    try:
        box = tuple(float(v) for v in value)
    except (TypeError, ValueError, OverflowError):
        return None
    return box if len(box) == 4 and np.isfinite(box).all() else None


def boxes(annotations: Iterable[Annotation], size: tuple[int, int]) -> NDArray[np.bool_]:
    """(H, W) bool: pixels inside any annotation's box. size: (H, W)."""
    inside = np.zeros(size, bool)
    for annotation in annotations:
        if annotation.box is not None:
            left, top, width, height = annotation.box
            (x0, x1), (y0, y1) = (
                np.clip([np.floor(low), np.ceil(low + extent)], 0, most).astype(int)
                for low, extent, most in ((left, width, size[1]), (top, height, size[0]))
            )
            inside[y0:y1, x0:x1] = True
    return inside
