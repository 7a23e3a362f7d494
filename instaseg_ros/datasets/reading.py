"""Reads the files of datasets; an InputError names a missing or broken one."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from instaseg_ros.errors import ImageError, InputError
from instaseg_ros.recordings.image_files import read_image_file


def read_image(path: Path) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB image at `path`."""
    return np.asarray(cv2.cvtColor(read_any(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB), np.uint8)


def read_labels(path: Path, size: tuple[int, ...]) -> NDArray[np.uint16]:
    """(H, W) uint16 label image at `path`, of the `size` (H, W) of its image."""
    labels = read_any(path, cv2.IMREAD_UNCHANGED)
    if labels.dtype not in (np.uint8, np.uint16) or labels.shape != size:
        raise InputError(
            f"{path}: expected one channel of 8 or 16 bits and {size} pixels like its image, "
            f"found {labels.dtype} of {labels.shape}"
        )
    return labels.astype(np.uint16)


def read_colored_labels(path: Path, size: tuple[int, ...]) -> NDArray[np.uint16]:
    """Like `read_labels`; in a palette or colour image, each colour is an instance, and black is
    background.

    OpenCV resolves palettes to colours, so values count the colours, not palette entries.
    """
    picture = read_any(path, cv2.IMREAD_UNCHANGED)
    if picture.ndim == 2 or picture.dtype != np.uint8:
        return read_labels(path, size)
    if picture.shape[:2] != size:
        raise InputError(
            f"{path}: expected {size} pixels like its image, found {picture.shape[:2]}"
        )
    code = picture[..., :3].astype(np.int64) @ np.array([1, 1 << 8, 1 << 16])
    colors, number = np.unique(np.append(code.ravel(), 0), return_inverse=True)  # 0: black
    if len(colors) > 1 << 16:
        raise InputError(f"{path}: expected a colour per instance, found {len(colors)} colours")
    return number.ravel()[:-1].reshape(size).astype(np.uint16)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: expected JSON, found {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # of the decoding of text, too
        raise InputError(f"{path}: expected JSON, found: {error}") from error
    if not isinstance(document, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(document).__name__}")
    return document


def subfolders(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted, without hidden ones."""
    return sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    )


def unknown_split(root: str | Path, split: str, known: Sequence[str]) -> InputError:
    """The error for a dataset without such a split."""
    near = difflib.get_close_matches(split, known, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return InputError(
        f"dataset {root}: expected a split of {', '.join(known) or 'none'}, got {split!r}{hint}"
    )


def read_any(path: Path, flags: int = cv2.IMREAD_UNCHANGED) -> NDArray[Any]:
    """An image file as read by OpenCV, BGR if it has colours."""
    try:
        return read_image_file(path, flags)
    except ImageError as error:
        raise InputError(str(error)) from error
