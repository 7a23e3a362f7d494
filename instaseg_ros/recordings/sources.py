"""Reads frames from a recording, a video, a folder of images, or one image."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from instaseg_ros.config import DepthConfig, InputConfig
from instaseg_ros.errors import ImageError, InputError, TruncatedInputError, require
from instaseg_ros.frames import Frame
from instaseg_ros.recordings.bag_paths import holds_recording, is_storage_file
from instaseg_ros.recordings.image_files import IMAGE_SUFFIXES, check_size, images_in
from instaseg_ros.recordings.image_messages import AS_IT_COMES, file_to_rgb

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".m4v", ".webm", ".mpg", ".mpeg", ".ts")
COUNTED_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi")  # for others OpenCV estimates the count
FOLDER_PERIOD_NS = 100_000_000  # images without stamps are dated at 10 Hz


class Source(Protocol):
    """Frames in order. total: their number, None if unknown.

    While iterating, `next` raises ImageError for a frame that cannot be read, and may then be
    called for the following one; TruncatedInputError comes after the last frame before a break.
    """

    @property
    def total(self) -> int | None: ...

    def __iter__(self) -> Iterator[Frame]: ...


def open_source(
    path: str | Path,
    topic: str | None = None,
    config: InputConfig = AS_IT_COMES,
    depth: str | None = None,
    slop_ms: float = DepthConfig().slop_ms,
) -> Source:
    """Open the source at `path`: a bag directory, `.mcap`, `.db3`, video, image folder or image.

    topic: the image topic of a recording; None if there is only one candidate. config: limits the
    image size, and says how 16 bits become 8. depth: topic of a recording's depth images, at most
    `slop_ms` from their image; None: frames have no depth.
    Raises InputError if there is nothing that can be read.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"input {path}: no such file or directory")
    if is_recording(path):
        for package in ("mcap", "rosbags", "zstandard"):
            require(package, "pip", "reading recordings")
        from instaseg_ros.recordings.bags import (
            BagSource,  # imports packages that other inputs do not need
        )

        return BagSource(path, topic, config, depth, slop_ms)
    if topic is not None or depth is not None:
        option = "--depth" if topic is None else "--topic"
        raise InputError(f"input {path}: {option} is for recordings, which this is not")
    if path.is_dir():
        return ImageSource(path, config)
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return ImageSource(path, config)
    if suffix in VIDEO_SUFFIXES:
        return VideoSource(path, config)
    raise InputError(
        f"input {path}: expected a rosbag2 directory, .mcap, .db3, a video "
        f"({', '.join(VIDEO_SUFFIXES)}), or an image or folder of images "
        f"({', '.join(IMAGE_SUFFIXES)})"
    )


def spread_frames(source: Source, wanted: int) -> Iterator[Frame]:
    """At most `wanted` frames spread over the source; the first ones if its length is unknown."""
    step = max(1, (source.total or 0) // wanted)
    return islice(source, 0, wanted * step, step)


class ImageSource:
    """The images of a folder in natural order of name, or one image, dated at 10 Hz from 0.

    Image files have no camera frame: `frame_id` is the name of the folder, whose images all count
    as one camera's, or of the single image without suffix.
    """

    def __init__(self, path: Path, config: InputConfig) -> None:
        try:
            self._files = images_in(path) if path.is_dir() else [path]
        except InputError as error:
            raise InputError(f"input {error}; it is not a rosbag2 directory either") from error
        self._frame_id = path.resolve().name if path.is_dir() else path.stem
        self._config = config
        self.total = len(self._files)

    def __iter__(self) -> Iterator[Frame]:
        return map(self._read, range(len(self._files)))

    def _read(self, index: int) -> Frame:
        file = self._files[index]
        image = file_to_rgb(file, self._config)
        return Frame(image, index * FOLDER_PERIOD_NS, self._frame_id, name=file.stem)


class VideoSource:
    """The frames of a video, with its container's times and rotation.

    total: None if the container does not count its frames.
    """

    def __init__(self, path: Path, config: InputConfig) -> None:
        self._path = path
        capture = self._open()
        fps = capture.get(cv2.CAP_PROP_FPS)
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        height = int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        width = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH))
        capture.release()
        try:
            check_size(height, width, config.max_pixels)
        except ImageError as error:
            raise InputError(f"video {path}: {error}") from error
        self._period_ns = round(1e9 / fps) if fps > 0 else FOLDER_PERIOD_NS
        self._duration_ns = count * self._period_ns
        self.total = count if count > 0 and path.suffix.lower() in COUNTED_SUFFIXES else None

    def __iter__(self) -> Iterator[Frame]:
        capture = self._open()
        count, stamp_ns, longest_ns = 0, -self._period_ns, 0
        try:
            while True:
                there, image = capture.read()
                if not there:
                    break
                last_ns, stamp_ns = stamp_ns, round(capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
                if stamp_ns <= last_ns:  # a container without times
                    stamp_ns = last_ns + self._period_ns
                longest_ns = max(longest_ns, stamp_ns - last_ns)
                count += 1
                yield Frame(_bgr_to_rgb(image), stamp_ns)
        finally:
            capture.release()
        if not count:
            raise self._unreadable()
        if self._breaks_off(count, self._duration_ns - stamp_ns, longest_ns):
            promised = f"{self._duration_ns / 1e9:.1f} s" if self.total is None else self.total
            raise TruncatedInputError(
                f"video {self._path} breaks off after {count} frames, {stamp_ns / 1e9:.1f} s; "
                f"expected {promised}"
            )

    def _breaks_off(self, count: int, missing_ns: int, longest_ns: int) -> bool:
        """Whether frames are missing at the end. Without a count, the duration decides, although it
        includes other tracks, and the last frame may be shown for longer than the others."""
        if self.total is not None:
            return (
                count < 0.98 * self.total - 2
            )  # some writers also count frames that are not shown
        return missing_ns > 2 * longest_ns + 1_000_000_000

    def _unreadable(self) -> InputError:
        return InputError(
            f"video {self._path} cannot be read: it is damaged, or its codec is not supported by "
            "this OpenCV; try converting it to .mp4 with H.264 or VP9"
        )

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self._path))
        if not capture.isOpened():
            raise self._unreadable()
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)  # the default depends on OpenCV's version
        return capture


def is_recording(path: Path) -> bool:
    """Whether `path` is a recording's file or directory, or something for which its reader has the
    best message: recordings of ROS 1, a folder of recordings without images."""
    if not path.is_dir():
        return is_storage_file(path) or path.suffix.lower() == ".bag"
    if holds_recording(path):
        return True
    inside = list(path.iterdir())
    return not any(file.suffix.lower() in IMAGE_SUFFIXES for file in inside) and any(
        file.suffix.lower() == ".bag" or holds_recording(file) for file in inside
    )


def _bgr_to_rgb(image: Any) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
