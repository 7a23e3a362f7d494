"""Listens to a running robot for a while, and changes nothing there."""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from numpy.typing import NDArray
from rcl_interfaces.srv import GetParameters, ListParameters
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from rclpy.serialization import deserialize_message
from rclpy.utilities import get_rmw_implementation_identifier
from sensor_msgs.msg import Image

from instaseg_ros.config import InputConfig
from instaseg_ros.errors import ImageError
from instaseg_ros.recordings.image_messages import compressed_to_rgb, image_to_rgb
from instaseg_ros.ros.camera import MESSAGE_CLASSES
from instaseg_ros.ros.command import QuietNode, ros
from instaseg_ros.ros.ear import Ear
from instaseg_ros.ros.input import TRANSPORTS
from instaseg_ros.ros.live.machine import processes, shared_memory
from instaseg_ros.ros.live.observed import (
    MAX_ARRIVALS,
    Arrival,
    CameraSeen,
    LabelsSeen,
    NodeSeen,
    Observed,
    Status,
    read_header,
)
from instaseg_ros.ros.live.pictures import measure
from instaseg_ros.ros.machine import MachineWatch
from instaseg_ros.ros.messages import MESSAGES

NAME = "instaseg_doctor"
STATE = "lifecycle state"  # which only statuses of this package have
ONLY = "instance segmentation"  # in the name of the status of a node with one camera
LOOK_EVERY_S = 0.5  # at the graph
GRACE_S = 3.0  # for nodes and topics to be discovered
PICTURE_EVERY_S = 1.0  # per camera; the rest of the images is only counted and compared
MOST_CAMERAS = 16
DEPTH = 20  # of the doctor's queues: it must not lose what it counts
STRIDE = 61  # every such byte of a raw image is compared with the one before
LABELS, DETECTIONS = "/labels", "/detections"
# How the graph calls every node of which it knows a topic before the name.
NAMELESS = "_NODE_NAMESPACE_UNKNOWN_/_NODE_NAME_UNKNOWN_"
DETECTIONS_TYPE = "vision_msgs/msg/Detection2DArray"

log = logging.getLogger(__name__)


def listen(seconds: float, topics: Sequence[str], limits: InputConfig) -> tuple[Observed, Pictures]:
    """Observe the robot of this ROS domain, and the newest pictures.

    topics: of cameras; empty: those that nodes of this package subscribe to, else all image topics.
    limits: for converting images. Raises ConfigError if ROS cannot start.
    """
    with ros():
        listener = Listener(topics, limits)
        try:
            executor = SingleThreadedExecutor()
            executor.add_node(listener)
            end = time.monotonic() + seconds
            while (left := end - time.monotonic()) > 0:
                executor.spin_once(timeout_sec=min(left, 0.1))
            return listener.observed(), listener.pictures
        finally:
            listener.destroy_node()


# By topic: the newest picture, (H, W, 3) uint8 RGB, and its stamp.
Pictures = dict[str, tuple[NDArray[np.uint8], int]]


class Listener(QuietNode):
    """Subscribes to cameras, labels, detections and diagnostics; asks for the nodes' parameters."""

    def __init__(self, topics: Sequence[str], limits: InputConfig) -> None:
        super().__init__(NAME)
        self._expected = tuple(self.resolve_topic_name(topic) for topic in topics)
        self._limits = limits
        self._start_s = time.monotonic()
        self._machine = MachineWatch(get_rmw_implementation_identifier())
        self._cameras: dict[str, Ear] = {}
        self._labels: dict[str, Ear] = {}
        self._seen_cameras: dict[str, CameraSeen] = {}
        self._seen_labels: dict[str, LabelsSeen] = {}
        self._nodes: dict[str, NodeSeen] = {}
        self._simulated = False
        self.pictures: Pictures = {}
        best_effort = QoSReliabilityPolicy.BEST_EFFORT  # compatible with every publisher
        self._hears_all = QoSProfile(depth=DEPTH, reliability=best_effort)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._diagnose, self._hears_all)
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(LOOK_EVERY_S, self._look, clock=clock)

    def observed(self) -> Observed:
        """Everything so far."""
        for seen in self._seen_cameras.values():
            self._update(seen)
        for labels in self._seen_labels.values():
            labels.publishers = self._labels[labels.topic].publishers()
        return Observed(
            start_s=self._start_s,
            end_s=time.monotonic(),
            expected=self._expected,
            cameras=list(self._seen_cameras.values()),
            labels=list(self._seen_labels.values()),
            nodes=list(self._nodes.values()),
            images=tuple(self._image_topics()),
            graph=self._graph(),
            machine=self._machine.look(),
            shared_memory=shared_memory(),
            processes=processes(),
            simulated=self._simulated,
        )

    # The graph

    def _look(self) -> None:
        """Find new topics, and follow the publishers of the known ones."""
        self._machine.look()
        if not self._simulated and self.count_publishers("/clock"):
            self._simulated = True
            self.set_parameters([Parameter("use_sim_time", value=True)])
        types = dict(self.get_topic_names_and_types())
        for topic in types:
            detections = f"{topic.removesuffix(LABELS)}{DETECTIONS}"
            ours = topic.endswith(LABELS) and DETECTIONS_TYPE in types.get(detections, ())
            if ours and self.count_publishers(topic):  # others may still wait for labels there
                self._hear_labels(topic, detections)
        for topic, kind in self._wanted():
            if topic not in self._cameras and len(self._cameras) < MOST_CAMERAS:
                self._hear_camera(topic, kind)
        for topic, ear in self._cameras.items():
            seen = self._seen_cameras[topic]
            seen.lost += ear.losses.settle(ear.senders())
            if ear.adapt():
                ear.losses.restart()
            self._update(seen)
        for ear in self._labels.values():
            ear.adapt()

    def _image_topics(self) -> list[tuple[str, str]]:
        """Published image topics that are no results of this package."""
        return [
            (topic, kind)
            for topic, kinds in sorted(self.get_topic_names_and_types())
            for kind in kinds
            if kind in TRANSPORTS and self.count_publishers(topic) and not self._is_result(topic)
        ]

    def _is_result(self, topic: str) -> bool:
        return any(
            topic.startswith(labels.removesuffix(LABELS.removeprefix("/")))
            for labels in self._seen_labels
        )

    def _wanted(self) -> list[tuple[str, str]]:
        """Camera topics to hear, with their types."""
        types = dict(self.get_topic_names_and_types())
        known = [(t, k) for t, kinds in sorted(types.items()) for k in kinds if k in TRANSPORTS]
        if self._expected:
            return [one for one in known if one[0] in self._expected]
        known = [one for one in known if one[0] not in self._seen_labels]
        owners = {p.node for ear in self._labels.values() for p in ear.publishers()}
        owners = (owners | set(self._nodes)) - {NAMELESS}
        served = [one for one in known if owners & set(self._listeners(one[0]))]
        if served or time.monotonic() - self._start_s < GRACE_S:
            return served
        return self._image_topics()

    def _listeners(self, topic: str) -> list[str]:
        infos = self.get_subscriptions_info_by_topic(topic)
        names = {f"{info.node_namespace.rstrip('/')}/{info.node_name}" for info in infos}
        return sorted(names - {self.get_fully_qualified_name()})

    def _update(self, seen: CameraSeen) -> None:
        ear = self._cameras[seen.topic]
        seen.quality, seen.publishers = ear.quality, ear.publishers()
        seen.incompatible_policy = ear.incompatible_policy
        seen.listeners = tuple(self._listeners(seen.topic))

    def _graph(self) -> dict[str, object]:
        """Nodes, and every topic with its types and its number of publishers and subscriptions."""
        topics = sorted(self.get_topic_names_and_types())
        return {
            "nodes": sorted(
                f"{namespace.rstrip('/')}/{name}"
                for name, namespace in self.get_node_names_and_namespaces()
            ),
            "topics": [
                {
                    "topic": topic,
                    "types": kinds,
                    "publishers": self.count_publishers(topic),
                    "subscriptions": self.count_subscribers(topic),
                }
                for topic, kinds in topics
            ],
        }

    # Images and labels

    def _hear_camera(self, topic: str, kind: str) -> None:
        seen = CameraSeen(topic, message_type=kind)
        self._seen_cameras[topic] = seen
        message_class = MESSAGE_CLASSES[TRANSPORTS[kind]]
        receive = partial(self._receive_image, seen, message_class)
        self._cameras[topic] = Ear(self, message_class, topic, receive, DEPTH)
        log.info("listening to %s (%s)", topic, kind)

    def _receive_image(self, seen: CameraSeen, message_class: Any, raw: bytes, about: Any) -> None:
        ear = self._cameras[seen.topic]
        seen.lost += ear.lost(about)
        arrival = self._arrival(raw, compare=True)
        last = seen.arrivals[-1] if seen.arrivals else None
        _keep(seen.arrivals, arrival)
        due = last is None or int(arrival.heard_s / PICTURE_EVERY_S) != int(
            last.heard_s / PICTURE_EVERY_S
        )
        if due:
            self._look_at(seen, message_class, raw, arrival.stamp_ns)

    def _look_at(self, seen: CameraSeen, message_class: Any, raw: bytes, stamp_ns: int) -> None:
        message = deserialize_message(raw, message_class)
        seen.encoding = message.encoding if message_class is Image else message.format
        to_rgb = image_to_rgb if message_class is Image else compressed_to_rgb
        try:
            picture = to_rgb(message, self._limits)
        except ImageError as error:
            seen.unreadable = str(error)
            return
        seen.unreadable, seen.size = "", picture.shape[:2]
        seen.pictures.append(measure(picture))
        self.pictures[seen.topic] = picture, stamp_ns

    def _hear_labels(self, topic: str, detections: str) -> None:
        if topic in self._labels:
            return
        seen = LabelsSeen(topic)
        self._seen_labels[topic] = seen

        def receive(raw: bytes, about: Any) -> None:
            _keep(seen.arrivals, self._arrival(raw))

        self._labels[topic] = Ear(self, Image, topic, receive, DEPTH)

        def count(message: Any) -> None:
            _keep(seen.objects, len(message.detections))

        self.create_subscription(MESSAGES.Detection2DArray, detections, count, self._hears_all)
        log.info("listening to %s", topic)

    def _arrival(self, raw: bytes, compare: bool = False) -> Arrival:
        stamp_ns, frame_id, end = read_header(raw)
        pixels = 0
        if compare:
            step = STRIDE if len(raw) > 1 << 20 else 1
            pixels = zlib.crc32(np.frombuffer(raw, np.uint8, offset=end)[::step].tobytes())
        clock_ns = self.get_clock().now().nanoseconds
        return Arrival(stamp_ns, frame_id, time.monotonic(), clock_ns, len(raw), pixels)

    # Nodes

    def _diagnose(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {value.key: value.value for value in status.values}
            if STATE not in values:
                continue
            name, _, part = status.name.partition(": ")
            node = self._nodes.get(name) or self._meet(name)
            told = Status(time.monotonic(), status.level[0], status.message, values)
            _keep(node.statuses.setdefault("" if part == ONLY else part, []), told)

    def _meet(self, name: str) -> NodeSeen:
        """A new node: ask it for its parameters."""
        node = self._nodes[name] = NodeSeen(name)
        log.info("found %s", name)
        self._ask(
            ListParameters,
            f"{name}/list_parameters",
            ListParameters.Request(),
            lambda listed: self._ask_values(node, list(listed.result.names)),
        )
        return node

    def _ask_values(self, node: NodeSeen, names: list[str]) -> None:
        def told(answer: Any) -> None:
            values = map(parameter_value_to_python, answer.values)
            node.parameters = dict(zip(names, values, strict=True))

        request = GetParameters.Request(names=names)
        self._ask(GetParameters, f"{node.name}/get_parameters", request, told)

    def _ask(self, kind: Any, service: str, request: Any, then: Callable[[Any], None]) -> None:
        """Call a service when it is there; a node that does not answer is waited for by nobody."""
        client = self.create_client(kind, service)

        def answered(future: Any) -> None:
            if future.result() is not None:
                then(future.result())

        def ask() -> None:
            if client.service_is_ready():
                self.destroy_timer(timer)
                client.call_async(request).add_done_callback(answered)

        timer = self.create_timer(LOOK_EVERY_S, ask, clock=Clock(clock_type=ClockType.STEADY_TIME))


def _keep(items: list[Any], item: Any) -> None:
    if len(items) < MAX_ARRIVALS:
        items.append(item)
