"""What the running node uses of the graph is what its policy allows; without the middleware's
security a secured start ends in a sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("rclpy")

from robot import NODE, Robot

from instaseg_ros.ros.policy_file import policy_file

pytestmark = pytest.mark.ros

ONLY_SOME_HAVE = {f"{NODE}/get_type_description"}  # from Jazzy on
OF_OTHER_METHODS = {f"{NODE}/debug/embedding"}


def granted(text: str, kind: str, right: str) -> set[str]:
    groups = ElementTree.fromstring(text).iter(kind)
    found = {str(one.text) for group in groups if group.get(right) == "ALLOW" for one in group}
    return {name.replace("~", NODE) for name in found}


@pytest.mark.parametrize("transport", ["raw", "compressed"])
def test_the_node_uses_all_that_the_policy_grants_and_no_more(
    robot: Robot, network, transport: str
) -> None:
    suffix = {"raw": "", "compressed": "/compressed"}[transport]
    parameters = {**network, "node.autostart": True, "node.image_transport": transport}
    robot.start(parameters, "-r", "image:=/front/image")
    robot.await_state("active")
    text = policy_file([f"/front/image{suffix}"])
    name = NODE.removeprefix("/")

    def used() -> list[set[str]]:
        node = robot.node
        lists = (
            node.get_subscriber_names_and_types_by_node(name, "/"),
            node.get_publisher_names_and_types_by_node(name, "/"),
            node.get_service_names_and_types_by_node(name, "/"),
            node.get_client_names_and_types_by_node(name, "/"),
        )
        return [{topic for topic, _ in one} for one in lists]

    allowed = [granted(text, "topics", right) for right in ("subscribe", "publish")]
    allowed[1] -= OF_OTHER_METHODS
    allowed += [granted(text, "services", "reply") - ONLY_SOME_HAVE, set()]

    def all_there() -> bool:
        return all(found >= wanted for found, wanted in zip(used(), allowed, strict=True))

    # Its services are found, and used, before its name is.
    robot.until(lambda: name in robot.node.get_node_names(), "the node's name")
    robot.until(all_there, "the node's endpoints")
    subscribed, published, served, called = used()
    assert [subscribed, published, served - ONLY_SOME_HAVE, called] == allowed
    assert robot.stop() == 0


def test_a_start_that_security_forbids_is_told_in_a_sentence(tmp_path: Path) -> None:
    """Be it that the enclave has no keys, or that this middleware was built without security."""
    (tmp_path / "enclaves").mkdir()
    secured = {
        "ROS_SECURITY_ENABLE": "true",
        "ROS_SECURITY_STRATEGY": "Enforce",
        "ROS_SECURITY_KEYSTORE": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-m", "instaseg_ros.ros.node"],
        env={**os.environ, **secured},
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "instaseg_node: ROS cannot" in done.stderr
    assert "ROS_SECURITY_ENABLE is set: see docs/security.md" in done.stderr
