"""Reads what a node said from a labelled recording: its labels and detections, when they came, and
what it said of itself on /diagnostics."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from instaseg_ros.errors import ImageError, InputError, TruncatedInputError
from instaseg_ros.frames import Instances
from instaseg_ros.recordings.bags import (
    TO_LABELS,
    BagSource,
    class_by_label,
    counted,
    deserialize,
    said_topics,
)
from instaseg_ros.recordings.by_stamp import MessagesByStamp, opened
from instaseg_ros.samples import class_name, present_ids

DIAGNOSTICS = "diagnostic_msgs/msg/DiagnosticArray"
LABEL_INFO = "vision_msgs/msg/LabelInfo"
# What the node counts on /diagnostics, by the names of `ros/diagnostics.py`.
COUNTS = {
    "images received": "received",
    "images labelled": "labelled",
    "images dropped while busy": "dropped",
    "images lost on the way": "lost",
    "images refused": "refused",
    "images failed": "failed",
}
FROM_STAMP, FROM_IMAGE = "stamp", "receipt of the image"
MOST_LATENCY_S = 60.0  # more is the difference of two clocks


class Diagnosed(NamedTuple):
    """What a node said last of itself. counts: images by `COUNTS`' values, since the node started.
    latency_ms: (p50, p99) by stage."""

    counts: dict[str, int]
    latency_ms: dict[str, tuple[float, float]]


class RecordedResults:
    """The results in a labelled recording, by the stamp of their image.

    labels: topic of the labels; None if there is only one node and camera. class_names: of its
    `label_info`, and of the detections. latency_ms: by stamp, from `latency_from` to receipt of the
    last of labels and detections. That is the stamp, or where stamps and recorder have different
    clocks the receipt of the image, if it was recorded too. Empty if the recording was not made
    live (labels and detections came at one time, as `instaseg replay` writes them), or neither is
    known.
    diagnosed: None without /diagnostics. remarks: what is missing or unusable, in words.
    """

    def __init__(self, path: str | Path, labels: str | None = None) -> None:
        self.path = Path(path)
        topics = opened(self.path).topics
        self.topics = said_topics(path, topics, labels)
        left_out: Counter[str] = Counter()
        names: dict[str, None] = dict.fromkeys(_label_info(self.path, self.topics[0]))

        def see(topic: str, _: int, message: Any) -> None:
            if topic == self.topics[1]:
                names.update(dict.fromkeys(class_by_label(message, left_out).values()))

        self._messages = MessagesByStamp(self.path, self.topics, see)
        left_out.update(self._messages.left_out)
        self.class_names = tuple(names)
        of_labels, of_detections = (self._messages.received[topic] for topic in self.topics)
        self.stamps = sorted(of_labels.keys() & of_detections.keys())
        apart = len(of_labels.keys() ^ of_detections.keys())
        if apart:
            left_out["labels or detections without the other"] = apart
        self.remarks = (
            *self._messages.broken,
            *([f"left out: {counted(left_out)}"] if left_out else []),
        )
        if not self.stamps:
            raise InputError(
                f"bag {path}: expected labels and detections of one stamp, found none on "
                f"{', '.join(self.topics)}" + "".join(f"; {remark}" for remark in self.remarks)
            )
        came = {stamp: max(of_labels[stamp], of_detections[stamp]) for stamp in self.stamps}
        self.latency_from = FROM_STAMP
        self.latency_ms: dict[int, float] = {}
        if any(of_labels[stamp] != of_detections[stamp] for stamp in self.stamps):
            self.latency_ms, why = _latencies(came, {stamp: stamp for stamp in self.stamps})
            if why and (images := _received_images(self.path, self.topics[0])):
                self.latency_from = FROM_IMAGE
                self.latency_ms, why = _latencies(came, images)
            self.remarks += (why,) if why else ()
        self.diagnosed = _diagnosed(self.path, _node_of(self.topics[0]))

    def at(self, stamp_ns: int) -> Instances | None:
        """The instances with this stamp; None if there was no result. Class ids are indices into
        `class_names`. Raises ImageError for labels that cannot be read."""
        labels_ns = self._messages.received[self.topics[0]].get(stamp_ns)
        if labels_ns is None or stamp_ns not in self._messages.received[self.topics[1]]:
            return None
        found = self._messages.find(dict.fromkeys(self.topics, stamp_ns))
        if len(found) < len(self.topics):
            raise InputError(
                f"bag {self.path}, labels of {stamp_ns / 1e9:.3f} s: gone; did the file change?"
            )
        image, detections = (found[topic] for topic in self.topics)
        labels = TO_LABELS[opened(self.path).topics[self.topics[0]].type](image)
        return _instances(np.asarray(labels), detections, self.class_names)


def _instances(labels: np.ndarray, detections: Any, class_names: tuple[str, ...]) -> Instances:
    """The instances that have pixels and a detection; other pixels become background."""
    class_of = class_by_label(detections, Counter())
    messages = {int(one.id): one for one in detections.detections if _is_label(one.id, class_of)}
    present = present_ids(labels)
    ids = present[np.isin(present, list(class_of))]
    if len(ids) < len(present):
        labels = np.where(np.isin(labels, ids), labels, np.uint16(0))
    ours = [messages[label] for label in ids.tolist()]
    scores = [max((r.hypothesis.score for r in one.results), default=0.0) for one in ours]
    boxes = [
        (
            one.bbox.center.position.x - one.bbox.size_x / 2,
            one.bbox.center.position.y - one.bbox.size_y / 2,
            one.bbox.center.position.x + one.bbox.size_x / 2,
            one.bbox.center.position.y + one.bbox.size_y / 2,
        )
        for one in ours
    ]
    sides = np.array(boxes, np.float32).reshape(-1, 4)
    return Instances(
        labels=np.array(labels, np.uint16),
        ids=ids,
        class_ids=np.array([class_names.index(class_of[i]) for i in ids.tolist()], np.int64),
        scores=np.nan_to_num(np.array(scores, np.float32)).clip(0, 1),
        boxes_xyxy=sides,
        centers_xy=((sides[:, :2] + sides[:, 2:]) / 2).astype(np.float32),
        bandwidths=np.zeros((len(ids), 2), np.float32),
    )


def _is_label(text: str, class_of: Mapping[int, str]) -> bool:
    return text.isdecimal() and len(text) <= 14 and int(text) in class_of


def _latencies(came: Mapping[int, int], since: Mapping[int, int]) -> tuple[dict[int, float], str]:
    """Milliseconds by stamp, or nothing and the reason. came, since: nanoseconds by stamp."""
    found = {s: (time_ns - since[s]) / 1e6 for s, time_ns in came.items() if s in since}
    median_s = float(np.median(list(found.values()))) / 1e3 if found else math.nan
    if 0 <= median_s <= MOST_LATENCY_S:
        return found, ""
    return {}, (
        f"latency is unknown: labels were received {median_s:.3f} s after their image's stamp "
        "(median), so that stamps and recorder have different clocks"
    )


def _received_images(path: Path, labels: str) -> dict[int, int]:
    """When the images of the only camera in the recording were received, by stamp; empty if there
    is none, or several."""
    with suppress(InputError):
        topic = BagSource(path).topic
        if topic != labels:
            return MessagesByStamp(path, [topic]).received[topic]
    return {}


def _label_info(path: Path, labels: str) -> tuple[str, ...]:
    """The class names on `label_info` beside the labels, by index; empty if there are none."""
    topic = labels.removesuffix("/compressed").removesuffix("labels") + "label_info"
    found = opened(path).topics.get(topic)
    if found is None or found.type != LABEL_INFO:
        return ()
    with suppress(TruncatedInputError, ImageError, TypeError):
        for raw in opened(path).messages([topic]):
            classes = deserialize(raw, LABEL_INFO).class_map
            ordered = sorted(classes, key=lambda one: one.class_id)
            return tuple(class_name(one.class_name) for one in ordered)
    return ()


def _node_of(labels: str) -> str:
    """`/instaseg_node/front/labels` -> `instaseg_node/front`."""
    return labels.removesuffix("/compressed").removesuffix("labels").strip("/")


def _diagnosed(path: Path, node: str) -> Diagnosed | None:
    """The last diagnosis with counts of images, of the status whose name has the node's in it, or
    else of the only one that has them."""
    found: dict[str, dict[str, str]] = {}
    for name, values in _statuses(path):
        if next(iter(COUNTS)) in values:
            found[name] = values
    words = node.replace("/", " ").split()
    named = [n for n in found if all(word in n.replace("/", " ") for word in words)]
    chosen = found[named[0]] if named else next(iter(found.values()), None)
    if chosen is None or (not named and len(found) > 1):
        return None
    counts = {
        ours: n for text, ours in COUNTS.items() if (n := _number(chosen.get(text))) is not None
    }
    stages = [key.removesuffix(" p50 (ms)") for key in chosen if key.endswith(" p50 (ms)")]
    latency_ms = {}
    for stage in stages:
        both = [_number(chosen.get(f"{stage} p{q} (ms)")) for q in (50, 99)]
        if both[0] is not None and both[1] is not None:
            latency_ms[stage] = both[0], both[1]
    known = {name: int(n) for name, n in counts.items() if n is not None}
    return Diagnosed(known, latency_ms)


def _statuses(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Name and values of every status on /diagnostics."""
    recording = opened(path)
    topics = [name for name, topic in recording.topics.items() if topic.type == DIAGNOSTICS]
    with suppress(TruncatedInputError):
        for raw in recording.messages(topics) if topics else ():
            with suppress(ImageError):
                for one in deserialize(raw, DIAGNOSTICS).status:
                    yield one.name, {pair.key: pair.value for pair in one.values}


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
