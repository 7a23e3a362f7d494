"""Reads image files, from a folder or memory. Everything but a whole image of limited size is
refused before OpenCV decodes it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from instaseg_ros.config import InputConfig
from instaseg_ros.errors import ImageError, InputError
from instaseg_ros.recordings.image_headers import read_header

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
MAX_PIXELS = InputConfig().max_pixels


def images_in(folder: Path) -> list[Path]:
    """The images of a folder in natural order: 2.png before 10.png. Hidden files, such as those
    macOS leaves beside each file on foreign disks, do not count.

    Raises InputError if there is no image.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of images, found no such folder")
    images = [
        file
        for file in folder.iterdir()
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
    ]
    if not images:
        raise InputError(f"{folder}: expected images ({', '.join(IMAGE_SUFFIXES)}), found none")
    return sorted(images, key=natural_order)


def natural_order(path: Path) -> tuple[list[str | int], str]:
    """A key to sort by name, in which consecutive digits count as one number."""
    parts: list[str | int] = list(re.split(r"(\d+)", path.name))
    parts[1::2] = map(int, parts[1::2])
    return parts, path.name


def read_image_file(
    path: Path, flags: int = cv2.IMREAD_UNCHANGED, max_pixels: int = MAX_PIXELS
) -> NDArray[Any]:
    """`decode` a file. Raises ImageError, which names the file."""
    try:
        return decode(path.read_bytes(), flags, max_pixels)
    except OSError as error:
        raise ImageError(f"{path}: expected an image, found {error.strerror}") from error
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error


def decode(
    data: Any, flags: int = cv2.IMREAD_UNCHANGED, max_pixels: int = MAX_PIXELS
) -> NDArray[Any]:
    """Decode an image file in memory with `cv2.imdecode`: (H, W) or (H, W, channels) BGR.

    data: any contiguous buffer. Raises ImageError if it is not a whole image, or has more than
    `max_pixels` pixels.
    """
    header = read_header(data)
    check_size(header.height, header.width, max_pixels)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        image = None
    if image is None:
        raise ImageError(f"expected an image, found a damaged {header.kind}")
    return np.asarray(image)


def check_size(height: int, width: int, max_pixels: int, what: str = "an image") -> None:
    """Raises ImageError for an image without pixels, or with more than `max_pixels`."""
    if min(height, width) < 1 or height * width > max_pixels:
        raise ImageError(
            f"expected {what} of 1 to {max_pixels} pixels, got {width} x {height}; if that is its "
            "real size, scale it down, or in the node and in replay raise input.max_pixels"
        )
