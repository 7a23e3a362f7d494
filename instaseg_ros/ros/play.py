"""Plays a recording: publishes its messages as they are, at the speed at which they came."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rclpy.duration import Duration
from rclpy.exceptions import InvalidTopicNameException
from rclpy.publisher import Publisher
from rclpy.qos import (
    QoSDurabilityPolicy,
    QoSLivelinessPolicy,
    QoSProfile,
    QoSReliabilityPolicy,
)
from rclpy.utilities import get_rmw_implementation_identifier
from rosgraph_msgs.msg import Clock

from instaseg_ros.errors import ConfigError, InputError, TruncatedInputError
from instaseg_ros.recordings.message_types import split_stamp
from instaseg_ros.recordings.offered_qos import DEPTH, OfferedQos, read_offer
from instaseg_ros.recordings.playback import Timeline, read_ahead
from instaseg_ros.recordings.recording import LAST_NS, RawMessage, Recording, Topic
from instaseg_ros.recordings.storage import open_recording
from instaseg_ros.ros.command import Ending, QuietNode, ended_by_signals, ros
from instaseg_ros.ros.input import LARGE_BYTES, VARIABLES
from instaseg_ros.ros.interfaces import message_class, type_hash
from instaseg_ros.ros.machine import MachineWatch

NAME = "instaseg_play"
CLOCK = "/clock"
NAP_S = 0.05  # between two looks whether to end
LEAST_ROUND_S = 0.1  # of a loop, also of a single message
QUIET_S = 10.0  # a longer pause is told, as it looks like the end
ACKNOWLEDGED_S = 5.0  # at most, until subscribers have what they are to get

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Options:
    """How to play. rate: recorded seconds per second. topics: empty for all. start_s: offset into
    the recording. duration_s: recorded seconds to play. delay_s: for subscribers to find the
    topics. clock_hz: messages per second on /clock; None for no clock of ours."""

    rate: float = 1.0
    loop: bool = False
    topics: Collection[str] = ()
    start_s: float = 0.0
    duration_s: float | None = None
    delay_s: float = 1.0
    clock_hz: float | None = None


@dataclass(slots=True)
class Played:
    """What was published, by topic; what was not, with the reason; how late messages were at most;
    why the recording ended too early, and whether a signal ended it."""

    published: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    skipped: dict[str, str] = field(default_factory=dict)
    latest_s: float = 0.0
    broken: TruncatedInputError | None = None
    interrupted: bool = False


def play(path: str | Path, options: Options) -> Played:
    """Publish a recording's messages until its end, or with `loop` until a signal.

    Topics whose types are not installed are left out. Raises InputError if nothing is left, and
    ConfigError for a topic that the recording lacks, or if ROS cannot start.
    """
    recording = open_recording(path)
    topics = _chosen(path, recording, options)
    with ros(), ended_by_signals() as ending:
        player = Player(recording, topics, options, ending)
        try:
            if not player.publishers_of:
                raise InputError(f"bag {path} has no topic that can be played: {_why(player)}")
            player.play()
            return player.played
        finally:
            player.destroy_node()


def publisher_profile(offer: OfferedQos) -> QoSProfile:
    """rclpy's profile for a recorded offer."""
    is_latched = offer.durability == "transient_local"
    limits = {
        "deadline": offer.deadline_ns,
        "lifespan": offer.lifespan_ns,
        "liveliness_lease_duration": offer.lease_ns,
    }
    return QoSProfile(
        # More than was recorded, so that no message replaces one that needs resending; what is
        # latched is for late subscribers, who are to get what they would have got.
        depth=offer.depth if is_latched else max(offer.depth, DEPTH),
        reliability=getattr(QoSReliabilityPolicy, offer.reliability.upper()),
        durability=getattr(QoSDurabilityPolicy, offer.durability.upper()),
        liveliness=getattr(QoSLivelinessPolicy, offer.liveliness.upper()),
        **{name: Duration(nanoseconds=ns) for name, ns in limits.items() if ns is not None},
    )


class Player(QuietNode):
    """Publishers of a recording's topics.

    publishers_of: by topic, of those that can be published. played: the account so far.
    """

    def __init__(
        self, recording: Recording, topics: dict[str, Topic], options: Options, ending: Ending
    ) -> None:
        super().__init__(NAME)
        self.played = Played()
        self.publishers_of: dict[str, Publisher] = {}
        self._recording, self._options, self._ending = recording, options, ending
        self._offers = {name: read_offer(topic.qos) for name, topic in topics.items()}
        for name, topic in topics.items():
            self._announce(name, topic)
        self._ticker: Publisher | None = None
        self._tick_s = 0.0
        self._is_warned = False
        if options.clock_hz is not None:
            self._ticker = self.create_publisher(Clock, CLOCK, 1)

    def play(self) -> None:
        """Publish everything in time. Raises InputError if there is nothing."""
        self._wait(time.monotonic() + self._options.delay_s)
        first_ns, stop_ns = _span(self._recording, self._options)
        self._latch(first_ns)
        while not self._ending.asked:
            begin_s = time.monotonic()
            found = self._play_once(first_ns, stop_ns)
            if not (found or self._ending.asked or self.played.broken):
                raise InputError("the recording has no message of these topics in this time")
            if not (found and self._options.loop):
                break
            self._wait(begin_s + LEAST_ROUND_S)
        self.played.interrupted = self._ending.asked
        if not self._ending.asked:
            self._await_acknowledgements()

    def _announce(self, name: str, topic: Topic) -> None:
        kind, local = message_class(topic.type), type_hash(topic.type)
        if kind is None:
            why = f"{topic.type} is not installed"
        elif topic.type_hash and local and local != topic.type_hash:
            why = f"{topic.type} was recorded with another definition than is installed"
        else:
            try:
                profile = publisher_profile(self._offers[name] or OfferedQos())
                self.publishers_of[name] = self.create_publisher(kind, name, profile)
                return
            except InvalidTopicNameException:
                why = "its name is none of ROS 2"
        self.played.skipped[name] = why
        log.warning("%.200s is not played: %s", name, why)

    def _latch(self, first_ns: int) -> None:
        """What latched topics said before the part that is played."""
        offers = {n: o for n, o in self._offers.items() if o and n in self.publishers_of}
        latched = [n for n, offer in offers.items() if offer.durability == "transient_local"]
        if latched and first_ns > self._recording.start_ns:
            for raw in self._messages(latched, self._recording.start_ns, first_ns):
                self._publish(raw)

    def _play_once(self, first_ns: int, stop_ns: int) -> bool:
        """Play the part between these recorded times; whether it has a message."""
        timeline = None
        for raw in read_ahead(self._messages([*self.publishers_of], first_ns, stop_ns)):
            timeline = timeline or Timeline(first_ns, time.monotonic(), self._options.rate)
            due_s = timeline.due_s(raw.received_ns)
            if (quiet_s := due_s - time.monotonic()) > QUIET_S:
                offset_s = (raw.received_ns - self._recording.start_ns) / 1e9
                log.info(
                    "nothing for %.0f s, then %s; --start %.0f begins there",
                    quiet_s,
                    raw.topic,
                    math.floor(offset_s),
                )
            self._wait(due_s, timeline)
            if self._ending.asked:
                break
            self.played.latest_s = max(self.played.latest_s, time.monotonic() - due_s)
            self._publish(raw)
        return timeline is not None

    def _messages(self, names: list[str], start_ns: int, stop_ns: int) -> Iterator[RawMessage]:
        """The messages; a break of the recording is noted, and told once."""
        try:
            yield from self._recording.messages(names, start_ns, stop_ns)
        except TruncatedInputError as error:
            if self.played.broken is None:
                self.played.broken = error

    def _publish(self, raw: RawMessage) -> None:
        try:
            data = bytes(raw.cdr)
            self._warn_of_size(raw.topic, len(data))
            self.publishers_of[raw.topic].publish(data)
        except Exception as error:  # from zstandard, rclpy, ... depending on the damage
            self.played.refused[raw.topic] += 1
            if self.played.refused.total() == 1:
                log.warning("a message of %s cannot be published: %s", raw.topic, error)
        else:
            self.played.published[raw.topic] += 1

    def _warn_of_size(self, topic: str, size: int) -> None:
        """Once, if messages are too large for Fast DDS as it comes."""
        if size > LARGE_BYTES and not self._is_warned:
            self._is_warned = True
            machine = MachineWatch(get_rmw_implementation_identifier()).look()
            if "fastrtps" in machine.middleware and not machine.profile:
                log.warning(
                    "messages of %.1f MB (%s): Fast DDS loses many of this size, unless %s names a "
                    "profile with enough shared memory, such as config/fastdds_shm.xml",
                    size / 1e6,
                    topic,
                    VARIABLES,
                )

    def _wait(self, until_s: float, timeline: Timeline | None = None) -> None:
        """Sleep until then, or until a signal; the clock goes on meanwhile."""
        while not self._ending.asked:
            now_s = time.monotonic()
            if timeline and self._ticker and now_s >= self._tick_s:
                self._tell_time(self._ticker, timeline.recorded_ns(now_s))
                self._tick_s = now_s + 1 / (self._options.clock_hz or 1)
            if now_s >= until_s:
                return
            tick_s = self._tick_s if self._ticker and timeline else until_s
            time.sleep(max(0.0, min(until_s - now_s, tick_s - now_s, NAP_S)))

    def _tell_time(self, clock: Publisher, recorded_ns: int) -> None:
        message = Clock()
        message.clock.sec, message.clock.nanosec = split_stamp(recorded_ns)
        clock.publish(message)

    def _await_acknowledgements(self) -> None:
        """Until reliable subscribers have everything: leaving earlier loses the last messages."""
        end_s = time.monotonic() + ACKNOWLEDGED_S
        for publisher in self.publishers_of.values():
            left_s = max(0.0, end_s - time.monotonic())
            publisher.wait_for_all_acked(Duration(seconds=left_s))


def _chosen(path: str | Path, recording: Recording, options: Options) -> dict[str, Topic]:
    """The topics to play."""
    lacking = [name for name in options.topics if name not in recording.topics]
    if lacking:
        raise ConfigError(
            f"bag {path} has no topic {', '.join(lacking)}; it has "
            f"{', '.join(sorted(recording.topics)) or 'none'}"
        )
    chosen = options.topics or recording.topics
    ours = {CLOCK} if options.clock_hz is not None else set()
    return {name: recording.topics[name] for name in chosen if name not in ours}


def _span(recording: Recording, options: Options) -> tuple[int, int]:
    """The recorded times to play, from the first to before the last."""
    first_ns = recording.start_ns + round(options.start_s * 1e9)
    if options.duration_s is None:
        return first_ns, LAST_NS
    return first_ns, first_ns + round(options.duration_s * 1e9)


def _why(player: Player) -> str:
    reasons = list(dict.fromkeys(player.played.skipped.values()))
    return "; ".join(reasons[:5]) or "it has none"
