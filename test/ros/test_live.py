"""`instaseg doctor --live` beside a node and a camera: what it finds, says, writes and returns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy")

from coloured_shapes import CLASS_NAMES, scene
from rclpy.qos import QoSReliabilityPolicy
from robot import BEST_EFFORT, NODE, PATIENCE_S, Robot, compressed_message, image_message
from sensor_msgs.msg import CompressedImage

from instaseg_ros.ros.live.listener import NAME, NAMELESS, Listener

pytestmark = [pytest.mark.ros, pytest.mark.usefixtures("cameras_end_with_their_test")]

RATE_HZ, WATCH_S = 8.0, 7.0
SPAN_S = ["--set", "node.max_latency_s=20"]  # this machine may be busy


@pytest.fixture(scope="module")
def node(robot: Robot, network) -> Robot:
    size = {"input.height": 96, "input.width": 160}
    robot.start({**network, **size, "node.autostart": True, "node.stale_after_s": 20.0})
    robot.await_state("active")
    return robot


class Doctor:
    """The command as a process beside the robot."""

    def __init__(self, robot: Robot, *options: str) -> None:
        self.robot = robot
        command = [sys.executable, "-m", "instaseg_ros.cli", "doctor", "--live", f"{WATCH_S:g}"]
        environment = {**os.environ, "ROS_DOMAIN_ID": str(robot.domain), "SECRET": "hunter2"}
        self.process = subprocess.Popen(
            [*command, *SPAN_S, *options],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, publish: Callable[[], object] | None = None) -> tuple[int, str]:
        """Publish at RATE_HZ until the command ends; its exit code and output."""
        end = time.monotonic() + PATIENCE_S
        while self.process.poll() is None and time.monotonic() < end:
            if publish:
                publish()
            self.robot.spin_for(1 / RATE_HZ)
        said = self.process.communicate(timeout=PATIENCE_S)[0]
        return self.process.returncode, said


def noisy(seed: int, size: int = 1) -> np.ndarray:
    """A scene of coloured shapes as a camera sees it: no two pictures are equal."""
    rng = np.random.default_rng(seed)
    picture = np.repeat(np.repeat(scene(), size, 0), size, 1).astype(np.int16)
    return np.clip(picture + rng.integers(-2, 3, picture.shape), 0, 255).astype(np.uint8)


def camera_of(node: Robot, **options) -> Callable[[np.ndarray], object]:
    camera = node.camera(**options)
    node.await_match(camera, camera.qos_profile.reliability)
    return lambda pixels: node.publish(camera, image_message(pixels))


def moving(show: Callable[[np.ndarray], object]) -> Callable[[], object]:
    """Shows one noisy picture after the other."""
    count = iter(range(10**6))
    return lambda: show(noisy(next(count)))


def test_a_robot_that_may_go(node: Robot, tmp_path: Path) -> None:
    show = camera_of(node)
    node.publish(node.cameras[0], image_message(noisy(0)))
    bundle, report = tmp_path / "robot.zip", tmp_path / "robot.json"
    doctor = Doctor(node, "--bundle", str(bundle), "--json", str(report))
    code, said = doctor.run(moving(show))
    assert code == 0, said
    assert "GO: " in said and "images of /image labelled" in said
    facts = json.loads(report.read_text())
    assert facts["go"] is True
    (camera,) = facts["cameras"]
    assert (camera["topic"], camera["encoding"]) == ("/image", "rgb8")
    assert camera["listeners"] == sorted({NODE} | {"/instaseg_node"})
    assert camera["quality"]["reliability"] == "reliable"
    assert camera["frame_ids"] == ["camera"]
    assert camera["timing"]["backwards"] == 0
    latency = facts["latency_ms"][f"{NODE}/labels"]
    assert latency["labelled"] > 5
    assert 0 < latency["since_arrival"]["p50"] < latency["since_stamp"]["p99"]
    assert facts["labels"][0]["objects"].count(3) > 5
    assert facts["environment"]["ROS_DOMAIN_ID"] == str(node.domain)
    assert node.process is not None
    assert node.process.pid in [process["pid"] for process in facts["processes"]]
    with zipfile.ZipFile(bundle) as archive:
        parameters = json.loads(archive.read("instaseg_node/parameters.json"))
        diagnostics = json.loads(archive.read("instaseg_node/diagnostics.json"))
        assert not [name for name in archive.namelist() if name.endswith(".png")]
        everything = b"".join(map(archive.read, archive.namelist()))
    assert parameters["input.height"] == 96
    assert diagnostics[-1]["values"]["lifecycle state"] == "active"
    assert diagnostics[-1]["values"]["classes"] == ", ".join(CLASS_NAMES)
    assert b"hunter2" not in everything
    node.until(
        lambda: NAME not in node.node.get_node_names(),
        "the doctor to have left",
        10,  # seconds; a node that does not say goodbye is on the graph for 20
    )


def test_nodes_whose_names_are_not_known_yet_are_not_taken_for_one() -> None:
    """Else every topic with such a listener would be a camera for the rest of the minute."""
    listener, labels = object.__new__(Listener), f"{NODE}/labels"
    listener._start_s, listener._expected, listener._nodes = time.monotonic(), (), {}
    publisher = SimpleNamespace(node=NAMELESS)
    listener._labels = {labels: SimpleNamespace(publishers=lambda: (publisher,))}
    listener._seen_labels = {}
    image = ["sensor_msgs/msg/Image"]
    listener.get_topic_names_and_types = lambda: [("/map", image), (labels, image)]
    listener._listeners = lambda topic: [NAMELESS]
    assert listener._wanted() == []
    publisher.node = NODE
    listener._listeners = lambda topic: [NODE]
    listener._seen_labels = {labels: None}
    assert listener._wanted() == [("/map", "sensor_msgs/msg/Image")]


def test_a_frozen_picture(node: Robot, tmp_path: Path) -> None:
    show = camera_of(node)
    still = noisy(0)
    bundle = tmp_path / "robot.zip"
    options = ("--bundle", str(bundle), "--with-pictures")
    code, said = Doctor(node, *options).run(lambda: show(still))
    assert code == 1, said
    assert "/image: the picture is frozen" in said.splitlines()[-2]
    with zipfile.ZipFile(bundle) as archive:
        assert [name.partition("-")[0] for name in archive.namelist() if ".png" in name] == [
            "image"
        ]


def test_a_dark_picture(node: Robot) -> None:
    show = camera_of(node)
    code, said = Doctor(node).run(moving(lambda pixels: show(pixels // 12)))
    assert code == 1, said
    assert "NO-GO: /image: the picture is dark" in said


def test_no_camera(node: Robot) -> None:
    code, said = Doctor(node).run()
    assert code == 1, said
    assert "/image: no image came: no publisher on /image" in said


def test_a_camera_that_the_node_does_not_hear(node: Robot) -> None:
    """Named on the command line; compressed and best effort."""
    camera = node.camera("/rear/image/compressed", BEST_EFFORT, CompressedImage)
    jpeg = compressed_message(b"no jpeg", "jpeg")
    doctor = Doctor(node, "--image", "/rear/image/compressed", "--image", "absent")
    code, said = doctor.run(lambda: node.publish(camera, jpeg))
    assert code == 1, said
    assert "/rear/image/compressed: its images cannot be read" in said
    assert "/absent: no node publishes images there, but there is /rear/image/compressed" in said


def test_an_inactive_node(node: Robot) -> None:
    show = camera_of(node)
    assert node.change_state("deactivate")
    camera = node.cameras[0]
    node.until(lambda: not camera.get_subscription_count(), "the end of the subscription")
    code, said = Doctor(node).run(moving(show))
    assert node.change_state("activate")
    assert code == 1, said
    assert f"activate it: ros2 lifecycle set {NODE} activate" in said
    assert "GO: /instaseg_node: inactive" in said


def test_without_ros_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "rclpy.py").write_text("raise ImportError('no ROS here')\n")
    path = os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", "")))
    done = subprocess.run(
        [sys.executable, "-m", "instaseg_ros.cli", "doctor", "--live", "1"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "--live needs ROS 2, which cannot be imported: no ROS here" in done.stderr


def test_several_cameras_each_with_its_labels(robot: Robot, network, tmp_path: Path) -> None:
    size = {"input.height": 96, "input.width": 160, "node.stale_after_s": 20.0}
    if robot.process is not None:
        robot.stop()
    robot.start({**network, **size, "node.autostart": True, "cameras": "[front, left]"})
    cameras = [robot.camera(f"/{name}/image") for name in ("front", "left")]
    for camera in cameras:
        robot.await_match(camera, QoSReliabilityPolicy.RELIABLE)
    count = iter(range(10**6))

    def show() -> None:
        for camera in cameras:
            robot.publish(camera, image_message(noisy(next(count))))

    report = tmp_path / "robot.json"
    code, said = Doctor(robot, "--json", str(report)).run(show)
    assert code == 0, said
    latency = json.loads(report.read_text())["latency_ms"]
    assert {labels: one["camera"] for labels, one in latency.items()} == {
        f"{NODE}/{name}/labels": f"/{name}/image" for name in ("front", "left")
    }
    assert all(one["labelled"] > 5 for one in latency.values())
