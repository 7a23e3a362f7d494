"""Records topics of any type into one `.mcap` file, without deserialising."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.logging import LoggingSeverity
from rclpy.qos import QoSProfile

from instaseg_ros.errors import InstasegError
from instaseg_ros.recordings.bags import BagWriter
from instaseg_ros.recordings.offered_qos import OfferedQos, offer_from
from instaseg_ros.ros.command import QuietNode, ended_by_signals, ros
from instaseg_ros.ros.ear import Ear
from instaseg_ros.ros.interfaces import definition, message_class, type_hash

NAME = "instaseg_record"
LOOK_EVERY_S = 0.2  # for new topics and publishers
FLUSH_EVERY_S = 1.0  # what a kill may cost
QUEUE = 100  # messages of a topic that may wait while the disk is busy
HIDDEN = "/_"  # in topics of actions, as rosbag2 has it
OF_INFO = ("received_timestamp", "source_timestamp")  # rclpy's facts about a message, nanoseconds

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Recorded:
    """Messages recorded and lost, by topic, types of the topics, those that cannot be recorded with
    the reason, and named ones that gave nothing."""

    messages: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    types: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    silent: tuple[str, ...] = ()


def record(
    path: str | Path,
    topics: Collection[str],
    duration_s: float | None = None,
    overwrite: bool = False,
) -> Recorded:
    """Record until a signal, or for `duration_s`; also topics that appear meanwhile.

    topics: names; empty: all but hidden ones. The file gets its name at the end, and none without a
    message. If writing fails, or the process is killed, what was written stays beside it under a
    name with `.part-`. Raises ConfigError if the file exists or ROS cannot start, InstasegError if
    it cannot be written.
    """
    writer = BagWriter(path, overwrite)
    try:
        with ros(), ended_by_signals() as ending:
            recorder = Recorder(writer, topics)
            try:
                executor = SingleThreadedExecutor()
                executor.add_node(recorder)
                end_s = time.monotonic() + (float("inf") if duration_s is None else duration_s)
                while not ending.asked and (left_s := end_s - time.monotonic()) > 0:
                    executor.spin_once(timeout_sec=min(left_s, 0.1))
                recorded = recorder.recorded()
            finally:
                recorder.destroy_node()
            if writer.count:
                writer.close()
            else:
                writer.discard()
            return recorded
    except BaseException as error:
        if not writer.count:
            writer.discard()
            raise
        writer.abandon()
        log.warning("what was recorded is in %s", writer.part)
        if isinstance(error, OSError):
            raise InstasegError(f"output {path} cannot be written: {error}") from error
        raise


class Recorder(QuietNode):
    """Subscribes to what there is, and writes it. topics: as in `record`."""

    def __init__(self, writer: BagWriter, topics: Collection[str]) -> None:
        super().__init__(NAME)
        self.get_logger().set_level(LoggingSeverity.WARN)  # that it follows publishers is usual
        self._writer = writer
        self._wanted = {self.resolve_topic_name(topic) for topic in topics}
        self._ears: dict[str, Ear] = {}
        self._account = Recorded()
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(LOOK_EVERY_S, self._look, clock=clock)
        self.create_timer(FLUSH_EVERY_S, writer.flush, clock=clock)
        self._look()

    def recorded(self) -> Recorded:
        """The account so far."""
        self._settle()
        self._account.silent = tuple(
            sorted(topic for topic in self._wanted if not self._account.messages[topic])
        )
        return self._account

    def _look(self) -> None:
        """Subscribe to new topics, and follow the publishers of the known ones."""
        for topic, kinds in self.get_topic_names_and_types():
            known = topic in self._ears or topic in self._account.skipped
            if not known and self._is_wanted(topic) and self.count_publishers(topic):
                self._hear(topic, kinds)
        self._settle()

    def _is_wanted(self, topic: str) -> bool:
        return topic in self._wanted if self._wanted else HIDDEN not in topic

    def _hear(self, topic: str, kinds: list[str]) -> None:
        kind = kinds[0]
        found = message_class(kind)
        if found is None or len(kinds) > 1:
            why = f"{kind} is not installed" if found is None else f"types {', '.join(kinds)}"
            log.warning("%s is not recorded: %s", topic, why)
            self._account.skipped[topic] = why
            return
        profiles = [info.qos_profile for info in self.get_publishers_info_by_topic(topic)]
        offers = [_offer(profile) for profile in profiles]
        text = definition(kind)
        self._writer.add_serialized_topic(topic, kind, text, type_hash(kind), offers)
        self._account.types[topic] = kind
        self._ears[topic] = Ear(self, found, topic, partial(self._receive, topic), QUEUE)
        self._ears[topic].adapt()
        log.info("recording %s (%s)", topic, kind)

    def _settle(self) -> None:
        for topic, ear in self._ears.items():
            self._account.lost[topic] += ear.losses.settle(ear.senders())
            if ear.adapt():
                ear.losses.restart()

    def _receive(self, topic: str, raw: bytes, about: dict[str, Any]) -> None:
        self._account.lost[topic] += self._ears[topic].lost(about)
        # Humble does not tell when a message came.
        received_ns, published_ns = (int(about.get(name) or 0) for name in OF_INFO)
        received_ns = received_ns or time.time_ns()
        self._writer.write_serialized(topic, raw, received_ns, published_ns or None)
        self._account.messages[topic] += 1


def _offer(profile: QoSProfile) -> OfferedQos:
    """What a publisher offers according to the graph, in which the depth is unknown."""
    words = ("reliability", "durability", "liveliness")
    times = ("deadline", "lifespan", "liveliness_lease_duration")
    return offer_from(
        {
            "depth": profile.depth,
            **{name: getattr(profile, name).name.lower() for name in words},
            **{name: {"nsec": getattr(profile, name).nanoseconds} for name in times},
        }
    )
