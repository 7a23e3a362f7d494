"""Measures one node with several cameras beside as many nodes with one camera each.

    .venv/bin/python tools/camera_load.py --cameras 2 3 8 --size 480x640 --rate 10 --seconds 30

Starts the nodes as processes, is the cameras and the recorder itself, and prints one row for each
case: images labelled, latency from publishing an image to receiving its labels, what became of the
other images, memory and processor time of the nodes. Needs ROS and an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from instaseg_ros.recordings import result_messages
from instaseg_ros.recordings.bags import BagSource
from instaseg_ros.ros.messages import MESSAGES

ROOT = Path(__file__).parents[1]
STREET = ROOT / "instaseg_ros" / "demo_data" / "street.mcap"
PROFILE = ROOT / "config" / "fastdds_shm.xml"
PATIENCE_S = 120.0
SETTLE_S = 3.0  # of load before the measurement
PICTURES = 16
TICKS = os.sysconf("SC_CLK_TCK")
COUNTED = ("received", "dropped while busy", "lost on the way", "refused", "failed")


class Rig(Node):
    """Cameras that publish at a rate, and a recorder of what comes back.

    topics: (images, labels) of each camera.
    """

    def __init__(self, topics: Sequence[tuple[str, str]], size: tuple[int, int]) -> None:
        super().__init__("rig")
        sensor = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT)
        self.cameras = [self.create_publisher(Image, images, sensor) for images, _ in topics]
        self.sent_s: list[dict[int, float]] = [{} for _ in topics]
        self.latency_ms: list[list[float]] = [[] for _ in topics]
        self.diagnostics: dict[str, dict[str, str]] = {}
        for n, (_, labels) in enumerate(topics):
            receive = partial(self._receive, n)
            self.create_subscription(Image, labels, receive, 10, raw=True)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._diagnose, 100)
        self._pictures = list(islice(_street(size), PICTURES))

    def are_watched(self) -> bool:
        return all(camera.get_subscription_count() for camera in self.cameras)

    def publish(self, n: int, turn: int) -> None:
        """Camera n's next picture."""
        message = self._pictures[turn % PICTURES]
        now_ns = time.time_ns()
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(now_ns, 10**9)
        self.sent_s[n][now_ns] = time.perf_counter()
        self.cameras[n].publish(message)

    def forget(self) -> None:
        for n in range(len(self.cameras)):
            self.sent_s[n].clear()
            self.latency_ms[n].clear()

    def counts(self) -> dict[str, int]:
        """What the nodes counted, all cameras together."""
        return {
            name: sum(int(values.get(f"images {name}", 0)) for values in self.diagnostics.values())
            for name in COUNTED
        }

    def _receive(self, n: int, data: bytes) -> None:
        now_s = time.perf_counter()
        stamp = deserialize_message(data[:64], Header).stamp  # the message begins with it
        sent_s = self.sent_s[n].get(stamp.sec * 10**9 + stamp.nanosec)
        if sent_s is not None:
            self.latency_ms[n].append((now_s - sent_s) * 1e3)

    def _diagnose(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if ": camera " in status.name or len(message.status) == 1:
                self.diagnostics[status.name] = {v.key: v.value for v in status.values}


def _street(size: tuple[int, int]) -> Iterator[Image]:
    for frame in BagSource(STREET):
        scaled = cv2.resize(frame.image, size[::-1], interpolation=cv2.INTER_AREA)
        header = Header(frame_id="camera")
        yield result_messages.overlay_message(MESSAGES, header, np.asarray(scaled, np.uint8))


@contextmanager
def nodes(names: Sequence[str], alone: bool, parameters: list[str]) -> Iterator[list[Any]]:
    """One process with these cameras, or one for each."""
    command = [sys.executable, "-m", "instaseg_ros.ros.node", "--ros-args"]
    common = [part for p in ["node.autostart:=true", *parameters] for part in ("-p", p)]
    if alone:
        own = [["-r", f"__node:=node_{name}", "-r", f"image:=/{name}/image"] for name in names]
    else:
        own = [["-p", f"cameras:=[{', '.join(names)}]"]]
    processes = [subprocess.Popen([*command, *one, *common]) for one in own]
    try:
        yield processes
    finally:
        for process in processes:
            process.send_signal(signal.SIGINT)
        for process in processes:
            process.wait(20)


def measure(
    count: int, alone: bool, size: tuple[int, int], rate_hz: float, seconds: float, options: Any
) -> dict[str, Any]:
    """One case. Each camera has its own moment within the period, unless all are `together`."""
    names = [f"camera_{n}" for n in range(count)]
    labels = "/node_{0}/labels" if alone else "/instaseg_node/{0}/labels"
    rclpy.init()
    rig = Rig([(f"/{name}/image", labels.format(name)) for name in names], size)
    executor = SingleThreadedExecutor()
    executor.add_node(rig)

    def spin_until(moment_s: float) -> None:
        while (left_s := moment_s - time.monotonic()) > 0:
            executor.spin_once(timeout_sec=left_s)

    turns = [0] * count

    def play(for_s: float) -> None:
        begin = time.monotonic()
        for turn in range(round(for_s * rate_hz)):
            for n in range(count):
                offset = 0.0 if options.together else n / count
                spin_until(begin + (turn + offset) / rate_hz)
                rig.publish(n, turns[n])
                turns[n] += 1

    try:
        with nodes(names, alone, options.parameter) as processes:
            deadline = time.monotonic() + PATIENCE_S
            while not rig.are_watched():
                if time.monotonic() > deadline or any(p.poll() is not None for p in processes):
                    raise SystemExit("the nodes do not start; see their messages above")
                executor.spin_once(timeout_sec=0.1)
            play(SETTLE_S)
            spin_until(time.monotonic() + 1.5)  # until all is done and diagnosed
            before, begin_s = rig.counts(), [_processor_s(p.pid) for p in processes]
            begin_mb = sum(_memory_mb(p.pid)[0] for p in processes)
            rig.forget()
            play(seconds)
            used_s = [_processor_s(p.pid) - s for p, s in zip(processes, begin_s, strict=True)]
            spin_until(time.monotonic() + 2.5)
            after = rig.counts()
            memory = [_memory_mb(p.pid) for p in processes]
    finally:
        rig.destroy_node()
        rclpy.try_shutdown()
    of_each = [len(latency) for latency in rig.latency_ms]
    latency = [ms for one in rig.latency_ms for ms in one] or [float("nan")]
    p50, p99 = np.percentile(latency, [50, 99]).tolist()
    return {
        "cameras": count,
        "nodes": len(processes),
        "published": sum(len(sent) for sent in rig.sent_s),
        "labelled": sum(of_each),
        "labelled of each": of_each,
        "p50 (ms)": round(p50, 1),
        "p99 (ms)": round(p99, 1),
        "most (ms)": round(max(latency), 1),
        **{name: after[name] - before[name] for name in COUNTED},
        "RSS (MB)": round(sum(rss for rss, _ in memory)),
        "RSS grown (MB)": round(sum(rss for rss, _ in memory) - begin_mb),
        "PSS (MB)": round(sum(pss for _, pss in memory)),
        "processor (s)": round(sum(used_s), 1),
        "processor for each labelled (ms)": round(sum(used_s) * 1e3 / max(sum(of_each), 1), 1),
    }


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _memory_mb(pid: int) -> tuple[float, float]:
    """Resident memory, and with pages that processes share divided among them."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    kb = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
    return kb["Rss"] / 1024, kb["Pss"] / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cameras", type=int, nargs="+", default=[2, 3, 8])
    parser.add_argument("--size", default="480x640", help="height x width of the images")
    parser.add_argument("--rate", type=float, default=10.0, help="images per second and camera")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--together", action="store_true", help="all cameras at one moment")
    parser.add_argument("--only", choices=("one", "many"), help="one node, or one for each camera")
    parser.add_argument("-p", "--parameter", action="append", default=[], help="name:=value")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    height, width = map(int, options.size.split("x"))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.setdefault("ROS_DOMAIN_ID", str(random.randint(1, 100)))
    for variable in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):
        os.environ.setdefault(variable, str(PROFILE))
    rows = []
    for count in options.cameras:
        for alone in (False, True):
            if options.only != ("one" if alone else "many"):
                case = (count, alone, (height, width), options.rate, options.seconds, options)
                rows.append(measure(*case))
                print(json.dumps(rows[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
