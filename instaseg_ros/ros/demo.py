"""Runs the demo: plays a recorded street over real DDS to the real node, and checks its output."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
from rclpy.serialization import deserialize_message
from std_msgs.msg import Header

from instaseg_ros.contract import written
from instaseg_ros.evaluation.metrics.average_precision import average_precision
from instaseg_ros.evaluation.overlaps import FrameCounts, frame_counts
from instaseg_ros.files import OutputFile
from instaseg_ros.frames import Instances
from instaseg_ros.recordings import result_messages
from instaseg_ros.recordings.bags import BagSource, BagWriter, Truth, read_truth, truth_topics
from instaseg_ros.recordings.image_messages import image_to_labels, image_to_rgb
from instaseg_ros.recordings.message_types import split_stamp
from instaseg_ros.recordings.storage import open_recording
from instaseg_ros.recordings.video import VideoFile
from instaseg_ros.ros.interfaces import message_class
from instaseg_ros.ros.messages import MESSAGES
from instaseg_ros.ros.node_process import node_process, stay_alone
from instaseg_ros.ros.peer import Peer
from instaseg_ros.visualization import contact_sheet

END_PATIENCE_S = 20.0  # for pending frames after the last was published
RECORDED = ("labels", "detections", "label_info", "overlay")
UNLABELLED = {  # our name: the diagnostics' name
    "frames_dropped": "images dropped while busy",
    "frames_lost": "images lost on the way",
    "frames_refused": "images refused",
    "frames_failed": "images failed",
}


def run_demo(bag: Path, out: Path, rate_hz: float, parameters: list[str]) -> dict[str, Any]:
    """Start a node, play the images of `bag` to it at `rate_hz`, and record what it publishes.

    parameters: `name:=value` for the node. Writes labelled.mcap (the recorded images and truth, and
    the node's messages, at the times when they were sent or received), overlay.mp4, overlay.png and
    summary.json to `out`, and returns the summary. Raises InstasegError if the node does not start.
    """
    out.mkdir(parents=True, exist_ok=True)
    stay_alone()
    writer = BagWriter(out / "labelled.mcap", overwrite=True)
    rclpy.init()
    peer = StreetPeer(writer)
    try:
        options = [part for one in parameters for part in ("-p", one)]
        with node_process(*options) as process:
            peer.wait_until_active(process)
            peer.play(bag, rate_hz)
            summary = peer.summary(list(read_truth(bag)))
            summary["node_rss_mb"] = _resident_mb(process.pid)
        summary["node_exit_code"] = process.returncode
        writer.close()
    except BaseException:
        writer.discard()
        raise
    finally:
        peer.destroy_node()  # otherwise its camera stays in the domain as long as this process
        rclpy.try_shutdown()
    _draw(out, peer.pictures(), rate_hz)
    told = {**written("demo"), **summary}
    (out / "summary.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return summary


class StreetPeer(Peer):
    """A camera on a street, and a recorder of everything the node publishes."""

    def __init__(self, writer: BagWriter) -> None:
        node = f"/{result_messages.NODE_NAME}"
        super().__init__("street_camera", (MESSAGES.Image, "image"), node, RECORDED, writer)
        self._writer = writer
        self._sent_s: dict[int, float] = {}
        self._latency_ms: dict[int, float] = {}
        self._received: dict[str, dict[int, Any]] = {name: {} for name in RECORDED}

    def play(self, bag: Path, rate_hz: float) -> None:
        """Publish every frame on time, then wait until each is labelled or accounted for."""
        source, recording = BagSource(bag), open_recording(bag)
        truth = truth_topics(bag, recording.topics)
        for topic in (source.topic, *truth):
            self._writer.add_topic(topic, recording.topics[topic].type)
        start, sent = time.monotonic(), 0
        for raw in recording.messages([source.topic, *truth]):
            if raw.topic == source.topic:
                frame = source.frame(raw)
                header = Header(frame_id=frame.frame_id)
                header.stamp.sec, header.stamp.nanosec = split_stamp(frame.stamp_ns)
                message = result_messages.overlay_message(MESSAGES, header, frame.image)
                self.spin_until(start + sent / rate_hz)
                self._sent_s[frame.stamp_ns] = time.monotonic()
                self.camera.publish(message)
                sent += 1
            self._writer.write_serialized(raw.topic, raw.cdr, time.time_ns())
        deadline = time.monotonic() + END_PATIENCE_S
        while not self._is_complete() and time.monotonic() < deadline:
            self.spin(0.1)

    def summary(self, truth: list[Truth]) -> dict[str, Any]:
        """The numbers of the run."""
        latency = list(self._latency_ms.values()) or [float("nan")]
        p50, p99 = np.percentile(latency, [50, 99]).tolist()
        (info,) = self._received["label_info"].values()
        names = [c.class_name for c in info.class_map]
        table = average_precision(self._counts(truth, names), names)
        return {
            "frames_published": len(self._sent_s),
            "frames_labelled": len(self._latency_ms),
            **self._unlabelled(),
            "latency_ms": {"p50": round(p50, 1), "p99": round(p99, 1)},
            "ap": round(table["mean"].ap, 4),
            "ap50": round(table["mean"].ap50, 4),
            "runtime": self.diagnosed.get("runtime", ""),
            "precision": self.diagnosed.get("precision", ""),
            "weights": self.diagnosed.get("weights", ""),
            "network_ms_p50": float(self.diagnosed.get("network p50 (ms)", "nan")),
            "decode_ms_p50": float(self.diagnosed.get("decode p50 (ms)", "nan")),
        }

    def pictures(self) -> list[np.ndarray]:
        """The overlays received, (H, W, 3) uint8 RGB, in order of their stamps."""
        overlays = self._received["overlay"]
        return [image_to_rgb(overlays[stamp_ns]) for stamp_ns in sorted(overlays)]

    def _counts(self, truth: list[Truth], names: list[str]) -> list[FrameCounts]:
        counts = []
        labels, detections = self._received["labels"], self._received["detections"]
        for one in truth:
            if one.stamp_ns not in labels or one.stamp_ns not in detections:
                continue  # dropped, and counted as such
            found = _instances(labels[one.stamp_ns], detections[one.stamp_ns], names)
            ids = np.array(sorted(one.class_names), np.uint16)
            class_ids = np.array([names.index(one.class_names[int(i)]) for i in ids], np.int64)
            unknown = (one.labels > 0) & ~np.isin(one.labels, ids)  # objects without a class
            counts.append(frame_counts(one.labels, ids, class_ids, found, ignore=unknown))
        return counts

    def _unlabelled(self) -> dict[str, int]:
        return {ours: int(self.diagnosed.get(name, 0)) for ours, name in UNLABELLED.items()}

    def _is_complete(self) -> bool:
        labelled = min(len(self._received[name]) for name in ("labels", "detections", "overlay"))
        return labelled + sum(self._unlabelled().values()) >= len(self._sent_s)

    def receive(self, output: str, topic: str, data: bytes) -> None:
        """Keep it, and tell what it took."""
        arrival_s = time.monotonic()
        message = deserialize_message(data, message_class(result_messages.TOPICS[output].type))
        stamp = message.header.stamp
        stamp_ns = stamp.sec * 1_000_000_000 + stamp.nanosec
        if output == "labels" and stamp_ns in self._sent_s:
            self._latency_ms[stamp_ns] = (arrival_s - self._sent_s[stamp_ns]) * 1e3
        self._received[output][stamp_ns] = message
        self._writer.write_serialized(topic, data, time.time_ns())


def _instances(labels: Any, detections: Any, names: list[str]) -> Instances:
    """Instances from the node's two messages about one image."""
    best = [d.results[0].hypothesis for d in detections.detections]
    image = image_to_labels(labels)
    return dataclasses.replace(
        Instances.empty(*image.shape),
        labels=image,
        ids=np.array([int(d.id) for d in detections.detections], np.uint16),
        class_ids=np.array([names.index(b.class_id) for b in best], np.int64),
        scores=np.array([b.score for b in best], np.float32),
    )


def _resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return round(int(line.split()[1]) / 1024, 1)


def _draw(out: Path, pictures: list[np.ndarray], rate_hz: float) -> None:
    """Write overlay.mp4, and nine of its frames in overlay.png."""
    if not pictures:
        return
    output = OutputFile(out / "overlay.mp4", overwrite=True)
    video = VideoFile(output.part)
    for i, picture in enumerate(pictures):
        video.write(picture, round(i * 1e9 / rate_hz))
    video.close()
    output.commit()
    chosen = np.linspace(0, len(pictures) - 1, min(9, len(pictures))).astype(int)
    sheet = contact_sheet([pictures[i] for i in chosen], 3)
    half = cv2.resize(sheet, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(out / "overlay.png"), half[..., ::-1])


def accounted(summary: dict[str, Any]) -> bool:
    """Whether the node labelled every published frame or counted it as dropped."""
    dropped = summary["frames_dropped"] + summary["frames_lost"]
    return bool(summary["frames_labelled"] + dropped == summary["frames_published"])
