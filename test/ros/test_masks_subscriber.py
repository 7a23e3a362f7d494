"""docs/masks.md: its subscribers cut the right object out of the right image."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from documentation import PAGES, blocks
from example_results import CLASS_NAMES, INSTANCES

rclpy = pytest.importorskip("rclpy")
from builtin_interfaces.msg import Time  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402
from robot import free_domain  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402
from vision_msgs.msg import Detection2DArray  # noqa: E402

from instaseg_ros.recordings import result_messages  # noqa: E402
from instaseg_ros.recordings.image_messages import image_to_rgb  # noqa: E402
from instaseg_ros.ros.messages import MESSAGES  # noqa: E402

pytestmark = pytest.mark.ros
PATIENCE_S = 60.0
PAGE = PAGES["docs/masks.md"]
PREFIXES = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(":") if p]
BEST = int(np.argmax(INSTANCES.scores))
WANTED = CLASS_NAMES[INSTANCES.class_ids[BEST]]


class Sender:
    """The camera and the node: an image without labels, then one with them."""

    def __init__(self, domain: int) -> None:
        self.domain = domain
        self.node = Node("sender")
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        kinds = {"image": Image, "labels": Image, "detections": Detection2DArray}
        self.publishers = {t: self.node.create_publisher(k, t, 10) for t, k in kinds.items()}
        shape = (*INSTANCES.labels.shape, 3)
        self.picture = np.random.default_rng(0).integers(1, 256, shape, np.uint8)

    def send_until(self, come: list[Any], alive: Callable[[], bool] = lambda: True) -> None:
        """Publish once subscribers of all topics are there, and wait until something has come."""
        end = time.monotonic() + PATIENCE_S
        self._spin_until(
            lambda: all(p.get_subscription_count() for p in self.publishers.values()), end, alive
        )
        for stamp, topics in ((1, ("image",)), (2, ("labels", "image", "detections"))):
            for topic in topics:
                self.publishers[topic].publish(self._message(topic, stamp))
        self._spin_until(lambda: bool(come), end, alive)

    def expected(self) -> NDArray[np.uint8]:
        """The surest object, on black."""
        mask = INSTANCES.labels == INSTANCES.ids[BEST]
        rows, columns = np.nonzero(mask)
        here = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        return self.picture[here] * mask[here][..., None]

    def _message(self, topic: str, stamp: int) -> Any:
        header = MESSAGES.Header(stamp=Time(sec=stamp), frame_id="camera")
        if topic == "image":
            picture = self.picture // (3 - stamp)  # the first one is darker
            return result_messages.overlay_message(MESSAGES, header, picture)
        if topic == "labels":
            return result_messages.labels_message(MESSAGES, header, INSTANCES.labels)
        return result_messages.detections_message(MESSAGES, header, INSTANCES, CLASS_NAMES)

    def _spin_until(self, done: Callable[[], bool], end: float, alive: Callable[[], bool]) -> None:
        while not done():
            self.executor.spin_once(timeout_sec=0.1)
            assert alive() and time.monotonic() < end


@pytest.fixture
def sender() -> Iterator[Sender]:
    domain, lock = free_domain()
    with lock:
        rclpy.init(domain_id=domain)
        sender = Sender(domain)
        yield sender
        sender.node.destroy_node()
        rclpy.shutdown()


def test_it_crops_the_surest_object(sender: Sender) -> None:
    names: dict[str, Any] = {}
    for block in blocks(PAGE, "python"):
        exec(compile(block, "docs/masks.md", "exec"), names)
    crops: list[NDArray[np.uint8]] = []

    class Kept(names["Crops"]):  # type: ignore[misc]
        def show(self, crop: NDArray[np.uint8]) -> None:
            crops.append(crop)

    subscriber = Kept(WANTED)
    sender.executor.add_node(subscriber)
    sender.send_until(crops)
    subscriber.destroy_node()
    np.testing.assert_array_equal(crops, [sender.expected()])


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The page's C++, built as the page says."""
    needed = ("rclcpp", "message_filters")
    there = [any((prefix / "share" / n).is_dir() for prefix in PREFIXES) for n in needed]
    if not all(there) or not shutil.which("cmake"):
        pytest.skip("needs rclcpp and message_filters, which have no wheels, and CMake")
    (tmp_path / "crops.cpp").write_text("".join(blocks(PAGE, "cpp")))
    (tmp_path / "CMakeLists.txt").write_text(*blocks(PAGE, "cmake"))
    build = tmp_path / "build"
    prefixes = f"-DCMAKE_PREFIX_PATH={';'.join(map(str, PREFIXES))}"
    warnings = "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror"
    subprocess.run(["cmake", "-S", tmp_path, "-B", build, prefixes, warnings], check=True)
    subprocess.run(["cmake", "--build", build], check=True)
    return build / "crops"


def test_cpp_crops_the_surest_object(program: Path, sender: Sender) -> None:
    crops: list[NDArray[np.uint8]] = []
    keep = crops.append
    sender.node.create_subscription(Image, "crop", lambda m: keep(image_to_rgb(m)), 10)
    environment = {**os.environ, "ROS_DOMAIN_ID": str(sender.domain)}
    with subprocess.Popen([program, WANTED], env=environment) as process:
        try:
            sender.send_until(crops, lambda: process.poll() is None)
        finally:
            process.terminate()
    np.testing.assert_array_equal(crops, [sender.expected()])
