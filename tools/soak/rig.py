"""The rest of the robot: starts the node and the cameras, hears all outputs, calls services."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, NamedTuple

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from std_srvs.srv import SetBool
from visualization_msgs.msg import MarkerArray

from soak.cameras import TRUE_STAMP_NS, open_counts
from soak.ledger import Account, counts_of

ROOT = Path(__file__).parents[2]
PROFILE = ROOT / "config" / "fastdds_shm.xml"
NODE = "/instaseg_node"
OUTPUTS = {"overlay": Image, "markers": MarkerArray, "labels/compressed": CompressedImage}
TRANSITIONS = {"configure": 1, "cleanup": 2, "activate": 3, "deactivate": 4}  # lifecycle_msgs
WITH_US = ("setpriv", "--pdeathsig", "INT")  # the node ends when this process is killed
ANSWER_S = 120.0  # a service has this long, on a busy machine too
STOP_S = 20.0
FAULT_IN_LOG = re.compile(r"Traceback|terminate called|Segmentation fault|not drawn:")

Waiting = Generator[float, None, Any]  # yields for how many seconds to wait before going on


class BrokenPromiseError(Exception):
    """What the node was to do and did not."""


class Answer(NamedTuple):
    """Labels that came: of which camera, when (seconds since the epoch), and how long after the
    stamp in milliseconds."""

    camera: str
    time_s: float
    latency_ms: float


class Rig(Node):
    """The recorder, in this process, and the two others. `spin` between all calls.

    size: (height, width) of the images. folder: for logs.
    """

    def __init__(
        self, names: Sequence[str], size: tuple[int, int], rate_hz: float, folder: Path
    ) -> None:
        super().__init__("soak")
        self.size, self.rate_hz, self.folder = size, rate_hz, folder
        self.accounts = {name: Account(name) for name in names}
        self.answers: list[Answer] = []  # until somebody takes them
        self.found: list[str] = []  # broken promises, until somebody takes them
        self.diagnoses: dict[str, dict[str, str]] = {}
        self.diagnosed = 0
        self.node: subprocess.Popen[bytes] | None = None
        self._cameras: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] = (folder / "node.log").open("ab")
        self._log_read = 0
        self._counts = open_counts(folder / "published.bin", len(names))
        self._stamps = dict.fromkeys(names, 0)
        queue = QoSProfile(depth=200)
        for name in names:
            hear = partial(self._hear, name)
            self.create_subscription(Image, f"{NODE}/{name}/labels", hear, queue, raw=True)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._diagnose, 100)
        self._set = self.create_client(SetParameters, f"{NODE}/set_parameters")
        self._change = self.create_client(ChangeState, f"{NODE}/change_state")
        self._enable = self.create_client(SetBool, f"{NODE}/enable")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)

    def spin(self, seconds: float) -> None:
        """Receive for so long."""
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left_s)

    # Processes

    def start_node(self, parameters: Sequence[str]) -> None:
        """parameters: as `name:=value`."""
        command = [*WITH_US, sys.executable, "-m", "instaseg_ros.ros.node", "--ros-args"]
        given = [f"cameras:=[{', '.join(self.accounts)}]", *parameters]
        command += [part for one in given for part in ("-p", one)]
        self.node = subprocess.Popen(
            command, stdout=self._log, stderr=self._log, start_new_session=True
        )

    def start_cameras(self) -> None:
        """Also after `kill_cameras`."""
        command = [sys.executable, "-m", "soak.cameras", "--names", *self.accounts]
        command += ["--size", "{}x{}".format(*self.size), "--rate", str(self.rate_hz)]
        command += ["--counts", str(self.folder / "published.bin")]
        with (self.folder / "cameras.log").open("ab") as log:
            self._cameras = subprocess.Popen(
                command, stdin=subprocess.PIPE, stderr=log, start_new_session=True
            )

    def tell(self, **command: Any) -> None:
        """See soak.cameras."""
        assert self._cameras is not None and self._cameras.stdin is not None
        self._cameras.stdin.write(json.dumps(command).encode() + b"\n")
        self._cameras.stdin.flush()

    def kill_cameras(self) -> None:
        """As a crash would."""
        assert self._cameras is not None
        self._cameras.kill()
        self._cameras.wait()
        self._cameras = None

    def check_processes(self) -> None:
        """Raises BrokenPromiseError if the node has ended; also looks at its log."""
        assert self.node is not None
        if (code := self.node.poll()) is not None:
            raise BrokenPromiseError(f"the node has ended, with {code}; see node.log")
        if self._cameras is not None and self._cameras.poll() is not None:
            raise RuntimeError("the cameras' process has ended; see cameras.log")
        log = self.folder / "node.log"
        with log.open("rb") as file:
            file.seek(self._log_read)
            news = file.read()
        self._log_read += len(news)
        lines = news.decode(errors="replace").splitlines()
        for before, line in pairwise(["", *lines]):
            if FAULT_IN_LOG.search(line):
                self.found.append(f"in node.log: {before} {line}")

    def close(self) -> None:
        """End both processes; finds out whether the node ends as it should."""
        if self._cameras is not None and self._cameras.poll() is None:
            self._cameras.kill()
            self._cameras.wait()
        if self.node is not None and self.node.poll() is None:
            self.node.send_signal(signal.SIGINT)
            try:
                code = self.node.wait(STOP_S)
                if code:
                    self.found.append(f"the node ended with {code} at SIGINT, expected 0")
            except subprocess.TimeoutExpired:
                self.found.append(f"the node does not end within {STOP_S:g} s of SIGINT")
                self.node.kill()
                self.node.wait()
        self._log.close()
        self._executor.shutdown()
        self.destroy_node()

    # What is known

    def are_seen(self) -> bool:
        """Whether all cameras and labels have found each other."""
        return all(
            self.count_publishers(f"{NODE}/{name}/labels")
            and any(self.count_subscribers(f"/{name}/image{end}") for end in ("", "/compressed"))
            for name in self.accounts
        )

    def look_at_publishers(self) -> None:
        """A crashed publisher is on the graph for a while; of two on a topic, up to Jazzy, the node
        cannot tell which losses are certain."""
        for name in self.accounts:
            if sum(self.count_publishers(f"/{name}/image{end}") for end in ("", "/compressed")) > 1:
                self.disturb(name)

    def published(self) -> list[int]:
        """By each camera so far."""
        return [int(count) for count, _ in self._counts]

    def tally(self) -> None:
        """Enter what was published in the accounts."""
        for account, (published, bad) in zip(self.accounts.values(), self._counts, strict=True):
            account.published, account.bad = int(published), int(bad)

    def disturb(self, camera: str = "") -> None:
        """One camera's publisher or subscription, or everybody's, will be another."""
        for name, account in self.accounts.items():
            account.disturbed |= camera in ("", name)

    # Services

    def ask_to_set(self, name: str, value: Any) -> Waiting:
        """Set a parameter; returns the reason for which it is refused, or nothing."""
        parameter = rclpy.Parameter(name, value=value).to_parameter_msg()
        request = SetParameters.Request(parameters=[parameter])
        (result,) = (yield from self._call(self._set, request)).results
        return "" if result.successful else result.reason or "refused"

    def change_state(self, transition: str, possible: bool = True) -> Waiting:
        """Raises BrokenPromiseError if it is possible and fails, or the opposite."""
        request = ChangeState.Request()
        request.transition.id = TRANSITIONS[transition]
        if transition == "activate" and possible:
            for account in self.accounts.values():
                account.activated()
        response = yield from self._call(self._change, request)
        if response.success != possible:
            expected = "succeed" if possible else "be refused"
            raise BrokenPromiseError(f"{transition} was to {expected}")

    def enable(self, yes: bool) -> Waiting:
        response = yield from self._call(self._enable, SetBool.Request(data=yes))
        if not response.success:
            raise BrokenPromiseError(f"~/enable {yes}: {response.message}")

    def _call(self, client: Any, request: Any) -> Waiting:
        end_s = time.monotonic() + ANSWER_S
        while not client.service_is_ready():
            if time.monotonic() > end_s:
                raise BrokenPromiseError(f"no service {client.srv_name} for {ANSWER_S:g} s")
            yield 0.1
        future = client.call_async(request)
        while not future.done():
            if time.monotonic() > end_s:
                raise BrokenPromiseError(f"no answer of {client.srv_name} for {ANSWER_S:g} s")
            yield 0.02
        return future.result()

    # Subscribers that come and go

    def watch(self, camera: str, output: str, best_effort: bool) -> Any:
        """A subscription to one of OUTPUTS, for `destroy_subscription`."""
        qos = QoSProfile(depth=5)
        if best_effort:
            qos.reliability = QoSReliabilityPolicy.BEST_EFFORT
        topic = f"{NODE}/{camera}/{output}"
        return self.create_subscription(OUTPUTS[output], topic, lambda _: None, qos, raw=True)

    # What comes

    def _hear(self, name: str, data: bytes) -> None:
        now_ns = time.time_ns()
        account = self.accounts[name]
        account.labels += 1
        header = deserialize_message(data[:64], Header)  # the message begins with it
        stamp_ns = header.stamp.sec * 10**9 + header.stamp.nanosec
        if header.frame_id != name:
            self.found.append(f"{name}: labels with the header of '{header.frame_id}'")
        if stamp_ns % TRUE_STAMP_NS:
            return
        before, self._stamps[name] = self._stamps[name], stamp_ns
        # A latched image comes again to a new subscription.
        if stamp_ns < before or (stamp_ns == before and not account.disturbed):
            self.found.append(f"{name}: labels for {stamp_ns} after those for {before}")
        self.answers.append(Answer(name, now_ns / 1e9, (now_ns - stamp_ns) / 1e6))

    def _diagnose(self, message: DiagnosticArray) -> None:
        self.diagnosed += 1
        for status in message.status:
            own, _, name = status.name.partition(": camera ")
            if own.partition(":")[0] != NODE:
                continue
            values = {value.key: value.value for value in status.values}
            self.diagnoses[name] = {**values, "message": status.message}
            counts = counts_of(values)
            if name in self.accounts and counts is not None:
                self.found += self.accounts[name].diagnosed(counts)


def environment() -> None:
    """For this process and its children: large images by shared memory, and a place of its own."""
    for variable in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):
        os.environ.setdefault(variable, str(PROFILE))
    os.environ.setdefault("ROS_DOMAIN_ID", str(random.randint(1, 100)))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    paths = [str(ROOT), str(ROOT / "tools"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, dict.fromkeys(paths)))
