"""What the active node publishes for what a camera sends, and how its parameters change it."""

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy")

from coloured_shapes import CLASS_NAMES, scene
from rclpy.qos import QoSReliabilityPolicy
from robot import NODE, RELIABLE, Robot, image_message, label_image
from sensor_msgs.msg import CompressedImage, Image
from visualization_msgs.msg import MarkerArray

from instaseg_ros.config import Config, merge
from instaseg_ros.frames import Frame
from instaseg_ros.pipeline import Pipeline
from instaseg_ros.recordings.image_messages import image_to_rgb

pytestmark = pytest.mark.ros

SIZE = (192, 320)


@pytest.fixture(scope="module")
def camera(robot: Robot, network):
    """A reliable camera, with the node listening to it; what diagnostics say of an image lasts, so
    that it is heard on a busy machine too."""
    patient = {"node.autostart": True, "node.stale_after_s": 60.0}
    robot.start({**network, **patient}, "-r", "image:=/front/image_raw")
    camera = robot.camera("/front/image_raw")
    robot.await_match(camera, QoSReliabilityPolicy.RELIABLE)
    return camera


@pytest.fixture(scope="module")
def pipeline(network) -> Pipeline:
    return Pipeline(merge(Config(), network))


def expected_labels(pipeline: Pipeline, image: np.ndarray) -> np.ndarray:
    return pipeline.process([Frame(image)])[0].instances.labels


def test_header_size_and_ids(robot: Robot, camera):
    labels, detections = robot.label(camera, image_message(scene()), "front_optical_frame")
    assert labels.header.frame_id == detections.header.frame_id == "front_optical_frame"
    assert labels.header.stamp == detections.header.stamp
    assert (labels.height, labels.width) == SIZE
    ids = np.unique(label_image(labels))
    assert ids.tolist() == [0, *sorted(int(d.id) for d in detections.detections)]
    found = {d.results[0].hypothesis.class_id for d in detections.detections}
    assert found == set(CLASS_NAMES)
    for detection in detections.detections:
        assert detection.header == labels.header
        y, x = np.nonzero(label_image(labels) == int(detection.id))
        box = detection.bbox
        assert box.center.position.x == (x.min() + x.max() + 1) / 2
        assert box.center.position.y == (y.min() + y.max() + 1) / 2
        assert (box.size_x, box.size_y) == (np.ptp(x) + 1, np.ptp(y) + 1)
        assert detection.results[0].hypothesis.score > 0.8


@pytest.mark.parametrize("seed", range(3))
def test_labels_are_those_of_the_pipeline_byte_for_byte(robot: Robot, camera, pipeline, seed):
    image = scene(seed=seed)
    labels, _ = robot.label(camera, image_message(image))
    assert bytes(labels.data) == expected_labels(pipeline, image).astype("<u2").tobytes()


def messages_of_one_scene() -> dict[str, Image]:
    rgb = scene(seed=5)
    bgr = rgb[..., ::-1]
    bayer = np.zeros(SIZE, np.uint8)  # RGGB: each pixel keeps the one colour its filter passes
    bayer[0::2, 0::2] = rgb[0::2, 0::2, 0]
    bayer[0::2, 1::2] = rgb[0::2, 1::2, 1]
    bayer[1::2, 0::2] = rgb[1::2, 0::2, 1]
    bayer[1::2, 1::2] = rgb[1::2, 1::2, 2]
    y, u, v = cv2.split(cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV))
    yuyv = np.dstack([y, np.where(np.arange(SIZE[1]) % 2, v, u)])
    wide = (rgb.astype(np.uint16) << 8) | 0x55
    big_endian = image_message(wide.byteswap(), "rgb16")
    big_endian.is_bigendian = 1
    return {
        "rgb8, padded rows": image_message(rgb, "rgb8", padding=20),
        "bgr8": image_message(bgr, "bgr8"),
        "bgra8, padded rows": image_message(np.dstack([bgr, bgr[..., 0]]), "bgra8", padding=4),
        "mono8": image_message(rgb[..., 0], "mono8"),
        "rgb16, big-endian": big_endian,
        "bayer_rggb8": image_message(bayer, "bayer_rggb8", padding=64),
        "yuv422_yuy2": image_message(yuyv, "yuv422_yuy2"),
    }


@pytest.mark.parametrize("name", messages_of_one_scene())
def test_encodings(robot: Robot, camera, pipeline, name):
    message = messages_of_one_scene()[name]
    labels, _ = robot.label(camera, message)
    expected = expected_labels(pipeline, image_to_rgb(message))
    assert np.array_equal(label_image(labels), expected)
    assert expected.max() == (1 if name == "mono8" else 3)  # of one colour, one square is bright


def test_refused_image_is_counted_and_survived(robot: Robot, camera):
    strange = image_message(scene(), "rgb8")
    strange.encoding = "klingon8"
    robot.publish(camera, strange)
    message, values = robot.diagnosis("klingon8", level=2)
    assert "expected an encoding of rgb8" in message
    assert values["images refused"] == "1"
    cut = image_message(scene())
    cut.data = cut.data[:1000]
    robot.publish(camera, cut)
    message, values = robot.diagnosis("cut short")
    assert values["images refused"] == "2"
    large = Image(height=8000, width=8000, encoding="mono8", step=8000, data=bytes(8000))
    robot.publish(camera, large)
    message, values = robot.diagnosis("to 50000000 pixels, got 8000 x 8000")
    assert values["images refused"] == "3"
    robot.label(camera, image_message(scene()))
    message, values = robot.diagnosis("images/s labelled", level=0)
    assert "8000 x 8000" in values["last refusal or failure"]


def test_newest_frame_wins_and_the_rest_is_counted(robot: Robot, camera):
    before = robot.diagnosis("")[1]
    sent = 8
    for _ in range(sent):  # much faster than the network
        last = robot.publish(camera, image_message(scene(384, 640)))
    robot.until(lambda: robot.result(last), "labels of the newest image")
    _, after = robot.diagnosis("")

    def more(name: str) -> int:
        return int(after[f"images {name}"]) - int(before[f"images {name}"])

    assert more("labelled") + more("dropped while busy") + more("lost on the way") == sent
    assert more("labelled") < sent
    assert more("refused") == more("failed") == 0


def test_diagnostics_name_rate_latency_and_engine(robot: Robot, camera, network):
    robot.label(camera, image_message(scene()))
    _, values = robot.diagnosis("latency")  # what was lost just before may be a warning
    assert values["lifecycle state"] == "active"
    assert values["image topic"] == "/front/image_raw"
    assert values["image publishers"] == "/robot (reliable)"
    assert values["image size"] == "320 x 192"
    assert values["weights"] == network["weights"]
    stages = ("preprocess", "network", "decode", "restore", "publish", "total")
    for stage in stages:
        assert 0 <= float(values[f"{stage} p50 (ms)"]) <= float(values[f"{stage} p99 (ms)"])
    assert float(values["total p50 (ms)"]) >= float(values["network p50 (ms)"])
    assert float(values["since stamp p99 (ms)"]) > 0


def test_stale_camera(robot: Robot, camera):
    robot.label(camera, image_message(scene()))
    assert robot.set_parameter("node.stale_after_s", 1.0).successful
    message, _ = robot.diagnosis("no image for", level=2)
    assert "/robot is a reliable publisher on /front/image_raw, but nothing arrives" in message


def test_ids_last_once_tracking_is_on(robot: Robot, camera):
    whole = scene()
    part = whole.copy()
    part[whole[..., 0] == 250] = 40  # the first class' square is gone

    def id_by_class(image) -> dict[str, int]:
        labels, detections = robot.label(camera, image_message(image))
        ids = {d.results[0].hypothesis.class_id: int(d.id) for d in detections.detections}
        assert set(ids.values()) == set(np.unique(label_image(labels))) - {0}
        return ids

    assert set(id_by_class(part).values()) == {1, 2}
    assert robot.set_parameter("tracking.keep_s", 60.0).successful  # stamps are those of now
    assert robot.set_parameter("tracking.enabled", True).successful
    before = id_by_class(whole)
    assert set(before.values()) == {1, 2, 3}
    after = id_by_class(part)
    assert len(after) == 2
    assert after.items() < before.items()
    assert set(id_by_class(whole).values()) == {1, 2, 3}  # it comes back
    assert robot.set_parameter("tracking.enabled", False).successful
    assert robot.set_parameter("tracking.keep_s", 2.0).successful
    assert set(id_by_class(part).values()) == {1, 2}


def test_thresholds_change_live(robot: Robot, camera):
    assert robot.set_parameter("decode.min_pixels", 100_000).successful
    labels, detections = robot.label(camera, image_message(scene()))
    assert not np.any(label_image(labels))
    assert not detections.detections
    assert robot.set_parameter("decode.min_pixels", 128).successful
    _, detections = robot.label(camera, image_message(scene()))
    assert len(detections.detections) == 3
    assert robot.set_parameter("decode.foreground_threshold", 1).successful  # as good as 1.0
    _, detections = robot.label(camera, image_message(scene()))
    assert len(detections.detections) == 0
    assert robot.set_parameter("decode.foreground_threshold", 0.5).successful


def test_scale_changes_live(robot: Robot, camera):
    image = scene(384, 640)
    robot.label(camera, image_message(image))
    robot.await_diagnosed(image_size_for_the_network="640 x 384")
    assert robot.set_parameter("input.scale", 0.5).successful
    labels, _ = robot.label(camera, image_message(image))
    robot.await_diagnosed(image_size="640 x 384", image_size_for_the_network="320 x 192")
    ids = label_image(labels)
    assert ids.max() == 3
    assert np.array_equal(ids, ids[::2, ::2].repeat(2, 0).repeat(2, 1))  # of half the resolution
    assert robot.set_parameter("input.scale", 1.0).successful
    labels, _ = robot.label(camera, image_message(image))
    robot.await_diagnosed(image_size_for_the_network="640 x 384")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("decode.seed_threshold", 1.5, "decode.seed_threshold"),
        ("decode.min_pixels", -1, "decode.min_pixels"),
        ("weights", "other", "weights: expected to stay"),
        ("node.image_transport", "compressed", "node.image_transport: expected to stay 'raw'"),
        ("decode.seed_threshold", "high", "decode.seed_threshold: expected float, got str 'high'"),
        ("decode.min_pixels", 0.5, "decode.min_pixels: expected int, got float 0.5"),
        ("decode.class_vote", True, "expected a dense head that knows red, green, blue, got wei"),
    ],
)
def test_bad_values_are_refused_with_a_reason(robot: Robot, camera, name, value, reason):
    result = robot.set_parameter(name, value)
    assert not result.successful
    assert reason in result.reason


def test_parameters_describe_themselves(robot: Robot, camera):
    threshold = robot.describe_parameter("decode.seed_threshold")
    assert threshold.description.startswith("least seed score that starts an instance (live: ")
    assert threshold.floating_point_range[0].to_value == 1.0
    assert robot.describe_parameter("decode.min_pixels").integer_range[0].to_value == 1_000_000
    transport = robot.describe_parameter("node.image_transport")
    assert transport.additional_constraints == "raw or compressed"
    assert transport.description.endswith("(may be set while the node is unconfigured)")


def test_overlay_and_markers_for_those_who_look(robot: Robot, camera):
    overlays, markers = [], []
    watchers = [
        robot.listen(Image, f"{NODE}/overlay", overlays.append, RELIABLE),
        robot.listen(MarkerArray, f"{NODE}/markers", markers.append, RELIABLE),
    ]
    robot.until(
        lambda: all(
            robot.node.count_publishers(f"{NODE}/{name}") for name in ("overlay", "markers")
        ),
        "publishers of the drawings",
    )
    robot.spin_for(0.5)
    image = scene(seed=3)
    labels, _ = robot.label(camera, image_message(image))
    robot.until(lambda: overlays and markers, "drawings")
    assert overlays[-1].header == labels.header
    assert overlays[-1].encoding == "rgb8"
    picture = image_to_rgb(overlays[-1])
    assert picture.shape == image.shape
    assert not np.array_equal(picture[label_image(labels) > 0], image[label_image(labels) > 0])
    shown = [marker for marker in markers[-1].markers if marker.ns == "outline"]
    assert sorted(marker.id for marker in shown) == [1, 2, 3]
    assert shown[0].header == labels.header
    for watcher in watchers:
        robot.node.destroy_subscription(watcher)


def test_compressed_labels_for_those_who_subscribe(robot: Robot, camera):
    compressed: list[CompressedImage] = []
    watcher = robot.listen(
        CompressedImage, f"{NODE}/labels/compressed", compressed.append, RELIABLE
    )
    robot.until(lambda: robot.node.count_publishers(watcher.topic_name), "its publisher")
    robot.spin_for(0.5)
    for seed in (3, 4):
        labels, _ = robot.label(camera, image_message(scene(seed=seed)))
        robot.until(lambda now=labels: compressed and compressed[-1].header == now.header, "a PNG")
        png = np.frombuffer(compressed[-1].data, np.uint8)
        decoded = cv2.imdecode(png, cv2.IMREAD_UNCHANGED)
        assert decoded.max() == 3
        assert np.array_equal(decoded, label_image(labels))
    assert {message.format for message in compressed} == {"mono16; png compressed "}
    robot.node.destroy_subscription(watcher)


def test_time_may_jump_back(robot: Robot, camera):
    message = image_message(scene())
    message.header.stamp.sec, message.header.frame_id = 17, "camera"
    camera.publish(message)
    robot.until(lambda: robot.result(message.header), "labels of an image from the past")
    assert "image stamps of camera 'camera' jumped back" in robot.log()
