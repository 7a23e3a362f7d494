"""Recordings with truth, what a robot said of them, and a run whose numbers are known by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from written_recordings import CLASS_NAMES, HEIGHT, WIDTH, two_instances

from instaseg_ros.evaluation.overlaps import frame_counts
from instaseg_ros.fleet.parquet import write_rows
from instaseg_ros.fleet.rows import Facts, Rows
from instaseg_ros.frames import Frame, Instances, Result
from instaseg_ros.recordings import message_types, result_messages
from instaseg_ros.recordings.bags import DETECTIONS, IMAGE, BagWriter
from instaseg_ros.recordings.message_types import make_header
from instaseg_ros.samples import Sample

SECOND_NS = 1_000_000_000
STAMPS_NS = (0, 30 * SECOND_NS, 59 * SECOND_NS, 61 * SECOND_NS)
DIAGNOSTICS = "diagnostic_msgs/msg/DiagnosticArray"


def of_sample(sample: Sample) -> Instances:
    """The truth, as a perfect result."""
    count = len(sample.ids)
    zeros = np.zeros((count, 4), np.float32)
    return Instances(
        labels=sample.labels,
        ids=sample.ids,
        class_ids=sample.class_ids,
        scores=np.full(count, 0.75, np.float32),
        boxes_xyxy=zeros,
        centers_xy=zeros[:, :2],
        bandwidths=zeros[:, :2],
    )


def without(instances: Instances, label: int) -> Instances:
    """The instances without one of them."""
    labels = np.where(instances.labels == label, np.uint16(0), instances.labels)
    return replace(instances.rows(instances.ids != label), labels=labels)


def write_said(
    path: Path,
    results: Mapping[int, Instances],
    class_names: tuple[str, ...],
    latency_ms: float | None = None,
    diagnosis: Mapping[str, str] | None = None,
    node: str = "/instaseg_node",
    clock_ns: int = 0,
) -> Path:
    """A labelled recording of results by stamp; with a latency as a live recorder received them:
    the detections that much after the stamp, and the labels a millisecond before.

    clock_ns: what the recorder's clock is ahead of the stamps'; then it has the images too, which
    came at their stamp."""
    writer = BagWriter(path)
    writer.add_topic(f"{node}/labels", IMAGE)
    writer.add_topic(f"{node}/detections", DETECTIONS)
    if clock_ns:
        writer.add_topic("/image", IMAGE)
    if diagnosis is not None:
        writer.add_topic("/diagnostics", DIAGNOSTICS)
    for stamp_ns, instances in results.items():
        header = make_header(stamp_ns, "camera_front")
        labels = result_messages.labels_message(writer.msgs, header, instances.labels)
        said = result_messages.detections_message(writer.msgs, header, instances, class_names)
        received_ns = stamp_ns + clock_ns + round((latency_ms or 0.0) * 1e6)
        if clock_ns:
            picture = np.zeros((*instances.labels.shape, 3), np.uint8)
            image = result_messages.overlay_message(writer.msgs, header, picture)
            writer.write("/image", image, stamp_ns + clock_ns)
        writer.write(f"{node}/labels", labels, received_ns - (latency_ms is not None) * 1_000_000)
        writer.write(f"{node}/detections", said, received_ns)
    if diagnosis is not None:
        writer.write("/diagnostics", _diagnostics(diagnosis), max(results) + SECOND_NS)
    writer.close()
    return path


def _diagnostics(values: Mapping[str, str]) -> Any:
    types = message_types.typestore().types
    pair, status = (types[f"diagnostic_msgs/msg/{n}"] for n in ("KeyValue", "DiagnosticStatus"))
    pairs = [pair(key=key, value=value) for key, value in values.items()]
    one = status(
        level=0,
        name="/instaseg_node: instance segmentation",
        message="",
        hardware_id="",
        values=pairs,
    )
    return types[DIAGNOSTICS](header=make_header(0, ""), status=[one])


def write_hand_run(folder: Path, *, other: bool = False) -> Path:
    """A run of one recording `drive` with four frames of a car (200 pixels) and a person (225).

    At 0 s both are found; at 30 s the person is missed, and a car of 80 pixels is wrong; the frame
    of 59 s is dropped; at 61 s both are found, but the car has another id.
    other: at 30 s both are found and nothing else, at 61 s the person is missed.
    """
    rows = Rows("drive", CLASS_NAMES, CLASS_NAMES, tracking=True)
    truth = two_instances(0)
    renamed = replace(
        truth,
        labels=np.where(truth.labels == 300, np.uint16(301), truth.labels),
        ids=np.array([301, 7], np.uint16),
    )
    alone = without(truth, 7)
    extra = replace(
        alone,
        labels=np.array(alone.labels),
        ids=np.array([300, 9], np.uint16),
        class_ids=np.array([0, 0]),
        scores=np.array([0.9, 0.6], np.float32),
        boxes_xyxy=np.zeros((2, 4), np.float32),
        centers_xy=np.zeros((2, 2), np.float32),
        bandwidths=np.zeros((2, 2), np.float32),
    )
    extra.labels[:8, 40:50] = 9
    nothing = Instances.empty(HEIGHT, WIDTH)
    said = [truth, extra, nothing, renamed]
    if other:
        said = [truth, truth, nothing, without(renamed, 7)]
    facts = [Facts(latency_ms=40.0), Facts(latency_ms=60.0), Facts(True), Facts(latency_ms=80.0)]
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    order = np.argsort(truth.ids)
    for stamp_ns, result, fact in zip(STAMPS_NS, said, facts, strict=True):
        ids, class_ids = truth.ids[order], truth.class_ids[order]
        sample = Sample(Frame(image, stamp_ns), truth.labels, ids, class_ids)
        counts = frame_counts(truth.labels, ids, class_ids, result, min_pixels=1)
        rows.add(sample, Result(result), counts, fact)
    folder.mkdir()
    write_rows(folder / "drive.parquet", rows.tables(), {"recording": "drive.mcap"})
    return folder
