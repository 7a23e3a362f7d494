"""Where frames come from: a recording, a video, a folder of images, or one image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from instaseg_ros.errors import ImageError, InputError, TruncatedInputError
from instaseg_ros.types import Frame

BAG_SUFFIXES = (".mcap", ".db3")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".m4v", ".webm", ".mpg", ".mpeg", ".ts")
FOLDER_PERIOD_NS = 100_000_000  # images without a time of their own are dated at 10 Hz


class Source(Protocol):
    """Frames in order. total: how many, None when unknown.

    While iterating, `next` raises ImageError for a frame that cannot be read and may be called
    again for the one after; TruncatedInputError comes after the last frame before a break.
    """

    @property
    def total(self) -> int | None: ...

    def __iter__(self) -> Iterator[Frame]: ...


def open_source(path: str | Path, topic: str | None = None) -> Source:
    """The source at `path`: a bag directory, `.mcap`, `.db3`, video, image folder or image.

    topic: the image topic of a recording; None where one is unmistakable.
    Raises InputError when there is nothing that can be read.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"input {path}: no such file or directory")
    if is_recording(path):
        from instaseg_ros.bags import BagSource  # imports packages that other inputs do not need

        return BagSource(path, topic)
    if topic is not None:
        raise InputError(f"input {path}: --topic is for recordings, and this is none")
    if path.is_dir():
        return ImageSource(path)
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return ImageSource(path)
    if suffix in VIDEO_SUFFIXES:
        return VideoSource(path)
    raise InputError(
        f"input {path}: expected a rosbag2 directory, .mcap, .db3, a video "
        f"({', '.join(VIDEO_SUFFIXES)}), or an image or folder of images "
        f"({', '.join(IMAGE_SUFFIXES)})"
    )


class ImageSource:
    """The images of a folder in order of name, or one image, dated at 10 Hz from 0.

    An image file knows no camera frame; its name without suffix stands as `frame_id`.
    """

    def __init__(self, path: Path) -> None:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        self._files = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
        self.total = len(self._files)
        if not self._files:
            raise InputError(
                f"input {path}: expected a rosbag2 directory, or images "
                f"({', '.join(IMAGE_SUFFIXES)}) directly in the folder; found neither"
            )

    def __iter__(self) -> Iterator[Frame]:
        return map(self._read, range(len(self._files)))

    def _read(self, index: int) -> Frame:
        file = self._files[index]
        image = cv2.imread(str(file), cv2.IMREAD_COLOR)
        if image is None:
            raise ImageError(f"image {file} cannot be decoded: it is damaged, or no image")
        return Frame(_bgr_to_rgb(image), index * FOLDER_PERIOD_NS, file.stem)


class VideoSource:
    """The frames of a video, dated from 0 by its frame rate."""

    def __init__(self, path: Path) -> None:
        self._path = path
        capture = self._open()
        self._fps = capture.get(cv2.CAP_PROP_FPS) or 30.0
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        capture.release()
        self.total = count if count > 0 else None

    def __iter__(self) -> Iterator[Frame]:
        capture = self._open()
        try:
            index = 0
            while True:
                there, image = capture.read()
                if not there:
                    break
                yield Frame(_bgr_to_rgb(image), round(index * 1e9 / self._fps))
                index += 1
        finally:
            capture.release()
        # Some containers only estimate their count, from duration and frame rate.
        if self.total is not None and index < 0.98 * self.total - 2:
            raise TruncatedInputError(
                f"video {self._path} breaks off after {index} of {self.total} frames"
            )

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self._path))
        if not capture.isOpened():
            raise InputError(
                f"video {self._path} cannot be opened: it is damaged, or of a codec that "
                "this OpenCV does not read; try converting it to .mp4"
            )
        return capture


def is_recording(path: Path) -> bool:
    """Whether `path` is a recording's file or directory, or something that its reader can say more
    of than others: recordings of ROS 1, a folder of recordings (and of no images)."""
    if not path.is_dir():
        return is_storage_file(path) or path.suffix.lower() == ".bag"
    if holds_recording(path):
        return True
    inside = list(path.iterdir())
    return not any(file.suffix.lower() in IMAGE_SUFFIXES for file in inside) and any(
        file.suffix.lower() == ".bag" or holds_recording(file) for file in inside
    )


def holds_recording(path: Path) -> bool:
    """Whether `path` is the directory of a recording."""
    return path.is_dir() and any(
        file.name == "metadata.yaml" or is_storage_file(file) for file in path.iterdir()
    )


def is_storage_file(path: Path) -> bool:
    """Whether `path` is named as a file of a recording is, compressed or not."""
    name = path.name.lower()
    is_named_so = name.removesuffix(".zstd").endswith(BAG_SUFFIXES)
    return is_named_so and not name.startswith(".") and not path.is_dir()


def _bgr_to_rgb(image: Any) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
