"""What is said in which state. No ROS needed."""

from dataclasses import replace

import pytest

from instaseg_ros.ros.diagnostics import ERROR, OK, WARN, Health, Input, Publisher, diagnose
from instaseg_ros.ros.statistics import Counts, Snapshot

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
CAMERA = Publisher("/camera", IMAGE, "reliable")
BEST_EFFORT_CAMERA = Publisher("/camera", IMAGE, "best_effort")
INPUT = Input("/image", IMAGE, "reliable", (CAMERA,))
WORKING = Snapshot(
    counts=Counts(received=10, labelled=8, dropped=2),
    active_s=10.0,
    image_age_s=0.1,
    image_size=(1024, 2048),
    rate_in_hz=10.0,
    rate_out_hz=8.0,
    latency_ms={"network": (80.0, 90.0), "total": (100.4, 131.6)},
)
SILENT = Snapshot(active_s=10.0)


def health(source: Input | None = INPUT, statistics: Snapshot = WORKING, **more) -> Health:
    return Health("active", 2.0, input=source, statistics=statistics, **more)


def test_working_node():
    level, message, values = diagnose(health(engine={"runtime": "torch", "precision": "bf16"}))
    assert level == OK
    assert message == "8.0 of 10.0 images/s labelled, latency 100 ms (p99 132 ms)"
    assert values["runtime"] == "torch"
    assert values["precision"] == "bf16"
    assert values["image topic"] == "/image"
    assert values["image publishers"] == "/camera (reliable)"
    assert values["image size"] == "2048 x 1024"
    assert values["images dropped while busy"] == "2"
    assert values["network p50 (ms)"] == "80.00"
    assert values["network p99 (ms)"] == "90.00"


def test_inactive_node_is_well():
    level, message, _ = diagnose(Health("inactive", 2.0))
    assert level == OK
    assert message.startswith("inactive: ")


def test_failed_transition_comes_first():
    level, message, _ = diagnose(Health("unconfigured", 2.0, "configure failed: no weights"))
    assert (level, message) == (ERROR, "configure failed: no weights")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (replace(INPUT, publishers=()), "no publisher on /image; nobody publishes"),
        (
            replace(INPUT, publishers=(), elsewhere=("/left/image_raw",)),
            "remap one: --ros-args -r image:=/left/image_raw",
        ),
        (
            Input("/image/compressed", COMPRESSED, "reliable", elsewhere=("/l/image/compressed",)),
            "image:=/l/image",
        ),
        (
            replace(INPUT, publishers=(Publisher("/camera", COMPRESSED, "reliable"),)),
            "expected sensor_msgs/msg/Image; set node.image_transport to compressed",
        ),
        (
            replace(INPUT, publishers=(Publisher("/camera", "std_msgs/msg/String", "reliable"),)),
            "/camera publishes std_msgs/msg/String on /image, expected sensor_msgs/msg/Image",
        ),
        (replace(INPUT, publishers=(BEST_EFFORT_CAMERA,)), "QoS mismatch in RELIABILITY"),
        (replace(INPUT, incompatible_policy="DURABILITY"), "QoS mismatch in DURABILITY"),
        (
            replace(INPUT, publishers=(BEST_EFFORT_CAMERA,), reliability="best_effort"),
            "fastdds_shm.xml",
        ),
        (INPUT, "see whether it publishes at all with ros2 topic hz /image"),
    ],
)
def test_reasons_for_silence(source, said):
    level, message, _ = diagnose(health(source, SILENT))
    assert level == ERROR
    assert message.startswith("no image yet: ")
    assert said in message
    stale = replace(WORKING, image_age_s=7.0)
    level, message, _ = diagnose(health(source, stale))
    assert level == ERROR
    assert message.startswith("no image for 7.0 s: ")
    assert said in message


def test_patience_after_activation():
    assert diagnose(health(statistics=Snapshot(active_s=1.0))).level == WARN
    first = Snapshot(active_s=1.0, image_age_s=0.5, counts=Counts(received=1))
    assert diagnose(health(statistics=first)).message == "first image is being processed"


def test_refused_images():
    statistics = replace(WORKING, trouble="image: encoding klingon8", last_trouble="...")
    level, message, _ = diagnose(health(statistics=statistics))
    assert level == ERROR
    assert message == "newest image not labelled: image: encoding klingon8"


def test_losses_of_best_effort_images_are_explained():
    statistics = replace(WORKING, loss=0.4)
    assert diagnose(health(statistics=statistics)).level == OK  # reliable: only a busy machine
    source = replace(INPUT, reliability="best_effort", publishers=(BEST_EFFORT_CAMERA,))
    level, message, _ = diagnose(health(source, statistics))
    assert level == WARN
    assert message.startswith("40% of the images are lost on the way")
    assert "fastdds_shm.xml" in message


def test_values_are_text():
    for state in (health(), health(statistics=SILENT), Health("inactive", 2.0)):
        values = diagnose(state).values
        assert all(isinstance(text, str) for pair in values.items() for text in pair)
