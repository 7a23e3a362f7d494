"""docs/masks.md: its subscriber cuts the right object out of the right image."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from documentation import PAGES, blocks
from example_results import CLASS_NAMES, INSTANCES

rclpy = pytest.importorskip("rclpy")
from builtin_interfaces.msg import Time  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402
from robot import free_domain  # noqa: E402

from instaseg_ros.recordings import result_messages  # noqa: E402
from instaseg_ros.ros.messages import MESSAGES  # noqa: E402

pytestmark = pytest.mark.ros
PATIENCE_S = 60.0


@pytest.fixture
def page() -> dict[str, Any]:
    """What the page's Python defines."""
    names: dict[str, Any] = {}
    for block in blocks(PAGES["docs/masks.md"], "python"):
        exec(compile(block, "docs/masks.md", "exec"), names)
    return names


@pytest.fixture
def sender() -> Iterator[Node]:
    domain, lock = free_domain()
    with lock:
        rclpy.init(domain_id=domain)
        node = Node("sender")
        yield node
        node.destroy_node()
        rclpy.shutdown()


def test_it_crops_the_surest_object(page: dict[str, Any], sender: Node) -> None:
    best = int(np.argmax(INSTANCES.scores))
    wanted = CLASS_NAMES[INSTANCES.class_ids[best]]
    crops: list[np.ndarray] = []

    class Kept(page["Crops"]):  # type: ignore[misc]
        def show(self, crop: np.ndarray) -> None:
            crops.append(crop)

    subscriber = Kept(wanted)
    publishers = {
        topic: sender.create_publisher(kind, topic, 10) for topic, kind in page["INPUTS"].items()
    }
    executor = SingleThreadedExecutor()
    executor.add_node(subscriber)
    end = time.monotonic() + PATIENCE_S
    while not all(p.get_subscription_count() for p in publishers.values()):
        executor.spin_once(timeout_sec=0.1)
        assert time.monotonic() < end
    picture = np.random.default_rng(0).integers(1, 256, (*INSTANCES.labels.shape, 3), np.uint8)
    for stamp, topics in ((1, ("image",)), (2, ("labels", "image", "detections"))):
        header = MESSAGES.Header(stamp=Time(sec=stamp), frame_id="camera")
        messages = {
            "image": result_messages.overlay_message(MESSAGES, header, picture // (3 - stamp)),
            "labels": result_messages.labels_message(MESSAGES, header, INSTANCES.labels),
            "detections": result_messages.detections_message(
                MESSAGES, header, INSTANCES, CLASS_NAMES
            ),
        }
        for topic in topics:  # of the first image there are no labels
            publishers[topic].publish(messages[topic])
    while not crops:
        executor.spin_once(timeout_sec=0.1)
        assert time.monotonic() < end
    subscriber.destroy_node()
    rows, columns = np.nonzero(INSTANCES.labels == INSTANCES.ids[best])
    here = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    mask = INSTANCES.labels[here] == INSTANCES.ids[best]
    np.testing.assert_array_equal(crops, [picture[here] * mask[..., None]])
