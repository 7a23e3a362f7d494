"""Reads recordings with ground truth, as the synthetic street's export writes them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.datasets.border import reads_files
from instaseg_ros.errors import ImageError, InputError, TruncatedInputError
from instaseg_ros.frames import Frame
from instaseg_ros.recordings import message_types
from instaseg_ros.recordings.bags import (
    CAMERA_INFO,
    TO_LABELS,
    TO_RGB,
    BagSource,
    class_by_label,
    counted,
    deserialize,
    truth_topics,
)
from instaseg_ros.recordings.storage import open_recording
from instaseg_ros.samples import Sample, present_ids

log = logging.getLogger(__name__)

# Cached by path, not in the dataset, which is sent to the processes that load training data.
_recording = lru_cache(maxsize=4)(open_recording)


class _Moment(NamedTuple):
    """A labelled frame: its stamp, and when the first and last of its messages were received."""

    stamp_ns: int
    first_ns: int
    last_ns: int


class LabelledBag:
    """The frames of `image` that have `ground_truth/labels` and `ground_truth/detections` of the
    same stamp, in any namespace, raw or compressed; ordered by stamp.

    topic: of the images; None if there is only one candidate. Classes are those of the detections,
    by name; intrinsics come from the first message on `camera_info` beside the images, which are
    assumed undistorted, or are unknown. Opening reads the recording once and keeps only the stamps;
    a frame is then found by time, in a file with an index (a file of a killed recorder is read from
    its start).
    remarks: what is missing, broken or unusable in the recording, in words. An object without a
    usable class is ignored.
    """

    def __init__(self, path: str | Path, topic: str | None = None) -> None:
        self._path = Path(path)
        topics = _recording(self._path).topics
        self._truth = truth_topics(path, topics)
        self._topics = (BagSource(path, topic).topic, *self._truth)
        self._intrinsics = _intrinsics(self._path, self._topics[0])
        received: dict[int, dict[str, int]] = {}  # by stamp and topic
        names: set[str] = set()
        left_out: Counter[str] = Counter()
        broken: list[str] = []
        for name, received_ns, message in self._messages(left_out, broken):
            times = received.setdefault(message_types.stamp_ns(message.header), {})
            if name in times:
                left_out[f"messages of {name} with the stamp of another"] += 1
                continue
            times[name] = received_ns
            if name == self._truth[1]:
                names.update(class_by_label(message, left_out).values())
        self.class_names = tuple(sorted(names))
        self._moments = [
            _Moment(stamp_ns, min(times.values()), max(times.values()))
            for stamp_ns, times in sorted(received.items())
            if len(times) == len(self._topics)
        ]
        self.remarks = (*broken, *([f"left out: {counted(left_out)}"] if left_out else []))
        expected = ""
        if not self._moments:
            expected = "an image, labels and detections of one stamp"
        elif left_out and not names:
            expected = "detections with a label value as id, and with a class"
        if expected:
            raise InputError(
                f"bag {path}: expected {expected}, found none on {', '.join(self._topics)}"
                + "".join(f"; {remark}" for remark in self.remarks)
            )

    def _messages(
        self, left_out: Counter[str], broken: list[str], *span_ns: int
    ) -> Iterator[tuple[str, int, Any]]:
        """Topic, time of receipt and message of all that can be read; the rest is counted, or
        described in `broken`."""
        recording = _recording(self._path)
        try:
            for raw in recording.messages(self._topics, *span_ns):
                try:
                    message = deserialize(raw, recording.topics[raw.topic].type)
                except ImageError:
                    left_out[f"messages of {raw.topic} that cannot be read"] += 1
                else:
                    yield raw.topic, raw.received_ns, message
        except TruncatedInputError as error:
            broken.append(str(error))

    def __len__(self) -> int:
        return len(self._moments)

    def files(self, index: int) -> tuple[Path]:
        return (self._path,)

    def sequence(self, index: int) -> str:
        return self._path.stem

    @reads_files
    def __getitem__(self, index: int) -> Sample:
        moment = self._moments[index]
        what = f"bag {self._path}, frame of {moment.stamp_ns / 1e9:.3f} s"
        found = self._messages_of(moment)
        if len(found) < len(self._topics):
            raise InputError(f"{what}: it is gone; did the file change?")
        types = _recording(self._path).topics
        image, labels, detections = (found[topic] for topic in self._topics)
        try:
            pixels = TO_RGB[types[self._topics[0]].type](image)
            truth = TO_LABELS[types[self._topics[1]].type](labels)
        except ImageError as error:
            raise InputError(f"{what}: {error}") from error
        if truth.shape != pixels.shape[:2]:
            raise InputError(
                f"{what}: expected labels of {pixels.shape[:2]} pixels, found {truth.shape}"
            )
        left_out: Counter[str] = Counter()
        class_of = class_by_label(detections, left_out)
        present = present_ids(truth)
        ids = present[np.isin(present, list(class_of))]
        unknown = np.setdiff1d(present, ids)
        if len(unknown) > sum(left_out.values()):  # those were reported on opening
            log.warning("%s: ignored labels without a detection: %s", what, unknown.tolist())
        ignore = np.isin(truth, unknown) if len(unknown) else None
        truth = np.array(truth) if ignore is None else np.where(ignore, np.uint16(0), truth)
        class_ids = [self.class_names.index(class_of[i]) for i in ids.tolist()]
        frame = Frame(
            np.array(pixels),
            moment.stamp_ns,
            image.header.frame_id,
            intrinsics=self._intrinsics,
            received_ns=moment.first_ns,
        )
        return Sample(frame, truth, ids, np.array(class_ids, np.int64), ignore)

    def _messages_of(self, moment: _Moment) -> dict[str, Any]:
        """The first message of a frame on each topic."""
        found: dict[str, Any] = {}
        # By time; if the index has wrong times, by reading the whole file.
        for span_ns in ((moment.first_ns, moment.last_ns + 1), ()):
            for topic, _, message in self._messages(Counter(), [], *span_ns):
                if message_types.stamp_ns(message.header) == moment.stamp_ns:
                    found.setdefault(topic, message)
            if len(found) == len(self._topics):
                break
        return found


def _intrinsics(path: Path, image_topic: str) -> NDArray[np.float64] | None:
    recording = _recording(path)
    camera = image_topic.removesuffix("/compressed").rpartition("/")[0]
    topic = f"{camera}/camera_info"
    if topic not in recording.topics or recording.topics[topic].type != CAMERA_INFO:
        return None
    with suppress(TruncatedInputError, ImageError):
        for raw in recording.messages([topic]):
            matrix = np.array(deserialize(raw, CAMERA_INFO).k, np.float64).reshape(3, 3)
            is_usable = np.isfinite(matrix).all() and np.linalg.det(matrix) > 0
            return matrix if is_usable else None
    return None
