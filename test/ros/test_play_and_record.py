"""`instaseg play` and `instaseg record` over DDS: what is played arrives and is recorded as it was,
in order; signals, loops, broken recordings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")

from mcap.reader import make_reader
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from robot import BEST_EFFORT, LATCHED, PATIENCE_S, Robot, image_message
from rosbags.highlevel import AnyReader
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from vision_msgs.msg import LabelInfo
from written_recordings import header, noise_image, serialized_image, stamp_ns

from instaseg_ros.errors import ConfigError, InputError, TruncatedInputError
from instaseg_ros.recordings.bags import IMAGE, BagWriter
from instaseg_ros.recordings.message_types import typestore
from instaseg_ros.recordings.offered_qos import OfferedQos, read_offer
from instaseg_ros.recordings.result_messages import label_info_message
from instaseg_ros.recordings.storage import open_recording
from instaseg_ros.ros.command import Ending, ros
from instaseg_ros.ros.interfaces import definition, message_class, type_hash
from instaseg_ros.ros.play import Options, Played, Player, play

pytestmark = pytest.mark.ros

LABEL_INFO = "vision_msgs/msg/LabelInfo"
COUNT = 6
HEARD = QoSProfile(depth=100, reliability=QoSReliabilityPolicy.RELIABLE)


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    """Images at 20 Hz, of a reliable and a best-effort publisher; class names, latched, before
    them; two topics that nobody here can publish."""
    writer = BagWriter(tmp_path / "drive.mcap")
    writer.add_topic("/label_info", LABEL_INFO, latched=True)
    writer.add_topic("/image", IMAGE)
    store = typestore()
    text, _ = store.generate_msgdef(IMAGE, ros_version=2)
    hashed = store.hash_rihs01(IMAGE)
    sensor = OfferedQos("best_effort", depth=5)
    writer.add_serialized_topic("/rear", IMAGE, text, hashed, [sensor])
    writer.add_serialized_topic("/odd", "no_such_msgs/msg/Odd", "", "", [])
    writer.add_serialized_topic("/changed", "std_msgs/msg/String", "", "RIHS01_00", [])
    info = label_info_message(writer.msgs, header(0), ("car", "person"))
    writer.write("/label_info", info, stamp_ns(0) - 1000)
    for i in range(COUNT):
        writer.write_serialized("/image", serialized_image(i), stamp_ns(i))
        writer.write_serialized("/rear", serialized_image(i), stamp_ns(i) + 1000)
        writer.write_serialized("/odd", b"\0\1\0\0", stamp_ns(i))
        writer.write_serialized("/changed", b"\0\1\0\0\1\0\0\0\0", stamp_ns(i))
    writer.close()
    return tmp_path / "drive.mcap"


def cdr(path: Path, topic: str) -> list[bytes]:
    return [raw.cdr for raw in open_recording(path).messages([topic])]


def padded(message: bytes) -> bytes:
    """As it arrives: the middleware fills up the last four bytes."""
    return message + bytes(-len(message) % 4)


class Commands:
    """Commands as processes in the robot's domain."""

    def __init__(self, robot: Robot, folder: Path) -> None:
        self._robot, self._folder = robot, folder
        self.running: list[subprocess.Popen[str]] = []

    def start(self, *words: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "instaseg_ros.cli", *map(str, words)]
        environment = {**os.environ, "ROS_DOMAIN_ID": str(self._robot.domain)}
        log = (self._folder / f"{words[0]}.log").open("w")
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, text=True)
        self.running.append(process)
        return process

    def log(self, verb: str) -> str:
        return (self._folder / f"{verb}.log").read_text()


@pytest.fixture
def commands(robot: Robot, tmp_path: Path) -> Iterator[Commands]:
    made = Commands(robot, tmp_path)
    yield made
    for process in made.running:
        process.kill()
        process.wait()


@pytest.fixture
def ears(robot: Robot) -> Iterator[dict[str, list[bytes]]]:
    """Serialized messages by topic, as this process received them."""
    kinds: dict[str, Any] = {"/image": Image, "/label_info": LabelInfo, "/clock": Clock}
    heard: dict[str, list[bytes]] = {topic: [] for topic in kinds}

    def hear(topic: str, data: bytes) -> None:
        heard[topic].append(data)

    made = [
        robot.node.create_subscription(
            kind,
            topic,
            partial(hear, topic),
            LATCHED if topic == "/label_info" else HEARD,
            raw=True,
        )
        for topic, kind in kinds.items()
    ]
    yield heard
    for subscription in made:
        robot.node.destroy_subscription(subscription)


def played(robot: Robot, path: Path, options: Options, listeners: int) -> Played:
    """Play in this process, as soon as `listeners` subscribe to each topic that is played."""
    recording = open_recording(path)
    names = options.topics or recording.topics
    with ros():
        player = Player(recording, {n: recording.topics[n] for n in names}, options, Ending())
        try:
            robot.until(
                lambda: all(
                    publisher.get_subscription_count() >= listeners
                    for name, publisher in player.publishers_of.items()
                    if name != "/rear"
                ),
                "subscribers",
            )
            player.play()
            return player.played
        finally:
            player.destroy_node()


def test_what_is_played_arrives_and_is_recorded_byte_for_byte_in_order(
    robot: Robot,
    commands: Commands,
    ears: dict[str, list[bytes]],
    bag: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(robot.domain))
    again = tmp_path / "again.mcap"
    recorder = commands.start("record", "-o", again, "/image", "label_info", "/rear")
    robot.until(lambda: "instaseg_record" in robot.node.get_node_names(), "the recorder")
    done = played(robot, bag, Options(rate=2.0), listeners=2)
    assert done.published == {"/image": COUNT, "/rear": COUNT, "/label_info": 1}
    assert done.skipped.keys() == {"/odd", "/changed"} and not done.refused
    assert "not installed" in done.skipped["/odd"]
    assert "another definition" in done.skipped["/changed"]
    robot.until(lambda: len(ears["/image"]) == COUNT and ears["/label_info"], "all messages")
    assert ears["/image"] == [padded(one) for one in cdr(bag, "/image")]
    assert ears["/label_info"] == [padded(one) for one in cdr(bag, "/label_info")]
    recorder.send_signal(signal.SIGINT)
    assert recorder.wait(PATIENCE_S) == 0, commands.log("record")
    assert not list(tmp_path.glob("*.part*"))
    for topic in ("/image", "/label_info"):
        assert cdr(again, topic) == [padded(one) for one in cdr(bag, topic)]
    _check_recording(again)


def _check_recording(path: Path) -> None:
    """Others read it: mcap with every checksum, rosbags with the definitions in the file."""
    with path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        assert reader.get_header().profile == "ros2"
        times = [
            (message.log_time, message.publish_time)
            for _, channel, message in reader.iter_messages()
            if channel.topic == "/image"
        ]
    assert times == sorted(times) and len(times) == COUNT
    assert all(0 <= received - published < 60e9 for received, published in times)
    with AnyReader([path]) as reader:
        images = [
            reader.deserialize(raw, connection.msgtype)
            for connection, _, raw in reader.messages()
            if connection.topic == "/image"
        ]
    assert [image.header.stamp.nanosec for image in images] == [
        stamp_ns(i) % 10**9 for i in range(COUNT)
    ]
    topics = open_recording(path).topics
    assert topics["/image"].type_hash == typestore().hash_rihs01(IMAGE)
    qos = {name: read_offer(topic.qos) for name, topic in topics.items()}
    assert qos["/label_info"] == OfferedQos(durability="transient_local")
    assert qos["/image"] == OfferedQos()
    assert qos["/rear"] == OfferedQos("best_effort")


def test_a_part_of_a_recording_and_what_was_latched_before_it(
    robot: Robot, ears: dict[str, list[bytes]], bag: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(robot.domain))
    options = Options(topics=("/image", "/label_info"), start_s=0.12, duration_s=0.1, delay_s=0.0)
    done = played(robot, bag, options, listeners=1)
    assert done.published == {"/image": 2, "/label_info": 1}
    robot.until(lambda: len(ears["/image"]) == 2 and ears["/label_info"], "all messages")
    assert ears["/image"] == [padded(one) for one in cdr(bag, "/image")[3:5]]
    with pytest.raises(InputError, match="no message"):
        play(bag, Options(start_s=100.0, delay_s=0.0))
    with pytest.raises(InputError, match="not installed"):
        play(bag, Options(topics=("/odd",)))
    with pytest.raises(ConfigError, match=r"no topic /up; it has /changed, /image"):
        play(bag, Options(topics=("/up",)))


def test_a_broken_recording_is_played_up_to_the_break(
    robot: Robot, bag: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(robot.domain))
    bag.write_bytes(bag.read_bytes()[:-3000])
    done = play(bag, Options(rate=10.0, delay_s=0.0, topics=("/image",)))
    assert isinstance(done.broken, TruncatedInputError)
    assert 0 < done.published["/image"] <= COUNT


def test_a_loop_with_a_clock_until_ctrl_c(
    robot: Robot, commands: Commands, ears: dict[str, list[bytes]], bag: Path
) -> None:
    player = commands.start("play", bag, "--loop", "--clock", "--topics", "/image")
    robot.until(lambda: len(ears["/image"]) > 2 * COUNT, "two rounds")
    player.send_signal(signal.SIGINT)
    assert player.wait(PATIENCE_S) == 130
    assert "messages, at most" in commands.log("play")
    assert "Traceback" not in commands.log("play")
    expected = [padded(one) for one in cdr(bag, "/image")]
    first = expected.index(ears["/image"][0])  # it may have begun before this process heard it
    rounds = (expected * 4)[first:]
    assert ears["/image"][: 2 * COUNT] == rounds[: 2 * COUNT]
    clock = [int.from_bytes(one[8:12], "little") for one in ears["/clock"]]
    assert len(clock) > 10
    assert any(later < earlier for earlier, later in pairwise(clock))
    low, high = stamp_ns(0) % 10**9, stamp_ns(COUNT) % 10**9
    assert low - 10**6 <= min(clock) < max(clock) <= high


def test_what_a_killed_recorder_leaves_can_be_read(
    robot: Robot, commands: Commands, tmp_path: Path
) -> None:
    """Also of a topic that appears after the recorder, and of best effort."""
    path = tmp_path / "drive.mcap"
    recorder = commands.start("record", "-o", path, "--all")
    robot.until(lambda: "instaseg_record" in robot.node.get_node_names(), "the recorder")
    camera = robot.camera("/late/image", BEST_EFFORT)
    robot.await_match(camera, QoSReliabilityPolicy.BEST_EFFORT)
    message = image_message(noise_image(0))

    def left() -> list[Path]:
        robot.publish(camera, message)
        robot.spin_for(0.05)
        return [p for p in tmp_path.glob("drive.part-*.mcap") if _images(p) > 3]

    robot.until(left, "a recording on disk")
    recorder.kill()
    recorder.wait()
    robot.unplug()
    (part,) = left_behind = list(tmp_path.glob("drive*.mcap"))
    assert left_behind and part != path
    assert _images(part) > 3


def _images(path: Path) -> int:
    count = 0
    try:
        for raw in open_recording(path).messages(["/late/image"]):
            assert raw.cdr[-12:] == image_message(noise_image(0)).data.tobytes()[-12:]
            count += 1
    except InputError:  # there is no end yet
        pass
    return count


def test_a_recorder_without_a_message_leaves_nothing(
    commands: Commands, tmp_path: Path, robot: Robot
) -> None:
    path = tmp_path / "none.mcap"
    recorder = commands.start("record", "-o", path, "/nowhere", "--duration", 0.5)
    assert recorder.wait(PATIENCE_S) == 1
    assert "nothing came on /nowhere" in commands.log("record")
    assert not list(tmp_path.glob("none*"))


def test_types_by_name() -> None:
    assert message_class(IMAGE) is Image
    for name in ("no_such_msgs/msg/Odd", "sensor_msgs/msg/No", "os/msg/X", "../msg/X", "", "a/b"):
        assert message_class(name) is None
        assert type_hash(name) == "" and definition(name) == ""
    for kind in (IMAGE, LABEL_INFO, "visualization_msgs/msg/MarkerArray"):
        assert type_hash(kind) == typestore().hash_rihs01(kind)
        text, _ = typestore().generate_msgdef(kind, ros_version=2)
        assert definition(kind).count("\nMSG: ") == text.count("\nMSG: ")
    assert "MSG: builtin_interfaces/Time" in definition(IMAGE)
