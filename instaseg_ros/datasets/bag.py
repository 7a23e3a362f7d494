"""Recordings that carry their truth, as the synthetic street's export writes them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from instaseg_ros import bag_types
from instaseg_ros.bag_storage import open_recording
from instaseg_ros.bags import (
    CAMERA_INFO,
    DETECTIONS,
    TO_LABELS,
    TO_RGB,
    BagSource,
    deserialize,
    truth_topic,
)
from instaseg_ros.errors import ImageError, InputError
from instaseg_ros.types import Frame

from .border import reads_files
from .sample import Sample, present_ids

# By path, not in the dataset, which is sent to the processes that load training data.
_recording = lru_cache(maxsize=4)(open_recording)


class _Moment(NamedTuple):
    """A labelled frame: its stamp, and when the first and last of its messages were received."""

    stamp_ns: int
    first_ns: int
    last_ns: int


class LabelledBag:
    """The frames of `image` that have `ground_truth/labels` and `ground_truth/detections` of their
    stamp, under any namespace, raw or compressed; in order of stamp.

    topic: of the images; None where one is unmistakable. Classes are those of the detections, by
    name; intrinsics those of the first message on `camera_info` beside the images, which are taken
    for undistorted, or unknown. Opening reads the recording once for the stamps and keeps nothing
    else; a frame is found by time then, in a file with an index (one whose recorder was killed is
    read from its start).
    """

    def __init__(self, path: str | Path, topic: str | None = None) -> None:
        self._path = Path(path)
        topics = _recording(self._path).topics
        self._truth = (
            truth_topic(path, topics, "labels", tuple(TO_LABELS)),
            truth_topic(path, topics, "detections", (DETECTIONS,)),
        )
        self._topics = (BagSource(path, topic).topic, *self._truth)
        self._intrinsics = _intrinsics(self._path, self._topics[0])
        received: dict[int, dict[str, int]] = {}  # by stamp and topic
        names: set[str] = set()
        for name, received_ns, message in self._messages():
            received.setdefault(bag_types.stamp_ns(message.header), {})[name] = received_ns
            if name == self._truth[1]:
                names.update(_classes(message).values())
        self.class_names = tuple(sorted(names))
        self._moments = [
            _Moment(stamp_ns, min(times.values()), max(times.values()))
            for stamp_ns, times in sorted(received.items())
            if len(times) == len(self._topics)
        ]
        if not self._moments:
            raise InputError(
                f"bag {path}: expected an image, labels and detections of one stamp, found none on "
                f"{', '.join(self._topics)}"
            )

    def _messages(self, *span_ns: int) -> Iterator[tuple[str, int, Any]]:
        """Topic, time of receipt and message. Raises InputError."""
        recording = _recording(self._path)
        for raw in recording.messages(self._topics, *span_ns):
            try:
                message = deserialize(raw, recording.topics[raw.topic].type)
            except ImageError as error:
                raise InputError(f"bag {self._path}: {error}") from error
            yield raw.topic, raw.received_ns, message

    def __len__(self) -> int:
        return len(self._moments)

    def files(self, index: int) -> tuple[Path]:
        return (self._path,)

    def sequence(self, index: int) -> str:
        return self._path.stem

    @reads_files
    def __getitem__(self, index: int) -> Sample:
        moment = self._moments[index]
        found = {
            topic: message
            for topic, _, message in self._messages(moment.first_ns, moment.last_ns + 1)
            if bag_types.stamp_ns(message.header) == moment.stamp_ns
        }
        types = _recording(self._path).topics
        image, labels, detections = (found[topic] for topic in self._topics)
        what = f"bag {self._path}, frame of {moment.stamp_ns / 1e9:.3f} s"
        try:
            pixels = TO_RGB[types[self._topics[0]].type](image)
            truth = TO_LABELS[types[self._topics[1]].type](labels)
        except ImageError as error:
            raise InputError(f"{what}: {error}") from error
        ids, class_of = present_ids(truth), _classes(detections)
        unknown = set(ids.tolist()) - class_of.keys()
        if unknown or truth.shape != pixels.shape[:2]:
            raise InputError(
                f"{what}: expected labels of {pixels.shape[:2]} pixels with a detection each, "
                f"found {truth.shape} pixels, and {sorted(unknown)} without one"
            )
        class_ids = [self.class_names.index(class_of[i]) for i in ids.tolist()]
        stamp_ns, name = moment.stamp_ns, image.header.frame_id
        frame = Frame(np.array(pixels), stamp_ns, name, intrinsics=self._intrinsics)
        return Sample(frame, np.array(truth), ids, np.array(class_ids, np.int64))


def _intrinsics(path: Path, image_topic: str) -> NDArray[np.float64] | None:
    recording = _recording(path)
    camera = image_topic.removesuffix("/compressed").rpartition("/")[0]
    topic = f"{camera}/camera_info"
    if topic not in recording.topics or recording.topics[topic].type != CAMERA_INFO:
        return None
    for raw in recording.messages([topic]):
        matrix = np.array(deserialize(raw, CAMERA_INFO).k, np.float64).reshape(3, 3)
        return matrix if matrix[0, 0] else None
    return None


def _classes(detections: Any) -> dict[int, str]:
    """Name of the class by label value."""
    return {int(d.id): d.results[0].hypothesis.class_id for d in detections.detections}
