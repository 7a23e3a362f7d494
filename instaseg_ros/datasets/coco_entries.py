"""Entries of COCO files as tools write them, which is not always as COCO does."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.samples import whole


class Annotation(NamedTuple):
    """One object or crowd. class_id, -1: not to be told; segmentation: polygons, or a dictionary of
    `size` and `counts`, None where there is none; box: x, y, width, height, None if unknown."""

    id: Any
    class_id: int
    is_crowd: bool
    segmentation: Any
    box: tuple[float, ...] | None


def id_of(value: Any) -> Any:
    """An id, comparable with others: some tools write 1 here and "1" there."""
    number = whole(value)
    return str(value) if number is None else number


def file_name(entry: Any) -> str | None:
    """COCO's `file_name`, the end of LVIS' `coco_url`; None where there is neither."""
    name = entry.get("file_name") or entry.get("coco_url", "").rpartition("/")[2]
    return name if isinstance(name, str) and name and "\0" not in name else None


def last_part(name: str) -> str:
    """The file of a path that was written on any machine."""
    return (_parts(name) or [name])[-1]


def find_file(folders: Iterable[Path], name: str, least_parts: int = 1) -> Path | None:
    """The image's file. Of a path that is of another machine the longest end that is there, of at
    least so many parts."""
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
    except (OSError, ValueError):  # a name that no file can have
        return False


def segmentation_of(value: Any) -> Any:
    """The segmentation as COCO has it, None where it holds no mask."""
    if isinstance(value, list) and value and not isinstance(value[0], list):
        value = value[0] if isinstance(value[0], dict) else [value]  # one, without or with a list
    if isinstance(value, dict):
        return value if {"size", "counts"} <= value.keys() and value["counts"] else None
    if isinstance(value, list) and any(not isinstance(p, list) or len(p) > 5 for p in value):
        return value
    return None


def why_objects(entries: Sequence[Any]) -> str:
    """Why what is marked as a crowd is an object, "" where it may be a crowd.

    CVAT marks whatever was painted so, as it is run-length coded. It gives every annotation
    `attributes`, which COCO's own files do not have.
    """
    given = [entry for entry in entries if isinstance(entry, dict)]
    if given and all(whole(entry.get("iscrowd")) for entry in given):
        return "all annotations have it"
    if any("attributes" in entry for entry in given):
        return "CVAT marks painted masks so"
    return ""


def box_of(value: Any) -> tuple[float, ...] | None:
    """x, y, width, height; None for what is no box."""
    try:
        box = tuple(float(v) for v in value)
    except (TypeError, ValueError, OverflowError):
        return None
    return box if len(box) == 4 and np.isfinite(box).all() else None


def boxes(annotations: Iterable[Annotation], size: tuple[int, int]) -> NDArray[np.bool_]:
    """(H, W) bool, what lies in the box of one of them. size: (H, W)."""
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
