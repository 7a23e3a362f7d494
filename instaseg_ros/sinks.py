"""Where results go: a recording, a video, a folder of PNGs, a function.

Each output is written under a temporary name and gets its own in `close`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from instaseg_ros import outputs
from instaseg_ros.config import Config
from instaseg_ros.errors import ConfigError, InstasegError
from instaseg_ros.output_files import OutputFile
from instaseg_ros.types import Frame, Result
from instaseg_ros.visualization import overlay

DETECTIONS_FILE = "detections.jsonl"
VIDEO_FPS = 10.0  # of a video with a single frame, which says nothing about its rate


class Sink(Protocol):
    """Takes results in order. One of `close` (keep what was written) or `discard` ends it."""

    def write(self, frame: Frame, result: Result) -> None: ...

    def close(self) -> None: ...

    def discard(self) -> None: ...


def open_sink(
    path: str | Path, class_names: Sequence[str], config: Config, overwrite: bool = False
) -> Sink:
    """The sink for an output path: `.mcap`, `.mp4`, or a folder where there is no suffix.

    Raises ConfigError when it exists and `overwrite` is false, or is of another kind.
    """
    path = Path(path)
    kinds: dict[str, Callable[[Path, Sequence[str], Config, bool], Sink]] = {
        ".mcap": BagSink,
        ".mp4": VideoSink,
        "": FolderSink,
    }
    if path.suffix not in kinds:
        raise ConfigError(
            f"output {path}: expected a name that ends in .mcap (recording) or .mp4 (video of the "
            "overlay), or has no suffix (folder of PNGs)"
        )
    return kinds[path.suffix](path, class_names, config, overwrite)


class BagSink:
    """A recording with the node's topics: labels, detections, label_info, overlay and markers."""

    def __init__(
        self, path: Path, class_names: Sequence[str], config: Config, overwrite: bool
    ) -> None:
        from instaseg_ros.bags import BagWriter  # imports packages that other sinks do not need

        self._class_names = class_names
        self._alpha = config.node.overlay_alpha
        self._threshold = config.decode.seed_threshold
        self._writer = BagWriter(path, overwrite)
        self._is_first = True
        for name, topic in outputs.TOPICS.items():
            self._writer.add_topic(_topic(name), topic.type, topic.latched)

    def write(self, frame: Frame, result: Result) -> None:
        from instaseg_ros.bag_types import make_header

        msgs, names, instances = self._writer.msgs, self._class_names, result.instances
        header = make_header(frame.stamp_ns, frame.frame_id)
        picture = overlay(frame, instances, names, self._alpha)
        messages = {
            "labels": outputs.labels_message(msgs, header, instances.labels),
            "detections": outputs.detections_message(msgs, header, instances, names),
            "overlay": outputs.overlay_message(msgs, header, picture),
            "markers": outputs.markers_message(msgs, header, instances, names, frame.intrinsics),
        }
        if self._is_first:  # latched
            info = outputs.label_info_message(msgs, header, names, self._threshold)
            messages["label_info"] = info
            self._is_first = False
        # When the image was received: its stamp may be of another clock, or of none.
        received_ns = frame.stamp_ns if frame.received_ns is None else frame.received_ns
        for name, message in messages.items():
            self._writer.write(_topic(name), message, received_ns)

    def close(self) -> None:
        self._writer.close()

    def discard(self) -> None:
        self._writer.discard()


class FolderSink:
    """A folder: `labels/000000.png` (16-bit label images), `overlay/000000.png`, and
    `detections.jsonl` with one line per frame."""

    def __init__(
        self, path: Path, class_names: Sequence[str], config: Config, overwrite: bool
    ) -> None:
        self._class_names = class_names
        self._alpha = config.node.overlay_alpha
        self._output = OutputFile(path, overwrite, marker=DETECTIONS_FILE)
        self._count = 0
        for name in ("labels", "overlay"):
            (self._output.part / name).mkdir(parents=True)
        self._lines = (self._output.part / DETECTIONS_FILE).open("w", encoding="utf-8")

    def write(self, frame: Frame, result: Result) -> None:
        name = f"{self._count:06d}.png"
        picture = overlay(frame, result.instances, self._class_names, self._alpha)
        _write_png(self._output.part / "labels" / name, result.instances.labels)
        _write_png(self._output.part / "overlay" / name, picture[..., ::-1])
        self._lines.write(json.dumps({"file": name, **self._described(frame, result)}) + "\n")
        self._count += 1

    def _described(self, frame: Frame, result: Result) -> dict[str, object]:
        instances = result.instances
        return {
            "stamp_ns": frame.stamp_ns,
            "frame_id": frame.frame_id,
            "instances": [
                {
                    "id": int(instances.ids[i]),
                    "class": self._class_names[instances.class_ids[i]],
                    "score": round(float(instances.scores[i]), 4),
                    "box_xyxy": [round(float(side), 1) for side in instances.boxes_xyxy[i]],
                }
                for i in range(len(instances))
            ],
        }

    def close(self) -> None:
        self._lines.close()
        self._output.commit()

    def discard(self) -> None:
        self._lines.close()
        self._output.discard()


class VideoSink:
    """An MPEG-4 video of the overlay, at the rate the first two stamps give.

    Frames of another size than the first are scaled to it.
    """

    def __init__(
        self, path: Path, class_names: Sequence[str], config: Config, overwrite: bool
    ) -> None:
        self._class_names = class_names
        self._alpha = config.node.overlay_alpha
        self._output = OutputFile(path, overwrite)
        self._first: tuple[int, NDArray[np.uint8]] | None = None  # until the rate is known
        self._video: cv2.VideoWriter | None = None

    def write(self, frame: Frame, result: Result) -> None:
        picture = overlay(frame, result.instances, self._class_names, self._alpha)[..., ::-1]
        if self._video is None and self._first is None:
            self._first = frame.stamp_ns, picture
            return
        if self._video is None and self._first is not None:
            period_ns = frame.stamp_ns - self._first[0]
            self._start(min(max(1e9 / period_ns, 1.0), 120.0) if period_ns > 0 else VIDEO_FPS)
        self._append(picture)

    def _start(self, fps: float) -> None:
        assert self._first is not None
        picture = self._first[1]
        self._height, self._width = picture.shape[:2]
        code = cv2.VideoWriter.fourcc(*"mp4v")
        size = (self._width, self._height)
        self._video = cv2.VideoWriter(str(self._output.part), code, fps, size)
        if not self._video.isOpened():
            raise InstasegError(
                f"output {self._output.path}: this OpenCV cannot write MPEG-4 video; "
                "choose a folder or .mcap as output"
            )
        self._append(picture)

    def _append(self, picture: NDArray[np.uint8]) -> None:
        assert self._video is not None
        if picture.shape[:2] != (self._height, self._width):
            picture = np.asarray(cv2.resize(picture, (self._width, self._height)), np.uint8)
        self._video.write(np.ascontiguousarray(picture))

    def close(self) -> None:
        if self._video is None and self._first is not None:
            self._start(VIDEO_FPS)
        if self._video is not None:  # without any frame there is no video
            self._video.release()
            self._output.commit()

    def discard(self) -> None:
        if self._video is not None:
            self._video.release()
        self._output.discard()


class CallbackSink:
    """Hands each frame and result to a function, an evaluator's for instance."""

    def __init__(self, function: Callable[[Frame, Result], None]) -> None:
        self.write = function

    def close(self) -> None:
        """Nothing is held."""

    def discard(self) -> None:
        """Nothing is held."""


def _topic(name: str) -> str:
    return f"/{outputs.NODE_NAME}/{name}"


def _write_png(path: Path, image: NDArray[np.generic]) -> None:
    if not cv2.imwrite(str(path), np.ascontiguousarray(image)):
        raise InstasegError(f"output {path} cannot be written: is the disk full?")
