"""Replays a recording live: plays it over DDS to the real node, at recorded speed, and compares
what the node says with the labels of an offline replay."""

from __future__ import annotations

import logging
import math
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import yaml
from sensor_msgs.msg import CameraInfo

from instaseg_ros.config import Config, plain
from instaseg_ros.contract import written
from instaseg_ros.errors import TruncatedInputError
from instaseg_ros.frames import Frame
from instaseg_ros.pipeline import Pipeline
from instaseg_ros.recordings import result_messages
from instaseg_ros.recordings.bags import COMPRESSED, BagSource, BagWriter, info_topic_beside
from instaseg_ros.recordings.live_comparison import Difference, LiveComparison
from instaseg_ros.recordings.playback import Timeline, read_ahead
from instaseg_ros.recordings.recorded_results import COUNTS, RecordedResults
from instaseg_ros.recordings.recording import RawMessage
from instaseg_ros.recordings.replay import replay
from instaseg_ros.recordings.storage import open_recording
from instaseg_ros.ros.camera import MESSAGE_CLASSES
from instaseg_ros.ros.command import ros
from instaseg_ros.ros.input import SUFFIX
from instaseg_ros.ros.live.observed import read_header
from instaseg_ros.ros.node_process import node_process, stay_alone
from instaseg_ros.ros.parameter_file import node_parameters
from instaseg_ros.ros.peer import Peer
from instaseg_ros.ros.qos import RESULTS

SPACE = "/instaseg_replay"  # namespace of node and camera, so that no robot hears them
NODE = f"{SPACE}/{result_messages.NODE_NAME}"
HEARD = ("labels", "detections", "label_info")
END_PATIENCE_S = 20.0  # for pending frames after the last was published
CALLBACKS = 8  # more than an image brings
NO_ANSWER = ("dropped", "lost", "refused", "failed")

log = logging.getLogger(__name__)


class Options(NamedTuple):
    """What to play. topic: of the images; None for the only one. rate: recorded seconds per second.
    limit: only so many frames. output: a name for the recording of what the node said; None: it is
    not kept."""

    topic: str | None = None
    rate: float = 1.0
    limit: int | None = None
    output: Path | None = None
    overwrite: bool = False


class Outcome(NamedTuple):
    """The result of a live replay.

    published: stamps of the frames, nanoseconds. ambiguous: stamps of several frames each, which
    are not compared. counts: the node's own of frames that it gave no answer to, by NO_ANSWER.
    latency_ms: from publishing an image to receiving the later of labels and detections, by stamp.
    compared, differences: answered frames compared with the offline replay, those that differ.
    engine: the node's runtime and precision. broken: why the recording ended too early.
    """

    topic: str
    published: list[int]
    ambiguous: list[int]
    counts: dict[str, int]
    latency_ms: dict[int, float]
    compared: int
    differences: list[Difference]
    engine: dict[str, str]
    node_exit_code: int | None
    broken: TruncatedInputError | None

    @property
    def unanswered(self) -> list[int]:
        """Stamps of the frames without labels."""
        return [stamp_ns for stamp_ns in self.published if stamp_ns not in self.latency_ms]

    @property
    def unaccounted(self) -> int:
        """Frames without labels that the node did not count either."""
        return max(0, len(self.unanswered) - sum(self.counts.values()))

    @property
    def agrees(self) -> bool:
        """Whether the node answered, and every answer is that of the offline replay."""
        return bool(self.compared) and not self.differences and not self.unaccounted


def replay_live(path: str | Path, config: Config, options: Options) -> Outcome:
    """Play the recording to a node with this configuration, then replay the frames that it answered
    offline, in the same order, and compare.

    So a tracker, or a network with a memory, has seen the same frames in both, and ids agree too.
    Raises InputError for a recording without images, InstasegError if the node does not start.
    """
    source = BagSource(path, options.topic, config.input)
    stay_alone()
    with TemporaryDirectory(prefix="instaseg_live_") as folder:
        writer = BagWriter(options.output or Path(folder) / "live.mcap", options.overwrite)
        try:
            parameters = Path(folder) / "node.yaml"
            parameters.write_text(_parameter_file(config, source.type), encoding="utf-8")
            with _node_and_peer(parameters, source, writer) as (process, peer):
                peer.wait_until_active(process)
                peer.play(path, options)
        except BaseException:
            writer.discard()
            raise
        writer.close()
        live = RecordedResults(writer.path, f"{NODE}/labels") if peer.latency_ms else None
        comparison = _compare(source, live, config, peer.ambiguous) if live else None
    return Outcome(
        topic=source.topic,
        published=list(peer.sent),
        ambiguous=sorted(peer.ambiguous),
        counts={name: peer.counts[name] for name in NO_ANSWER},
        latency_ms=peer.latency_ms,
        compared=comparison.compared if comparison else 0,
        differences=comparison.differences if comparison else [],
        engine={name: peer.diagnosed.get(name, "") for name in ("runtime", "precision")},
        node_exit_code=process.returncode,
        broken=peer.broken,
    )


def facts(outcome: Outcome, path: str | Path, config: Config, rate: float) -> dict[str, Any]:
    """The outcome as plain data, for JSON."""
    return {
        **written("live replay"),
        "recording": str(path),
        "topic": outcome.topic,
        "rate": rate,
        "weights": config.weights,
        "tracking": config.tracking.enabled,
        **outcome.engine,
        "agrees": outcome.agrees,
        "frames": {
            "published": len(outcome.published),
            "answered": len(outcome.latency_ms),
            **outcome.counts,
            "unaccounted": outcome.unaccounted,
            "ambiguous": len(outcome.ambiguous),
            "compared": outcome.compared,
            "equal": outcome.compared - len(outcome.differences),
        },
        "latency_ms": percentiles(list(outcome.latency_ms.values())),
        "first_stamp_ns": outcome.published[0] if outcome.published else 0,
        "unanswered_stamps_ns": outcome.unanswered,
        "differences": [
            {
                "stamp_ns": one.stamp_ns,
                "pixels": one.pixels,
                "ids": list(one.ids),
                "live_size": one.size and list(one.size),
            }
            for one in outcome.differences
        ],
        "node_exit_code": outcome.node_exit_code,
        "broken": outcome.broken and str(outcome.broken),
    }


def percentiles(latency_ms: list[float]) -> dict[str, float]:
    """p50, p99 and maximum; NaN without any."""
    values = latency_ms or [math.nan]
    p50, p99, most = np.percentile(values, [50, 99, 100]).tolist()
    return {"p50": round(p50, 1), "p99": round(p99, 1), "max": round(most, 1)}


def _parameter_file(config: Config, image_type: str) -> str:
    """The configuration as a node's parameters; one camera, with the transport of this type."""
    values = {leaf.name: plain(leaf.value) for leaf in node_parameters(config)}
    values |= {
        "cameras": [""],
        "node.image_transport": "compressed" if image_type == COMPRESSED else "raw",
    }
    return yaml.safe_dump({"/**": {"ros__parameters": values}})


@contextmanager
def _node_and_peer(
    parameters: Path, source: BagSource, writer: BagWriter
) -> Iterator[tuple[subprocess.Popen[bytes], ReplayPeer]]:
    with ros():
        peer = ReplayPeer(source, writer)
        try:
            options = ("--params-file", str(parameters), "-r", f"__ns:={SPACE}")
            with node_process(*options) as process:
                yield process, peer
        finally:
            peer.destroy_node()


class ReplayPeer(Peer):
    """The camera of the recording, and a recorder of what the node says.

    sent: when each image was published, by stamp, seconds. ambiguous: stamps of several images.
    latency_ms: by stamp, of images with labels and detections. broken: why the recording ended too
    early.
    """

    def __init__(self, source: BagSource, writer: BagWriter) -> None:
        transport = "compressed" if source.type == COMPRESSED else "raw"
        image = f"{SPACE}/image{SUFFIX if transport == 'compressed' else ''}"
        camera = MESSAGE_CLASSES[transport], image
        super().__init__("instaseg_replay_camera", camera, NODE, HEARD, writer)
        self.sent: dict[int, float] = {}
        self.ambiguous: set[int] = set()
        self.latency_ms: dict[int, float] = {}
        self.broken: TruncatedInputError | None = None
        self._writer, self._source = writer, source
        self._heard: dict[str, set[int]] = {name: set() for name in HEARD}
        self._info = self.create_publisher(CameraInfo, f"{SPACE}/camera_info", RESULTS)

    @property
    def counts(self) -> dict[str, int]:
        """What the node counted."""
        return {name: int(self.diagnosed.get(text, 0)) for text, name in COUNTS.items()}

    def play(self, path: str | Path, options: Options) -> None:
        """Publish every image on time, then wait until each is labelled or accounted for."""
        recording = open_recording(path)
        info = info_topic_beside(self._source.topic)
        timeline, count = None, 0
        messages = read_ahead(recording.messages([self._source.topic, info]))
        try:
            for raw in messages:
                if raw.topic == info:
                    self._info.publish(bytes(raw.cdr))
                    continue
                if count == options.limit:
                    break
                timeline = timeline or Timeline(raw.received_ns, time.monotonic(), options.rate)
                self._receive_until(timeline.due_s(raw.received_ns))
                self._publish(raw)
                count += 1
        except TruncatedInputError as error:
            self.broken = error
        deadline = time.monotonic() + END_PATIENCE_S
        while not self._is_complete() and time.monotonic() < deadline:
            self.spin(0.1)

    def _publish(self, raw: RawMessage) -> None:
        try:
            data = bytes(raw.cdr)
            stamp_ns, _, _ = read_header(data)
        except Exception as error:  # from zstandard, ValueError, ... depending on the damage
            log.warning("an image of %s is left out: %s", raw.topic, error)
            return
        if stamp_ns in self.sent:
            self.ambiguous.add(stamp_ns)
        self.sent[stamp_ns] = time.monotonic()
        self.camera.publish(data)

    def _is_complete(self) -> bool:
        unanswered = sum(self.counts[name] for name in NO_ANSWER)
        return len(self.latency_ms) + unanswered >= len(self.sent)

    def _receive_until(self, moment_s: float) -> None:
        """Receive until then, and where it is late already, what has come."""
        for _ in range(CALLBACKS):
            self.spin(0)
        self.spin_until(moment_s)

    def receive(self, output: str, topic: str, data: bytes) -> None:
        """Keep it, and tell what it took."""
        arrival_s = time.monotonic()
        self._writer.write_serialized(topic, data, time.time_ns())
        stamp_ns, _, _ = read_header(data)
        self._heard[output].add(stamp_ns)
        answered = stamp_ns in self._heard["labels"] and stamp_ns in self._heard["detections"]
        if answered and stamp_ns in self.sent and output != "label_info":
            self.latency_ms[stamp_ns] = (arrival_s - self.sent[stamp_ns]) * 1e3


class _Answered:
    """The frames of a source whose stamps are wanted."""

    def __init__(self, source: BagSource, stamps: set[int]) -> None:
        self._source, self._stamps = source, stamps
        self.total = len(stamps)

    def __iter__(self) -> Iterator[Frame]:
        # Not a generator, which ends with the first frame that cannot be converted.
        return filter(lambda frame: frame.stamp_ns in self._stamps, iter(self._source))


def _compare(
    source: BagSource, live: RecordedResults, config: Config, ambiguous: set[int]
) -> LiveComparison:
    pipeline = Pipeline(config)
    comparison = LiveComparison(live, pipeline.class_names)
    replay(_Answered(source, {*live.stamps} - ambiguous), pipeline, [comparison])
    return comparison
