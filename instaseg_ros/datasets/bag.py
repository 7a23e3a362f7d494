"""Reads recordings with ground truth, as the synthetic street's export writes them."""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.config import DepthConfig
from instaseg_ros.datasets.border import reads_files
from instaseg_ros.errors import ImageError, InputError, TruncatedInputError
from instaseg_ros.frames import Frame
from instaseg_ros.recordings.bags import (
    CAMERA_INFO,
    TO_LABELS,
    TO_RGB,
    BagSource,
    class_by_label,
    counted,
    deserialize,
    info_beside,
    truth_topics,
)
from instaseg_ros.recordings.by_stamp import MessagesByStamp, nearest, opened
from instaseg_ros.recordings.depth_images import Depth, with_depth
from instaseg_ros.recordings.image_messages import AS_IT_COMES
from instaseg_ros.samples import Sample, present_ids

log = logging.getLogger(__name__)


class _Moment(NamedTuple):
    """A labelled frame: the stamps of its image, of its truth, and of its depth if there is any."""

    image_ns: int
    truth_ns: int
    depth_ns: int | None


class LabelledBag:
    """The frames of `image` that have `ground_truth/labels` and `ground_truth/detections`, in any
    namespace, raw or compressed; ordered by stamp.

    topic: of the images; None if there is only one candidate. truth: another recording that has the
    truth, where a single pair `.../labels` and `.../detections` will do; None: the same. Labels and
    detections have the same stamp; it is at most `tolerance_ms` from that of the image, and each
    belongs to one image only.
    depth: topic of depth images, at most `slop_ms` from the image; None: frames have no depth.
    Classes are those of the detections, by name; intrinsics come from the first message on
    `camera_info` beside the images, which are assumed undistorted, or are unknown.

    images: number of images in the recording, with truth or not; remarks: what is missing, broken
    or unusable in the recording, in words. An object without a usable class is ignored.
    """

    def __init__(
        self,
        path: str | Path,
        topic: str | None = None,
        truth: str | Path | None = None,
        tolerance_ms: float = 0.0,
        depth: str | None = None,
        slop_ms: float = DepthConfig().slop_ms,
    ) -> None:
        self._path = Path(path)
        truth_path = self._path if truth is None else Path(truth)
        self._truth = truth_topics(truth_path, opened(truth_path).topics, truth is not None)
        self._topic, self._depth = BagSource(path, topic).topic, depth
        if depth is not None:
            BagSource(path, depth)  # raises if there is no such topic
        self._intrinsics = _intrinsics(self._path, self._topic)
        names: set[str] = set()
        left_out: Counter[str] = Counter()

        def see(topic: str, _: int, message: Any) -> None:
            if topic == self._truth[1]:
                names.update(class_by_label(message, left_out).values())

        of_images = [self._topic] if depth is None else [self._topic, depth]
        if truth_path == self._path:
            self._images = MessagesByStamp(self._path, [*of_images, *self._truth], see)
            self._truths = self._images
            sources = [self._images]
        else:
            self._images = MessagesByStamp(self._path, of_images)
            self._truths = MessagesByStamp(truth_path, self._truth, see)
            sources = [self._images, self._truths]
        left_out.update(sum((one.left_out for one in sources), Counter()))
        self.class_names = tuple(sorted(names))
        self._moments, unmatched = self._matched(tolerance_ms, slop_ms)
        self.images = len(self._images.received[self._topic])
        self.remarks = (
            *(sentence for one in sources for sentence in one.broken),
            *([f"left out: {counted(left_out)}"] if left_out else []),
        )
        expected = ""
        if not self._moments:
            expected = "an image, labels and detections of one stamp"
            if tolerance_ms:
                expected = f"an image within {tolerance_ms:g} ms of labels and detections"
        elif left_out and not names:
            expected = "detections with a label value as id, and with a class"
        if expected:
            raise InputError(
                f"bag {path}: expected {expected}, found none on "
                f"{', '.join((self._topic, *self._truth))}"
                + "".join(f"; {remark}" for remark in self.remarks)
            )
        self.remarks += tuple(unmatched)

    def _matched(self, tolerance_ms: float, slop_ms: float) -> tuple[list[_Moment], list[str]]:
        """The frames with truth, and what has no counterpart, in words."""
        images = sorted(self._images.received[self._topic])
        labels, detections = (self._truths.received[topic] for topic in self._truth)
        truths = sorted(labels.keys() & detections.keys())
        partners = nearest(images, truths, round(tolerance_ms * 1e6))
        depths: list[int] = []
        if self._depth is not None:
            depths = sorted(self._images.received[self._depth])
        away = nearest(images, depths, round(slop_ms * 1e6))
        pairs = zip(images, partners, away, strict=True)
        moments = [
            _Moment(i, truths[t], None if d < 0 else depths[d]) for i, t, d in pairs if t >= 0
        ]
        within = f" within {tolerance_ms:g} ms" if tolerance_ms else " of the same stamp"
        bare = 0 if self._depth is None else sum(m.depth_ns is None for m in moments)
        counts = (
            (len(images) - len(moments), f"of {len(images)} images have no truth{within}"),
            (len(truths) - len(moments), f"of {len(truths)} truths have no image{within}"),
            (bare, f"of {len(moments)} frames have no depth image within {slop_ms:g} ms"),
        )
        return moments, [f"{count} {what}" for count, what in counts if count]

    def __len__(self) -> int:
        return len(self._moments)

    def stamp_ns(self, index: int) -> int:
        """The stamp of a frame's image."""
        return self._moments[index].image_ns

    def files(self, index: int) -> tuple[Path, ...]:
        return tuple(dict.fromkeys((self._path, self._truths.path)))

    def sequence(self, index: int) -> str:
        return self._path.stem

    @reads_files
    def __getitem__(self, index: int) -> Sample:
        moment = self._moments[index]
        what = f"bag {self._path}, frame of {moment.image_ns / 1e9:.3f} s"
        image, labels, detections, depth = self._messages_of(moment, what)
        to_rgb = TO_RGB[opened(self._path).topics[self._topic].type]
        to_labels = TO_LABELS[opened(self._truths.path).topics[self._truth[0]].type]
        try:
            pixels = to_rgb(image)
            truth = to_labels(labels)
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
            moment.image_ns,
            image.header.frame_id,
            intrinsics=self._intrinsics,
            received_ns=self._images.received[self._topic][moment.image_ns],
        )
        if depth is not None:
            frame = self._with_depth(frame, depth, what)
        return Sample(frame, truth, ids, np.array(class_ids, np.int64), ignore)

    def _messages_of(self, moment: _Moment, what: str) -> tuple[Any, Any, Any, Any]:
        """Image, labels, detections and depth (None without) of a frame."""
        images, truths = {self._topic: moment.image_ns}, dict.fromkeys(self._truth, moment.truth_ns)
        if self._depth is not None and moment.depth_ns is not None:
            images[self._depth] = moment.depth_ns
        if self._truths is self._images:
            found = self._images.find({**images, **truths})
        else:
            found = {**self._images.find(images), **self._truths.find(truths)}
        if len(found) < len({**images, **truths}):
            raise InputError(f"{what}: it is gone; did the file change?")
        needed = (found[topic] for topic in (self._topic, *self._truth))
        return (*needed, found.get(self._depth or ""))

    def _with_depth(self, frame: Frame, message: Any, what: str) -> Frame:
        """The frame with its depth; without, and a warning, if that cannot be used."""
        info = _depth_info(self._path, self._depth or "")
        try:
            return with_depth(frame, Depth(message, info), AS_IT_COMES, _no_transforms)
        except ImageError as error:
            log.warning("%s: no depth: %s", what, error)
            return replace(frame, depth=None)


def _no_transforms(target: str, source: str) -> tuple[None, str]:
    return None, "evaluation does not read /tf"


@lru_cache(maxsize=4)
def _depth_info(path: Path, topic: str) -> Any:
    return info_beside(opened(path), topic)


def _intrinsics(path: Path, image_topic: str) -> NDArray[np.float64] | None:
    recording = opened(path)
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
