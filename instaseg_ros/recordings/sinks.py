"""Writes results: to a recording, a video, a folder of PNGs, or a function.

Each output is written under a temporary name and gets its final one in `close`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from instaseg_ros.config import Config
from instaseg_ros.contract import format_of
from instaseg_ros.errors import ConfigError, InstasegError
from instaseg_ros.files import OutputFile
from instaseg_ros.frames import Frame, Instances, Locations, Result
from instaseg_ros.rays import sight
from instaseg_ros.recordings import result_messages
from instaseg_ros.recordings.annotation_files import CocoSink, KittiMotsSink, unused_name
from instaseg_ros.recordings.video import VideoFile
from instaseg_ros.visualization import overlay

DETECTIONS_FILE = "detections.jsonl"
DESCRIBED = {"format": format_of("detections")}


class Sink(Protocol):
    """Takes results in order; ends with `close` (keep what was written) or `discard`."""

    def write(self, frame: Frame, result: Result) -> None: ...

    def close(self) -> None: ...

    def discard(self) -> None: ...


def open_sink(
    path: str | Path, class_names: Sequence[str], config: Config, overwrite: bool = False
) -> Sink:
    """Open the sink for an output path: `.mcap`, `.mp4`, `.webm`, `.json` (COCO), `.txt` (KITTI
    MOTS), or a folder if it has no suffix.

    Raises ConfigError if it exists and `overwrite` is false, or it is of another kind.
    """
    path = Path(path)
    kinds: dict[str, Callable[[Path, Sequence[str], Config, bool], Sink]] = {
        ".mcap": BagSink,
        ".mp4": VideoSink,
        ".webm": VideoSink,
        ".json": CocoSink,
        ".txt": KittiMotsSink,
        "": FolderSink,
    }
    if path.suffix not in kinds:
        raise ConfigError(
            f"output {path}: expected a name that ends in .mcap (recording), .mp4 or .webm (video "
            "of the overlay), .json (COCO dataset) or .txt (KITTI MOTS), or has no suffix (folder "
            "of PNGs)"
        )
    return kinds[path.suffix](path, class_names, config, overwrite)


class BagSink:
    """A recording with the node's topics: labels, detections, label_info, overlay and markers; and
    annotations, which Foxglove draws over the camera's image. From the first frame with depth on
    also detections_3d, and markers at their distance."""

    def __init__(
        self, path: Path, class_names: Sequence[str], config: Config, overwrite: bool
    ) -> None:
        from instaseg_ros.recordings.bags import (
            BagWriter,  # imports packages that other sinks do not need
        )

        self._class_names = class_names
        self._overlay = _overlay_of(class_names, config)
        self._writer = BagWriter(path, overwrite)
        self._is_first = True
        self._min_pixels = config.depth.min_pixels
        self._knows_depth = False
        for name, topic in {**result_messages.TOPICS, **result_messages.RECORDED_TOPICS}.items():
            if topic.recorded:
                self._writer.add_topic(_topic(name), topic.type, topic.latched)

    def write(self, frame: Frame, result: Result) -> None:
        from instaseg_ros.recordings.message_types import make_header

        msgs, names, instances = self._writer.msgs, self._class_names, result.instances
        header = make_header(frame.stamp_ns, frame.frame_id)
        picture = self._overlay(frame, instances)
        locations = self._locate(frame, instances)
        messages = {
            "labels": result_messages.labels_message(msgs, header, instances.labels),
            "detections": result_messages.detections_message(msgs, header, instances, names),
            "overlay": result_messages.overlay_message(msgs, header, picture),
            "markers": result_messages.markers_message(
                msgs, header, instances, names, frame, locations
            ),
            "annotations": result_messages.annotations_message(msgs, header, instances, names),
        }
        if locations is not None:
            messages["detections_3d"] = result_messages.detections_3d_message(
                msgs, header, instances, locations, names
            )
        if self._is_first:  # latched
            info = result_messages.label_info_message(msgs, header, names)
            messages["label_info"] = info
            self._is_first = False
        # The time of receipt: the image's stamp may be of another clock, or missing.
        received_ns = frame.stamp_ns if frame.received_ns is None else frame.received_ns
        for name, message in messages.items():
            self._writer.write(_topic(name), message, received_ns)

    def _locate(self, frame: Frame, instances: Instances) -> Locations | None:
        """Where the instances of a frame with depth are."""
        if frame.depth is None or frame.intrinsics is None:
            return None
        from instaseg_ros.localization import locate

        if not self._knows_depth:
            topic = result_messages.DEPTH_TOPICS["detections_3d"]
            self._writer.add_topic(_topic("detections_3d"), topic.type, topic.latched)
            self._knows_depth = True
        return locate(instances, frame.depth, sight(frame), self._min_pixels)

    def close(self) -> None:
        self._writer.close()

    def discard(self) -> None:
        self._writer.discard()


class FolderSink:
    """A folder: `labels/NAME.png` (16-bit label images), `overlay/NAME.png`, and `detections.jsonl`
    with one line per frame. NAME is that of the image file, or the frame's number: 000000."""

    def __init__(
        self, path: Path, class_names: Sequence[str], config: Config, overwrite: bool
    ) -> None:
        self._class_names = class_names
        self._overlay = _overlay_of(class_names, config)
        self._output = OutputFile(path, overwrite, marker=DETECTIONS_FILE)
        self._names: set[str] = set()  # in lower case, as some file systems ignore case
        for name in ("labels", "overlay"):
            (self._output.part / name).mkdir(parents=True)
        self._lines = (self._output.part / DETECTIONS_FILE).open("w", encoding="utf-8")

    def write(self, frame: Frame, result: Result) -> None:
        name = unused_name(frame, self._names, ".png")
        picture = self._overlay(frame, result.instances)
        _write_png(self._output.part / "labels" / name, result.instances.labels)
        _write_png(self._output.part / "overlay" / name, picture[..., ::-1])
        self._lines.write(
            json.dumps({**DESCRIBED, "file": name, **self._described(frame, result)}) + "\n"
        )

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
    """A video, timed by the frames' stamps. draw: its pictures, (H, W, 3) uint8 RGB of one size;
    None: overlays."""

    def __init__(
        self,
        path: Path,
        class_names: Sequence[str],
        config: Config,
        overwrite: bool,
        draw: Callable[[Frame, Result], NDArray[np.uint8]] | None = None,
    ) -> None:
        draw_overlay = _overlay_of(class_names, config)
        self._draw = draw or (lambda frame, result: draw_overlay(frame, result.instances))
        self._output = OutputFile(path, overwrite)
        self._video = VideoFile(self._output.part)
        self._is_empty = True

    def write(self, frame: Frame, result: Result) -> None:
        self._video.write(self._draw(frame, result), frame.stamp_ns)
        self._is_empty = False

    def close(self) -> None:
        self._video.close()
        if not self._is_empty:  # without frames there is no video
            self._output.commit()

    def discard(self) -> None:
        with suppress(OSError):  # a full disk, which may be why it ended
            self._video.close()
        self._output.discard()


class CallbackSink:
    """Passes each frame and result to a function, such as an evaluator's."""

    def __init__(self, function: Callable[[Frame, Result], None]) -> None:
        self.write = function

    def close(self) -> None:
        """Nothing is held."""

    def discard(self) -> None:
        """Nothing is held."""


def _overlay_of(
    class_names: Sequence[str], config: Config
) -> Callable[[Frame, Instances], NDArray[np.uint8]]:
    """A function that draws the overlay, as configured."""
    return partial(
        overlay,
        class_names=class_names,
        alpha=config.node.overlay_alpha,
        with_ids=config.tracking.enabled,
    )


def _topic(name: str) -> str:
    return f"/{result_messages.NODE_NAME}/{name}"


def _write_png(path: Path, image: NDArray[np.generic]) -> None:
    if not cv2.imwrite(str(path), np.ascontiguousarray(image)):
        raise InstasegError(f"output {path} cannot be written: is the disk full?")
