"""The rest of a robot, for tests: starts the node as a process and talks to it over DDS."""

from __future__ import annotations

import copy
import os
import signal
import socket
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from numpy.typing import NDArray
from rcl_interfaces.msg import Parameter, SetParametersResult
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.publisher import Publisher
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from vision_msgs.msg import Detection2DArray, LabelInfo

NODE = "/instaseg_node"
PATIENCE_S = 90.0  # a test ends as soon as it can; this only bounds it on a busy machine
KNOWN_AFTER_S = 0.25  # until the node knows a new client of its services
COUNTED_AFTER_S = 0.2  # until what was published is counted, and earlier diagnostics have come
RELIABLE = QoSProfile(depth=5, reliability=QoSReliabilityPolicy.RELIABLE)
BEST_EFFORT = QoSProfile(depth=5, reliability=QoSReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
TRANSITIONS = {
    "configure": Transition(id=Transition.TRANSITION_CONFIGURE),
    "activate": Transition(id=Transition.TRANSITION_ACTIVATE),
    "deactivate": Transition(id=Transition.TRANSITION_DEACTIVATE),
    "cleanup": Transition(id=Transition.TRANSITION_CLEANUP),
    "shutdown": Transition(id=Transition.TRANSITION_ACTIVE_SHUTDOWN),
    "shutdown while unconfigured": Transition(id=Transition.TRANSITION_UNCONFIGURED_SHUTDOWN),
}


def free_domain() -> tuple[int, socket.socket]:
    """A ROS domain that no other test on this machine uses while the socket is open."""
    for domain in range(1, 100):
        lock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        with suppress(OSError):
            lock.bind(("127.0.0.1", 22119 + domain))
            return domain, lock
        lock.close()
    raise RuntimeError("no free ROS domain")


class Robot:
    """One ROS domain with one node under test in it; what it publishes is kept in lists."""

    def __init__(self, log_file: Path) -> None:
        self.domain, self._lock = free_domain()
        self.log_file = log_file
        self.process: subprocess.Popen[bytes] | None = None
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=self.domain)
        self.node = rclpy.create_node("robot", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.cameras: list[Publisher] = []
        self.labels: list[Image] = []
        self.detections: list[Detection2DArray] = []
        self.label_info: list[LabelInfo] = []
        self.diagnostics: list[DiagnosticStatus] = []
        results = QoSProfile(depth=100)
        self.listen(Image, f"{NODE}/labels", self.labels.append, results)
        self.listen(Detection2DArray, f"{NODE}/detections", self.detections.append, results)
        self.listen(LabelInfo, f"{NODE}/label_info", self.label_info.append, LATCHED)
        self.listen(
            DiagnosticArray, "/diagnostics", lambda m: self.diagnostics.extend(m.status), results
        )

    def listen(self, kind: Any, topic: str, callback: Callable[[Any], Any], qos: QoSProfile) -> Any:
        return self.node.create_subscription(kind, topic, callback, qos)

    # The process

    def start(
        self,
        parameters: dict[str, Any],
        *ros_arguments: str,
        program: Sequence[str | Path] = ("-m", "instaseg_ros.ros.node"),
    ) -> None:
        """Run the executable; `call` waits until its services are there."""
        self.kill()
        command = [sys.executable, *map(str, program), "--ros-args", *ros_arguments]
        for name, value in parameters.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            command += ["-p", f"{name}:={text}"]
        environment = {**os.environ, "ROS_DOMAIN_ID": str(self.domain), "OMP_NUM_THREADS": "1"}
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def stop(self, number: int = signal.SIGINT) -> int:
        """Signal the process, which must end; returns its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        """End the process, should a test have left it running."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def own_mb(self) -> float:
        """Memory that the process shares with no file and no other process."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("RssAnon:")[2].split()[0]) * 1024 / 1e6

    def close(self) -> None:
        self.kill()
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)
        self._lock.close()

    # Waiting

    def until(self, condition: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S) -> Any:
        """Spin until `condition` is true, and return its value."""
        end = time.monotonic() + timeout_s
        while not (value := condition()):
            assert time.monotonic() < end, (
                f"waited in vain for {what}; the node says:\n{self.log()}"
                f"\nand in diagnostics: {[s.message for s in self.diagnostics[-3:]]}"
            )
            self.executor.spin_once(timeout_sec=0.05)
        return value

    def spin_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.02)

    # Services

    def ask(self, kind: Any, name: str, **request: Any) -> Callable[[], Any]:
        """Call a service of the node; what is returned waits for the answer. Fast DDS drops that if
        the node does not know the client in a tenth of a second: a new one waits before it asks."""
        client = self.node.create_client(kind, f"{NODE}/{name}")
        self.until(client.service_is_ready, f"service {name}")
        self.spin_for(KNOWN_AFTER_S)
        future = client.call_async(kind.Request(**request))

        def answer() -> Any:
            self.until(future.done, f"answer of {name}")
            self.node.destroy_client(client)
            return future.result()

        return answer

    def call(self, kind: Any, name: str, **request: Any) -> Any:
        """The answer of a service of the node."""
        return self.ask(kind, name, **request)()

    def change_state(self, transition: str) -> bool:
        return self.call(ChangeState, "change_state", transition=TRANSITIONS[transition]).success

    def state(self) -> str:
        return self.call(GetState, "get_state").current_state.label

    def await_state(self, label: str) -> None:
        self.until(lambda: self.state() == label, f"the state {label}")

    def set_parameter(self, name: str, value: Any) -> SetParametersResult:
        typed = rclpy.Parameter(name, value=value).to_parameter_msg()
        assert isinstance(typed, Parameter)
        return self.call(SetParameters, "set_parameters", parameters=[typed]).results[0]

    def describe_parameter(self, name: str) -> Any:
        return self.call(DescribeParameters, "describe_parameters", names=[name]).descriptors[0]

    # Images

    def camera(
        self, topic: str = "/image", qos: QoSProfile = RELIABLE, kind: Any = Image
    ) -> Publisher:
        """A publisher; `await_match` before it is used."""
        self.cameras.append(self.node.create_publisher(kind, topic, qos))
        return self.cameras[-1]

    def unplug(self) -> None:
        """Take all cameras away."""
        while self.cameras:
            self.node.destroy_publisher(self.cameras.pop())

    def await_match(self, camera: Publisher, reliability: QoSReliabilityPolicy) -> None:
        """Until the node subscribes to the camera as it is expected to."""

        def matched() -> bool:
            infos = self.node.get_subscriptions_info_by_topic(camera.topic_name)
            kinds = [info.qos_profile.reliability for info in infos]
            return kinds == [reliability] and camera.get_subscription_count() == 1

        self.until(matched, f"a {reliability.name} subscription to {camera.topic_name}")

    def publish(self, camera: Publisher, message: Any, frame_id: str = "camera") -> Any:
        """Publish with the stamp of now; returns a copy of the header."""
        message.header.stamp = self.node.get_clock().now().to_msg()
        message.header.frame_id = frame_id
        camera.publish(message)
        return copy.deepcopy(message.header)

    def label(self, camera: Publisher, message: Any, frame_id: str = "camera") -> Any:
        """Publish an image and wait for its label image and detections.

        A best-effort image is published every two seconds, as one may get lost: the publisher knows
        the subscription before the subscription knows it.
        """
        best_effort = camera.qos_profile.reliability == QoSReliabilityPolicy.BEST_EFFORT
        headers = [self.publish(camera, message, frame_id)]
        again = time.monotonic() + 2

        def labelled() -> tuple[Image, Detection2DArray] | None:
            nonlocal again
            if best_effort and time.monotonic() > again:
                headers.append(self.publish(camera, message, frame_id))
                again += 2
            return next((found for h in headers if (found := self.result(h))), None)

        return self.until(labelled, f"labels of {message!r:.100}")

    def result(self, header: Any) -> tuple[Image, Detection2DArray] | None:
        labels = [m for m in self.labels if m.header == header]
        detections = [m for m in self.detections if m.header == header]
        return (labels[0], detections[0]) if labels and detections else None

    # Diagnostics

    def diagnose_anew(self) -> None:
        """Forget what was diagnosed before all results that have come were counted."""
        self.spin_for(COUNTED_AFTER_S)
        self.diagnostics.clear()

    def diagnosis(self, part: str, level: int | None = None) -> tuple[str, dict[str, str]]:
        """Message and values of the next status with `part` in its message, and this level."""
        self.diagnose_anew()

        def found() -> list[DiagnosticStatus]:
            return [
                status
                for status in self.diagnostics
                if part in status.message and level in (None, status.level[0])
            ]

        status = self.until(found, f"diagnostics with '{part}', level {level}")[0]
        return status.message, {v.key: v.value for v in status.values}

    def await_diagnosed(self, **expected: str) -> None:
        """Until the newest status has these values; `_` in a name is a space."""

        def found() -> bool:
            values = {v.key: v.value for status in self.diagnostics[-1:] for v in status.values}
            return all(values.get(k.replace("_", " ")) == v for k, v in expected.items())

        self.until(found, f"diagnostics with {expected}")


def byte_array(pixels: NDArray[Any]) -> array[int]:
    data = array("B")
    data.frombytes(np.ascontiguousarray(pixels).data.cast("B"))
    return data


def image_message(pixels: NDArray[Any], encoding: str = "rgb8", padding: int = 0) -> Image:
    """(H, W, C) or (H, W) uint8 or little-endian uint16 pixels; each row followed by padding."""
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(len(pixels), -1)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    return Image(
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        step=padded.shape[1],
        data=byte_array(padded),
    )


def label_image(message: Image) -> NDArray[np.uint16]:
    """(H, W) uint16 of a mono16 message."""
    assert message.encoding == "mono16"
    assert message.step == 2 * message.width
    return np.frombuffer(message.data, "<u2").reshape(message.height, message.width)


def compressed_message(data: bytes, kind: str) -> CompressedImage:
    return CompressedImage(format=kind, data=array("B", data))
