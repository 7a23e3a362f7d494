"""What the network thinks, as pictures: made while somebody subscribes, after the labels."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

pytest.importorskip("rclpy")

from coloured_shapes import scene
from rclpy.logging import get_logger
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from robot import NODE, RELIABLE, Robot, image_message, label_image
from sensor_msgs.msg import Image

from instaseg_ros.config import Config, merge
from instaseg_ros.frames import Frame
from instaseg_ros.pipeline import Pipeline
from instaseg_ros.recordings.image_messages import image_to_rgb
from instaseg_ros.recordings.result_messages import DEBUG_TOPICS
from instaseg_ros.ros.debug_pictures import DebugPictures
from instaseg_ros.view.panels import draw
from instaseg_ros.view.scene import scene_of
from instaseg_ros.view.viewer import Viewer

pytestmark = pytest.mark.ros

CAMERAS = ("front", "left")
PANELS = ("seed", "offset", "votes", "bandwidth", "clusters")  # of this network
SIZE = (192, 320)
PATIENCE_S = 60.0


class Watcher:
    """Two cameras, and what comes of their pictures."""

    def __init__(self, robot: Robot, network: dict[str, Any]) -> None:
        self.robot = robot
        self.labels: dict[str, list[Image]] = {name: [] for name in CAMERAS}
        for name in CAMERAS:
            topic = f"{NODE}/{name}/labels"
            robot.listen(Image, topic, self.labels[name].append, QoSProfile(depth=100))
        robot.start({**network, "cameras": list(CAMERAS), "node.autostart": True})
        self.cameras: dict[str, Publisher] = {}
        for name in CAMERAS:
            self.cameras[name] = robot.camera(f"/{name}/image")
        self.match()

    def match(self) -> None:
        for camera in self.cameras.values():
            self.robot.await_match(camera, QoSReliabilityPolicy.RELIABLE)

    def label(self, name: str, image: np.ndarray) -> Image:
        """The labels of an image."""
        header = self.robot.publish(self.cameras[name], image_message(image), name)

        def labelled() -> list[Image]:
            return [message for message in self.labels[name] if message.header == header]

        (labels,) = self.robot.until(labelled, f"labels of {name}")
        return labels

    def watch(self, camera: str, panel: str) -> tuple[list[Image], Callable[[], Any]]:
        """The pictures that come, and a function that ends it."""
        pictures: list[Image] = []
        topic = f"{NODE}/{camera}/debug/{panel}"
        subscription = self.robot.listen(Image, topic, pictures.append, RELIABLE)
        return pictures, lambda: self.robot.node.destroy_subscription(subscription)


@pytest.fixture(scope="module")
def watcher(robot: Robot, network) -> Watcher:
    return Watcher(robot, network)


@pytest.fixture(scope="module")
def pipeline(network) -> Pipeline:
    return Pipeline(merge(Config(), network))


def test_each_camera_has_the_topics_of_the_method(watcher: Watcher) -> None:
    node, name = watcher.robot.node, NODE.removeprefix("/")
    wanted = {f"{NODE}/{camera}/debug/{panel}" for camera in CAMERAS for panel in PANELS}

    def there() -> set[str]:
        topics = node.get_publisher_names_and_types_by_node(name, "/")
        return {topic for topic, _ in topics if "/debug/" in topic}

    watcher.robot.until(lambda: there() >= wanted, "the debug topics")
    assert there() == wanted
    assert {f"debug/{panel}" for panel in PANELS} == DEBUG_TOPICS.keys() - {"debug/embedding"}


@pytest.mark.parametrize("panel", PANELS)
def test_a_picture_is_a_panel_of_the_view_with_its_images_header(
    watcher: Watcher, pipeline: Pipeline, panel: str
) -> None:
    image = scene(*SIZE)
    (viewed,) = Viewer(pipeline).process([Frame(image)])
    least = pipeline.config.decode.foreground_threshold
    seen = scene_of(image, viewed.outputs, viewed.clusters, pipeline.class_names, least)
    pictures, end = watcher.watch("front", panel)
    headers = []

    def drawn() -> list[Image]:
        """Of these images: one from before may still wait when somebody subscribes."""
        headers.append(watcher.label("front", image).header)
        watcher.label("left", scene(*SIZE, seed=1))
        return [picture for picture in pictures if picture.header in headers]

    picture = watcher.robot.until(drawn, f"a picture of {panel}")[0]
    end()
    np.testing.assert_array_equal(image_to_rgb(picture), draw(seen, panel))


def test_labels_are_the_same_while_everything_is_watched(
    watcher: Watcher, pipeline: Pipeline
) -> None:
    images = {camera: scene(*SIZE, seed=n) for n, camera in enumerate(CAMERAS)}
    wanted = {
        camera: pipeline.process([Frame(image)])[0].instances.labels
        for camera, image in images.items()
    }
    watched = {(c, panel): watcher.watch(c, panel) for c in CAMERAS for panel in PANELS}

    def all_came() -> bool:
        for camera, image in images.items():
            np.testing.assert_array_equal(label_image(watcher.label(camera, image)), wanted[camera])
        return all(pictures for pictures, _ in watched.values())

    watcher.robot.until(all_came, "a picture of each panel of each camera")
    for (camera, _), (pictures, end) in watched.items():
        end()
        stamps = [(m.header.stamp.sec, m.header.stamp.nanosec) for m in pictures]
        assert stamps == sorted({*stamps})
        assert {m.header.frame_id for m in pictures} == {camera}
    assert "not drawn" not in watcher.robot.log()


def test_pictures_come_again_after_a_pause(watcher: Watcher) -> None:
    for transition in ("deactivate", "activate"):
        assert watcher.robot.change_state(transition)
    watcher.match()
    pictures, _ = watcher.watch("left", "clusters")
    watcher.robot.until(lambda: watcher.label("left", scene(*SIZE)) and pictures, "a picture")
    assert watcher.robot.stop() == 0


# Without a node


class StandInChannel:
    """Stands in for a CameraChannel that somebody watches, or nobody."""

    def __init__(self, name: str, wanted: list[str]) -> None:
        self.name, self.wanted = name, wanted
        self.published: list[tuple[Any, str]] = []
        self.came, self.may_go_on = threading.Event(), threading.Event()
        self.may_go_on.set()

    def debug_wanted(self) -> list[str]:
        return self.wanted

    def publish_debug(self, header: Any, name: str, picture: np.ndarray) -> None:
        self.came.set()
        assert self.may_go_on.wait(PATIENCE_S)
        if name == "fails":
            raise RuntimeError("no room")
        self.published.append((header, name))


class StandInNode(NamedTuple):
    """Stands in for a node of which only the logger is used."""

    def get_logger(self) -> Any:
        return get_logger("test_debug_pictures")


@pytest.fixture
def debug(pipeline: Pipeline) -> DebugPictures:
    return DebugPictures(StandInNode(), pipeline)


def test_while_nobody_subscribes_nothing_is_done(debug: DebugPictures) -> None:
    """Not even looked at is what the network said."""
    before = threading.active_count()
    debug.look([StandInChannel("front", [])], ["first"], None)
    assert threading.active_count() == before
    debug.close()


def test_a_slow_picture_holds_up_nobody_and_one_waits_for_each_camera(
    debug: DebugPictures, pipeline: Pipeline
) -> None:
    front, left = StandInChannel("front", ["seed"]), StandInChannel("left", ["clusters"])
    front.may_go_on.clear()
    inferred = pipeline.infer([Frame(scene(*SIZE), camera=name) for name in CAMERAS])
    channels: Any = [front, left]
    debug.look(channels[:1], ["0"], inferred.apart()[0])
    assert front.came.wait(PATIENCE_S)
    for n in range(1, 4):  # each returns, though the first picture is still being published
        debug.look(channels, [str(n)] * 2, inferred)
    assert front.published == left.published == []
    front.may_go_on.set()
    assert left.came.wait(PATIENCE_S)
    while len(front.published) < 2 or not left.published:
        threading.Event().wait(0.01)
    debug.close()
    assert front.published == [("0", "seed"), ("1", "seed")]
    assert left.published == [("1", "clusters")]


def test_a_picture_that_fails_is_told_and_the_next_is_drawn(
    debug: DebugPictures, pipeline: Pipeline, capfd: pytest.CaptureFixture[str]
) -> None:
    inferred = pipeline.infer([Frame(scene(*SIZE))])
    broken, whole = StandInChannel("a", ["nothing"]), StandInChannel("b", ["seed"])
    channels: Any = [broken, whole]
    debug.look(channels[:1], ["1"], inferred)
    debug.look(channels[1:], ["2"], inferred)
    assert whole.came.wait(PATIENCE_S)
    debug.close()
    assert whole.published == [("2", "seed")] and not broken.published
    assert "debug pictures not drawn" in capfd.readouterr().err
    debug.look(channels[1:], ["3"], inferred)
    assert len(whole.published) == 1  # it is closed
