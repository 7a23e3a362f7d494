"""What a command runs beside a node that it has started: a camera, and ears for its outputs."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, QoSReliabilityPolicy

from instaseg_ros.errors import InstasegError
from instaseg_ros.recordings.bags import BagWriter
from instaseg_ros.recordings.result_messages import TOPICS
from instaseg_ros.ros.command import QuietNode
from instaseg_ros.ros.interfaces import message_class
from instaseg_ros.ros.node_process import START_PATIENCE_S
from instaseg_ros.ros.qos import LATCHED, RESULTS

QUEUE = QoSProfile(depth=100, reliability=QoSReliabilityPolicy.RELIABLE)


class Peer(QuietNode):
    """Publishes images, and hears the outputs of one node.

    image: class and topic of the images. node: full name of the node. heard: names of the outputs
    that `receive` gets, `label_info` among them; their topics are announced to `writer`.
    diagnosed: what the node said last of itself.
    """

    def __init__(
        self,
        name: str,
        image: tuple[Any, str],
        node: str,
        heard: Iterable[str],
        writer: BagWriter,
    ) -> None:
        super().__init__(name)
        self.diagnosed: dict[str, str] = {}
        self.camera = self.create_publisher(*image, RESULTS)
        self._node = node
        self._is_named = False
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)
        for output in heard:
            topic, path = TOPICS[output], f"{node}/{output}"
            writer.add_topic(path, topic.type, topic.latched)
            profile = LATCHED if topic.latched else QUEUE
            receive = partial(self._hear, output, path)
            self.create_subscription(message_class(topic.type), path, receive, profile, raw=True)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._diagnose, QUEUE)

    def receive(self, output: str, topic: str, data: bytes) -> None:
        """A serialised message of one of the outputs came on this topic."""
        raise NotImplementedError

    def wait_until_active(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until the node is active and connected both ways. Raises InstasegError if that takes
        too long, or the process ends."""
        deadline = time.monotonic() + START_PATIENCE_S
        while not self._is_connected():
            if process.poll() is not None:
                raise InstasegError(
                    f"the node ended while starting, exit code {process.returncode}"
                )
            if time.monotonic() > deadline:
                said = self.diagnosed or "nothing"
                raise InstasegError(
                    f"the node is not active after {START_PATIENCE_S:.0f} s; it reports: {said}"
                )
            self.spin(0.1)

    def spin(self, timeout_s: float) -> None:
        """Wait at most so long for a message, and receive it."""
        self._executor.spin_once(timeout_sec=timeout_s)

    def spin_until(self, moment_s: float) -> None:
        """Receive what comes until then, in `time.monotonic()`."""
        while (left_s := moment_s - time.monotonic()) > 0:
            self.spin(left_s)

    def _is_connected(self) -> bool:
        """Whether the node has subscribed reliably, as the camera publishes, and its class names
        have arrived."""
        agreed = self.diagnosed.get("subscription reliability") == "reliable"
        return agreed and self._is_named and self.camera.get_subscription_count() > 0

    def _hear(self, output: str, topic: str, data: bytes) -> None:
        self._is_named |= output == "label_info"
        self.receive(output, topic, data)

    def _diagnose(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name.startswith(f"{self._node}:"):
                self.diagnosed = {pair.key: pair.value for pair in status.values}
