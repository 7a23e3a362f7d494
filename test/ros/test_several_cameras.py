"""One node for several cameras: each has its own topics, ids, counts and diagnoses."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from coloured_shapes import scene
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from robot import LATCHED, NODE, Robot, image_message, label_image
from sensor_msgs.msg import Image
from std_msgs.msg import String
from std_srvs.srv import SetBool
from vision_msgs.msg import Detection2DArray, LabelInfo

from instaseg_ros.config import Config, TrackingConfig, merge
from instaseg_ros.frames import Frame
from instaseg_ros.pipeline import Pipeline

pytestmark = pytest.mark.ros

NAMES = ("front", "left", "right")
WATCHED = Path(__file__).with_name("watched_node.py")
FRAME_ID = "camera"  # of all three, as in many a driver's default


class Rig:
    """Several cameras and all that the node says about them."""

    def __init__(self, robot: Robot) -> None:
        self.robot = robot
        self.labels: dict[str, list[Image]] = {name: [] for name in NAMES}
        self.detections: dict[str, list[Detection2DArray]] = {name: [] for name in NAMES}
        self.infos: dict[str, list[LabelInfo]] = {name: [] for name in NAMES}
        self.cameras: dict[str, Publisher] = {}
        queue = QoSProfile(depth=100)
        for name in NAMES:
            own = f"{NODE}/{name}"
            robot.listen(Image, f"{own}/labels", self.labels[name].append, queue)
            robot.listen(Detection2DArray, f"{own}/detections", self.detections[name].append, queue)
            robot.listen(LabelInfo, f"{own}/label_info", self.infos[name].append, LATCHED)

    def start(self, network: dict[str, Any], program: Any = None, **more: Any) -> None:
        parameters = {**network, "cameras": list(NAMES), "node.autostart": True, **more}
        remapping = ("-r", "left/image:=/side/left/image_raw")
        given = {"program": program} if program else {}
        self.robot.start(parameters, *remapping, **given)
        self.plug()

    def plug(self) -> None:
        self.robot.unplug()
        for name in NAMES:
            topic = "/side/left/image_raw" if name == "left" else f"/{name}/image"
            self.cameras[name] = self.robot.camera(topic)
        for camera in self.cameras.values():
            self.robot.await_match(camera, QoSReliabilityPolicy.RELIABLE)

    def publish(self, name: str, image: np.ndarray, stamp_ns: int | None = None) -> Any:
        message = image_message(image)
        if stamp_ns is None:
            return self.robot.publish(self.cameras[name], message, FRAME_ID)
        message.header.frame_id = FRAME_ID
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
        self.cameras[name].publish(message)
        return message.header

    def result(self, name: str, header: Any) -> tuple[Image, Detection2DArray] | None:
        labels = [m for m in self.labels[name] if m.header == header]
        detections = [m for m in self.detections[name] if m.header == header]
        return (labels[0], detections[0]) if labels and detections else None

    def await_result(self, name: str, header: Any) -> Any:
        return self.robot.until(partial(self.result, name, header), f"labels of {name}")

    def diagnoses(self) -> dict[str, tuple[int, str, dict[str, str]]]:
        """The next diagnosis of each camera, and under "" that of the node."""
        self.robot.diagnose_anew()
        self.robot.until(lambda: len(self.robot.diagnostics) > len(NAMES), "diagnostics")
        return {
            status.name.partition(": camera ")[2]: (
                status.level[0],
                status.message,
                {v.key: v.value for v in status.values},
            )
            for status in self.robot.diagnostics
        }


def more(before: dict[str, str], after: dict[str, str]) -> dict[str, int]:
    """What became of a camera's images between two diagnoses."""
    return {
        key: int(after[f"images {key}"]) - int(before[f"images {key}"])
        for key in ("labelled", "dropped while busy", "lost on the way", "refused", "failed")
    }


@pytest.fixture(scope="module")
def rig(robot: Robot, network) -> Rig:
    rig = Rig(robot)
    rig.start(network, **{"node.stale_after_s": 1.5})
    return rig


@pytest.fixture(scope="module")
def pipeline(network) -> Pipeline:
    return Pipeline(merge(Config(), network))


def test_each_camera_is_answered_under_its_name_as_alone(rig: Rig, pipeline):
    """Byte for byte: on a CPU the network sees one image at once, whoever else waits."""
    images = {name: scene(seed=seed) for seed, name in enumerate(NAMES)}
    headers = {name: rig.publish(name, image) for name, image in images.items()}
    for name, image in images.items():
        labels, detections = rig.await_result(name, headers[name])
        expected = pipeline.process([Frame(image)])[0].instances.labels
        assert label_image(labels).tobytes() == expected.tobytes()
        assert expected.max() == 3
        assert detections.header == labels.header
        assert len(detections.detections) == 3
        assert [c.class_name for c in rig.infos[name][0].class_map] == ["red", "green", "blue"]
    assert all(len(labels) == 1 for labels in rig.labels.values())
    assert not rig.robot.labels  # of a camera without a name


def test_each_camera_is_diagnosed_and_so_is_the_node(rig: Rig):
    rounds = 1  # of the test before

    def all_well() -> Any:
        """What is diagnosed if images of all cameras came within `node.stale_after_s`."""
        nonlocal rounds
        rounds += 1
        for name in NAMES:
            rig.await_result(name, rig.publish(name, scene()))
        found = rig.diagnoses()
        return found if found[""][0] == 0 else None

    found = rig.robot.until(all_well, "three cameras in time")
    assert found.keys() == {"", *NAMES}
    _, message, values = found[""]
    assert message.startswith("3 cameras: ")
    assert values["runtime"] == "torch"
    assert values["cameras"] == "front, left, right"
    assert values["largest batch"] == "1"
    counted = [int(found[name][2]["images labelled"]) for name in NAMES]
    assert counted == [rounds] * 3
    assert values["images labelled"] == str(3 * rounds)
    assert found["left"][2]["image topic"] == "/side/left/image_raw"
    assert found["left"][2]["camera info"].startswith("/side/left/camera_info: ")
    assert found["right"][2]["image topic"] == "/right/image"


def test_cameras_that_share_a_frame_id_are_told_apart(rig: Rig, pipeline):
    """Each has its own tracker, and a clock of its own."""
    whole = scene()
    part = whole.copy()
    part[whole[..., 0] == 250] = 40  # the first class' square is gone
    start_ns = rig.robot.node.get_clock().now().nanoseconds + 2 * 10**9
    assert rig.robot.set_parameter("tracking.enabled", True).successful
    tracking = {name: Pipeline(pipeline.config, pipeline.checkpoint) for name in NAMES[:2]}
    for one in tracking.values():
        one.reconfigure(replace(one.config, tracking=TrackingConfig(enabled=True)))
    shown = {"front": (whole, part, whole), "left": (part, whole, part)}
    late_ns = {"front": 0, "left": 10**9}  # older stamps, which of one camera would be a jump
    for k in range(3):
        for name, images in shown.items():
            stamp_ns = start_ns + k * 100_000_000 - late_ns[name]
            labels, _ = rig.await_result(name, rig.publish(name, images[k], stamp_ns))
            (expected,) = tracking[name].process([Frame(images[k], stamp_ns)])
            np.testing.assert_array_equal(label_image(labels), expected.instances.labels)
    assert rig.robot.set_parameter("tracking.enabled", False).successful
    assert "jumped back" not in rig.robot.log()
    rig.await_result("left", rig.publish("left", whole, 17 * 10**9))
    assert "image stamps of camera 'left' jumped back" in rig.robot.log()


def test_a_bad_image_of_one_camera_is_its_own_trouble(rig: Rig):
    before = rig.diagnoses()
    strange = image_message(scene())
    strange.encoding = "klingon8"
    for _ in range(3):
        rig.robot.publish(rig.cameras["front"], strange, FRAME_ID)
        rig.await_result("left", rig.publish("left", scene()))
    after = rig.diagnoses()
    for name in NAMES:
        found = more(before[name][2], after[name][2])
        assert found["labelled"] == 3 * (name == "left")
        assert found["refused"] == 3 * (name == "front")
        assert found["failed"] == 0
    assert "klingon8" in after["front"][1]
    level, message, _ = after[""]
    assert level == 2
    assert "of 3 cameras: " in message


def test_when_a_camera_dies_the_others_go_on(rig: Rig):
    rig.robot.node.destroy_publisher(rig.cameras["right"])
    rig.robot.cameras.remove(rig.cameras["right"])
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        for name in ("front", "left"):
            rig.await_result(name, rig.publish(name, scene(96, 160)))
    found = rig.diagnoses()
    assert found["right"][0] == 2
    assert "no publisher on /right/image" in found["right"][1]
    assert [found[name][0] for name in ("front", "left")] == [0, 0]
    assert "1 of 3 cameras: " in found[""][1]
    assert "right: no image for" in found[""][1]
    rig.plug()
    rig.await_result("right", rig.publish("right", scene()))


def test_a_subscriber_with_another_qos_is_named_while_images_come(rig: Rig):
    """Events of the outputs are looked for seldom, but they are."""
    watcher = rig.robot.listen(Image, f"{NODE}/left/labels", lambda message: None, LATCHED)

    def named() -> bool:
        rig.await_result("left", rig.publish("left", scene(96, 160)))
        return "'~/left/labels', requesting incompatible QoS" in rig.robot.log()

    rig.robot.until(named, "a warning")
    rig.robot.node.destroy_subscription(watcher)


def test_every_image_is_labelled_or_counted_and_drops_are_fair(rig: Rig):
    """Under more than the node can do, whatever it cannot label."""
    for name in NAMES:  # losses are counted from a publisher's first image on
        rig.await_result(name, rig.publish(name, scene()))
    rig.robot.spin_for(1.0)  # and once it is known to be the only one
    before = rig.diagnoses()
    for name in NAMES:
        rig.labels[name].clear()
    images = {name: scene(seed=seed) for seed, name in enumerate(NAMES)}
    sent = 60
    for _ in range(sent):
        last = {name: rig.publish(name, image) for name, image in images.items()}
        rig.robot.spin_for(0.02)
    for name in NAMES:  # the newest one is always labelled
        rig.await_result(name, last[name])

    def counted() -> dict[str, dict[str, int]]:
        after = rig.diagnoses()
        return {name: more(before[name][2], after[name][2]) for name in NAMES}

    def accounted() -> dict[str, dict[str, int]] | None:
        found = counted()
        return found if all(sum(one.values()) == sent for one in found.values()) else None

    found = rig.robot.until(accounted, f"account of {sent} images of each, after {counted()}")
    for name in NAMES:
        assert found[name]["refused"] == found[name]["failed"] == 0
        stamps = [(m.header.stamp.sec, m.header.stamp.nanosec) for m in rig.labels[name]]
        assert stamps == sorted(set(stamps))  # once each, in order
        assert len(stamps) == found[name]["labelled"]
    labelled = [found[name]["labelled"] for name in NAMES]
    assert sum(labelled) < 3 * sent
    assert max(labelled) - min(labelled) <= 3, labelled


def test_one_status_and_one_pause_for_all_cameras(rig: Rig):
    words: list[str] = []
    listener = rig.robot.listen(
        String, f"{NODE}/status", lambda message: words.append(message.data), LATCHED
    )

    def see(*names: str) -> bool:
        for name in names:
            rig.publish(name, scene(96, 160))
        rig.robot.spin_for(0.1)
        return True

    rig.robot.until(lambda: see(*NAMES) and words[-1:] == ["labelling"], "all to be labelled")
    rig.robot.until(lambda: see("front", "left") and words[-1] == "waiting", "one to be missed")
    assert rig.robot.call(SetBool, "enable", data=False).message == "disabled"
    before = rig.diagnoses()
    assert before[""][0] == 0
    assert before[""][1].startswith("3 cameras, disabled (node.enabled): ")
    see(*NAMES)
    rig.robot.spin_for(1.5)
    after = rig.diagnoses()
    for name in NAMES:
        ignored = [int(one[name][2]["images ignored while disabled"]) for one in (before, after)]
        assert ignored[1] == ignored[0] + 1
        assert not any(more(before[name][2], after[name][2]).values())
    assert rig.robot.call(SetBool, "enable", data=True).success
    for name in NAMES:
        rig.await_result(name, rig.publish(name, scene()))
    rig.robot.node.destroy_subscription(listener)


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_in_batches_each_camera_has_its_own_labels(rig: Rig, network, runtime):
    """Of images of two sizes; and of three of one size, with which the network fails: they are
    tried one by one. All are as in a pipeline that sees one image at once."""
    pytest.importorskip(runtime)
    network = {**network, "runtime.name": runtime, "runtime.threads": 2}
    pipeline = Pipeline(merge(Config(), network))
    rig.robot.stop()
    rig.robot.log_file.unlink()
    waiting = {"node.largest_batch": 3, "node.batch_wait_ms": 2000.0}
    rig.start(network, program=(WATCHED, "--most", 2), **waiting)
    small, other, large = scene(96, 160, 1), scene(96, 160, 2), scene(192, 320, 3)
    told, rounds = "a batch of 3 images failed; trying them one by one", 0
    # On a busy machine three images may come too far apart for a batch.
    while rounds < 6 or (told not in rig.robot.log() and rounds < 60):
        images = ((small, large, other), (large, large, large))[rounds % 2]
        rounds += 1
        headers = [rig.publish(*pair) for pair in zip(NAMES, images, strict=True)]
        for name, image, header in zip(NAMES, images, headers, strict=True):
            labels, _ = rig.await_result(name, header)
            expected = pipeline.process([Frame(image)])[0].instances.labels
            assert label_image(labels).tobytes() == expected.tobytes()
    assert told in rig.robot.log()
    assert "no memory for 3 images" in rig.robot.log()

    def counted() -> dict[str, tuple[int, str, dict[str, str]]] | None:
        """Once all are: labels come a moment before they are counted."""
        found = rig.diagnoses()
        labelled = {found[name][2]["images labelled"] for name in NAMES}
        return found if labelled == {str(rounds)} else None

    found = rig.robot.until(counted, f"{rounds} labelled images of each camera")
    assert [found[name][2]["images failed"] for name in NAMES] == ["0"] * len(NAMES)


@pytest.mark.parametrize("names", ["[front, front]", "[front, 1st]", "[front, '']", "[]"])
def test_names_that_are_none_are_refused_in_words(robot: Robot, network, names):
    robot.start({**network, "cameras": names, "node.autostart": True})
    assert robot.process is not None
    assert robot.process.wait(90) == 1
    lines = robot.log().splitlines()
    if names == "[]":
        assert "empty list" in lines[-1]
    else:
        assert "instaseg_node: cameras: expected 1 to 32 different names" in lines[-1]
