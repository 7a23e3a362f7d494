"""The cameras of a soak, a process of their own: publishes images at a rate, as it is told.

    python -m soak.cameras --names front left --size 128x256 --rate 10 --counts FILE

Reads commands as lines of JSON and ends with its input. A command has the fields of `Camera` to
set, for the camera of that name, or `pause`, `together` (all at one moment) or `once` for all. What
was published is counted in a file, which outlives a process that is killed.
"""

from __future__ import annotations

import argparse
import json
import queue
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from instaseg_ros.recordings.bags import BagSource
from soak import images

STREET = Path(__file__).parents[2] / "instaseg_ros" / "demo_data" / "street.mcap"
PICTURES = 16
QOS = {
    "reliable": QoSProfile(depth=1),
    "best effort": QoSProfile(depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT),
    "latched": QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL),
    "deep": QoSProfile(depth=10),
}
TRUE_STAMP_NS = 1000  # true stamps are multiples of this, others are not
STAMPS = {"back": -7200, "forward": 7200, "a little back": -3}  # seconds, and "still"


@dataclass
class Camera:
    """Commands set the public fields; a changed qos, compressed or restarted takes a new publisher.

    bad: the kind of the next `images_bad`; stamps: of the next `images_misdated`. counts: of images
    published, and of bad ones among them.
    """

    name: str
    size: Sequence[int]  # height, width in pixels
    qos: str = "reliable"
    compressed: bool = False
    restarted: int = 0
    silent: bool = False
    bad: str = ""
    images_bad: int = 0
    stamps: str = ""
    images_misdated: int = 0
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(2, np.int64))
    last_ns: int = 0
    turn: int = 0
    publisher: Publisher | None = None
    made_as: tuple[Any, ...] = field(default_factory=tuple)

    def publish(self, node: Node) -> None:
        """The next image, and count it before it is on its way."""
        publisher = self.follow(node)
        message: Any = _message(self.turn % PICTURES, self.size, self.compressed)
        self.turn += 1
        if self.images_bad:
            self.images_bad -= 1
            spoil: dict[str, Any] = images.BAD_COMPRESSED if self.compressed else images.BAD_RAW
            message = spoil[self.bad](message)
            self.counts[1] += 1
        self.counts[0] += 1
        message.header.frame_id = self.name
        sec, nanosec = divmod(self._stamp_ns(), 10**9)
        message.header.stamp.sec, message.header.stamp.nanosec = sec, nanosec
        publisher.publish(message)

    def _stamp_ns(self) -> int:
        now_ns = time.time_ns() // TRUE_STAMP_NS * TRUE_STAMP_NS
        if not self.images_misdated:
            self.last_ns = now_ns
            return now_ns
        self.images_misdated -= 1
        if self.stamps == "still":
            return self.last_ns + 1
        return now_ns + STAMPS[self.stamps] * 10**9 + 1

    def follow(self, node: Node) -> Publisher:
        wanted = (self.qos, self.compressed, self.restarted)
        if self.publisher is None or wanted != self.made_as:
            if self.publisher is not None:
                node.destroy_publisher(self.publisher)
            kind, suffix = (CompressedImage, "/compressed") if self.compressed else (Image, "")
            topic = f"/{self.name}/image{suffix}"
            self.publisher = node.create_publisher(kind, topic, QOS[self.qos])
            self.made_as = wanted
        return self.publisher


def open_counts(file: Path, cameras: int) -> NDArray[np.int64]:
    """(cameras, 2) images published and bad ones among them, shared between processes."""
    if not file.exists():
        file.write_bytes(bytes(16 * cameras))
    return np.memmap(file, np.int64, "r+", shape=(cameras, 2))


def _message(turn: int, size: Sequence[int], compressed: bool) -> Any:
    """A new message."""
    height, width = size
    return (images.compressed if compressed else images.raw)(_picture(turn, (height, width)))


@cache
def _picture(turn: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    picture = cv2.resize(_street()[turn], size[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(picture, np.uint8)


@cache
def _street() -> list[NDArray[np.uint8]]:
    return [frame.image for frame in islice(BagSource(STREET), PICTURES)]


def play(
    node: Node, cameras: dict[str, Camera], rate_hz: float, commands: queue.Queue[Any]
) -> None:
    """Publish until a command is None. Each camera has its own moment in the period, unless all are
    together."""
    paused, together, due_s, turn = False, False, time.monotonic(), 0
    names = list(cameras)
    while True:
        try:
            command = commands.get(timeout=max(0.0, due_s - time.monotonic()))
        except queue.Empty:
            number, turn = turn % len(names), turn + 1
            due_s = max(due_s + 1 / rate_hz / len(names), time.monotonic() - 1 / rate_hz)
            for name in (() if number else names) if together else (names[number],):
                if not paused and not cameras[name].silent:
                    cameras[name].publish(node)
            continue
        if command is None:
            return
        paused = command.get("pause", paused)
        together = command.get("together", together)
        if "once" in command:
            for camera in cameras.values():
                camera.publish(node)
        if "camera" in command:
            camera = cameras[command.pop("camera")]
            for name, value in command.items():
                setattr(camera, name, value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--names", nargs="+", required=True)
    parser.add_argument("--size", required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--counts", type=Path, required=True)
    options = parser.parse_args()
    commands: queue.Queue[Any] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            commands.put(json.loads(line))
        commands.put(None)

    threading.Thread(target=read, daemon=True).start()
    rclpy.init()
    node = rclpy.create_node("soak_cameras")
    size = tuple(map(int, options.size.split("x")))
    counts = open_counts(options.counts, len(options.names))
    cameras = {n: Camera(n, size, counts=own) for n, own in zip(options.names, counts, strict=True)}
    for camera in cameras.values():
        camera.follow(node)
    try:
        play(node, cameras, options.rate, commands)
    except KeyboardInterrupt:
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
