"""Writes videos that play in a browser, timed by stamps.

PyAV writes them as VP9 (the extra `video`). Its wheels also contain x264, which is GPL and not
used.
"""

from __future__ import annotations

import logging
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from instaseg_ros.errors import InstasegError, MissingExtraError

log = logging.getLogger(__name__)

USUAL_STEP_NS = 100_000_000  # if stamps say nothing
LONGEST_STEP_NS = 10_000_000_000  # nobody watches one picture for longer
MS_NS = 1_000_000
MILLISECOND = Fraction(1, 1000)
# As fast as a camera, at constant quality and without delay.
VP9 = {"deadline": "realtime", "cpu-used": "8", "row-mt": "1", "crf": "30", "lag-in-frames": "0"}
FALLBACK_FPS = 30


class Timeline:
    """When each picture is shown: later than the previous one by the difference of their stamps; if
    that is not positive, by the last difference; and at most by 10 s."""

    def __init__(self) -> None:
        self._stamp_ns: int | None = None
        self._step_ns = USUAL_STEP_NS
        self._start_ns = 0

    def show(self, stamp_ns: int) -> tuple[int, int]:
        """(start, end) of the next picture in milliseconds from 0, if it is the last one, which is
        shown for as long as the one before it."""
        if self._stamp_ns is not None:
            step_ns = stamp_ns - self._stamp_ns
            if step_ns > 0:
                self._step_ns = min(max(step_ns, MS_NS), LONGEST_STEP_NS)
            self._start_ns += self._step_ns
        self._stamp_ns = stamp_ns
        return self._start_ns // MS_NS, (self._start_ns + self._step_ns) // MS_NS


class VideoFile:
    """A `.mp4` or `.webm` file. Pictures are scaled to the size of the first.

    Without PyAV, OpenCV writes a `.mp4` as MPEG-4 part 2, which plays in players but not in
    browsers; a warning says so once. Raises OSError if the disk is full or the path cannot be
    written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._timeline = Timeline()
        self._writer: _Writer | None = None

    def write(self, picture: NDArray[np.uint8], stamp_ns: int) -> None:
        """Append a picture (H, W, 3) uint8 RGB. Raises InstasegError if nothing can write it."""
        if self._writer is None:
            self._size = picture.shape[1], picture.shape[0]
            self._writer = _open(self._path, self._size)
        if picture.shape[1::-1] != self._size:
            picture = np.asarray(cv2.resize(picture, self._size), np.uint8)
        self._writer.write(np.ascontiguousarray(picture), *self._timeline.show(stamp_ns))

    def close(self) -> None:
        """Finish the file; without pictures there is none."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()


class _Writer(Protocol):
    """Takes pictures with the times from `Timeline`."""

    def write(self, picture: NDArray[np.uint8], start_ms: int, end_ms: int) -> None: ...

    def close(self) -> None: ...


def _open(path: Path, size: tuple[int, int]) -> _Writer:
    try:
        import av
    except ImportError:
        if path.suffix != ".mp4":
            raise MissingExtraError("av", "video", f"a video {path.suffix}") from None
        log.warning(
            "%s will not play in browsers: it is MPEG-4 part 2, as the Python package 'av', which "
            "writes VP9, is not installed",
            path.name,
        )
        return _OpenCvWriter(path, size)
    return _Vp9Writer(av, path, size)


class _Vp9Writer:
    def __init__(self, av: Any, path: Path, size: tuple[int, int]) -> None:
        self._av = av
        self._container = av.open(str(path), "w")
        self._stream = self._container.add_stream("libvpx-vp9", options=VP9)
        self._stream.width, self._stream.height = size
        self._stream.bit_rate = 0  # the quality is constant instead
        self._stream.codec_context.time_base = MILLISECOND

    def write(self, picture: NDArray[np.uint8], start_ms: int, end_ms: int) -> None:
        frame = self._av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = start_ms, MILLISECOND
        for packet in self._stream.encode(frame):
            packet.duration = end_ms - start_ms
            self._container.mux(packet)

    def close(self) -> None:
        try:
            self._container.mux(self._stream.encode())
        finally:
            self._container.close()


class _OpenCvWriter:
    """Has a fixed frame rate: pictures are repeated or left out to fit their times."""

    def __init__(self, path: Path, size: tuple[int, int]) -> None:
        code = cv2.VideoWriter.fourcc(*"mp4v")
        self._video = cv2.VideoWriter(str(path), code, FALLBACK_FPS, size)
        if not self._video.isOpened():
            raise InstasegError(
                f"output {path}: this OpenCV cannot write MPEG-4 video; pip install av, or choose "
                "a folder or .mcap as output"
            )
        self._written = 0
        self._last: tuple[NDArray[np.uint8], int] | None = None  # and its end in ms

    def write(self, picture: NDArray[np.uint8], start_ms: int, end_ms: int) -> None:
        self._repeat_last(start_ms)
        self._last = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), np.uint8), end_ms

    def close(self) -> None:
        if self._last is not None:
            self._repeat_last(self._last[1])
        self._video.release()

    def _repeat_last(self, until_ms: int) -> None:
        while self._last is not None and self._written < round(until_ms * FALLBACK_FPS / 1000):
            self._video.write(self._last[0])
            self._written += 1
