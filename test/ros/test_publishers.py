"""What is only made while somebody subscribes to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("rclpy")

import rclpy
from example_results import CLASS_NAMES, INSTANCES
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode
from rclpy.lifecycle.node import LifecycleState
from robot import RELIABLE, free_domain
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header
from written_recordings import noise_image

from instaseg_ros.config import Config
from instaseg_ros.frames import Frame
from instaseg_ros.recordings import result_messages
from instaseg_ros.ros.publishers import ResultPublishers

pytestmark = pytest.mark.ros


@pytest.fixture
def node() -> Iterator[LifecycleNode]:
    context = rclpy.Context()
    domain, lock = free_domain()
    rclpy.init(context=context, domain_id=domain)
    node = LifecycleNode("publishes", context=context, enable_communication_interface=False)
    yield node
    node.destroy_node()
    rclpy.shutdown(context=context)
    lock.close()


def spin_until(node: LifecycleNode, condition: Callable[[], object]) -> None:
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    for _ in range(600):
        if condition():
            break
        executor.spin_once(timeout_sec=0.05)
    executor.shutdown()
    assert condition()


def test_labels_are_compressed_for_subscribers_only(node: LifecycleNode, monkeypatch):
    made = []
    make = result_messages.compressed_labels_message
    monkeypatch.setattr(
        result_messages, "compressed_labels_message", lambda *a: made.append(a) or make(*a)
    )
    publishers = ResultPublishers(node, CLASS_NAMES)
    LifecycleNode.on_activate(node, LifecycleState(0, ""))
    frame = Frame(noise_image(3))

    def publish() -> None:
        publishers.publish_labels(Header(), INSTANCES)
        publishers.publish_pictures(Header(), frame, INSTANCES, Config())

    publish()
    assert not made
    got: list[CompressedImage] = []
    topic = "/publishes/labels/compressed"
    subscription = node.create_subscription(CompressedImage, topic, got.append, RELIABLE)
    spin_until(node, lambda: node.count_publishers(topic) and node.count_subscribers(topic))
    spin_until(node, lambda: publish() or got)
    assert len(made) >= 1
    node.destroy_subscription(subscription)
    spin_until(node, lambda: not node.count_subscribers(topic))
    made.clear()
    publish()
    assert not made
