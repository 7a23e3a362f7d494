"""What is said in which state. No ROS needed."""

from dataclasses import replace

import pytest

from instaseg_ros.config import NodeConfig
from instaseg_ros.ros.diagnostics import ERROR, OK, WARN, Health, diagnose, diagnose_cameras
from instaseg_ros.ros.machine import Machine, MachineWatch
from instaseg_ros.ros.reasons import COMPRESSED, IMAGE, Input, Publisher, Quality
from instaseg_ros.ros.statistics import Counts, Snapshot

RELIABLE, BEST_EFFORT = Quality(), Quality("best_effort")
LATCHED = Quality("reliable", "transient_local")
CAMERA = Publisher("/camera", IMAGE, RELIABLE)
INPUT = Input("/image", IMAGE, RELIABLE, (CAMERA,))
BEST_EFFORT_INPUT = Input("/image", IMAGE, BEST_EFFORT, (Publisher("/camera", IMAGE, BEST_EFFORT),))
LIMITS = NodeConfig(stale_after_s=2.0, min_rate_hz=1.0, max_latency_s=1.0)
WORKING = Snapshot(
    counts=Counts(received=20, labelled=18, dropped=2),
    active_s=10.0,
    image_age_s=0.1,
    label_age_s=0.05,
    image_size=(1024, 2048),
    image_bytes=6_000_000,
    recently_dropped=2,
    rate_in_hz=10.0,
    rate_out_hz=8.0,
    latency_ms={"network": (80.0, 90.0), "total": (100.4, 131.6)},
)
SILENT = Snapshot(active_s=10.0)
STARVED = Machine(waiting=0.7, used=0.2)
PROFILE = Machine(profile="/robot/shm.xml", has_profile=True, shm_mb=8000.0)


def health(source: Input | None = INPUT, statistics: Snapshot = WORKING, **more) -> Health:
    return Health("active", LIMITS, input=source, statistics=statistics, **more)


def test_working_node():
    level, message, values = diagnose(health(engine={"runtime": "torch", "precision": "bf16"}))
    assert level == OK
    assert message == "8.0 of 10.0 images/s labelled, latency 100 ms (p99 132 ms)"
    assert values["runtime"] == "torch"
    assert values["precision"] == "bf16"
    assert values["image topic"] == "/image"
    assert values["image publishers"] == "/camera (reliable)"
    assert values["subscription durability"] == "volatile"
    assert values["age of newest labels (s)"] == "0.05"
    assert values["image size"] == "2048 x 1024"
    assert values["images dropped while busy"] == "2"
    assert values["network p50 (ms)"] == "80.00"
    assert values["network p99 (ms)"] == "90.00"


def test_several_cameras_are_diagnosed_one_by_one_and_together():
    node = Health("active", LIMITS, engine={"runtime": "torch"})
    source = replace(INPUT, topic="/left/image", publishers=())
    cameras = {"front": (INPUT, WORKING), "left": (source, SILENT)}
    found = diagnose_cameras(node, cameras)
    assert list(found) == ["", "front", "left"]
    assert found["front"] == diagnose(health())
    assert found["left"].level == ERROR
    level, message, values = found[""]
    assert level == ERROR
    assert message.startswith("1 of 2 cameras: 8.0 of 10.0 images/s labelled. left: no image yet")
    assert values["runtime"] == "torch"
    assert values["cameras"] == "front, left"
    assert values["images labelled"] == "18"
    assert "runtime" not in found["front"].values
    well = diagnose_cameras(node, dict.fromkeys(("front", "left"), (INPUT, WORKING)))
    assert well[""][:2] == (OK, "2 cameras: 16.0 of 20.0 images/s labelled")
    assert well[""].values["images dropped while busy"] == "4"


def test_cameras_of_an_inactive_node_are_as_well_as_the_node():
    inactive = Health("inactive", LIMITS, engine={"runtime": "torch"})
    found = diagnose_cameras(inactive, {"front": None, "left": None})
    assert {level for level, _, _ in found.values()} == {OK}
    assert all(message.startswith("inactive: ") for _, message, _ in found.values())
    assert found[""].values["runtime"] == "torch"


def test_a_camera_without_a_name_and_its_node_are_one():
    node = Health("active", LIMITS, engine={"runtime": "torch"})
    found = diagnose_cameras(node, {"": (INPUT, WORKING)})
    assert found == {"": diagnose(health(engine={"runtime": "torch"}))}
    assert diagnose_cameras(Health("inactive", LIMITS), {"": None})[""].level == OK


def test_inactive_node_is_well():
    level, message, _ = diagnose(Health("inactive", LIMITS))
    assert level == OK
    assert message.startswith("inactive: ")


def test_failed_transition_comes_first():
    level, message, _ = diagnose(Health("unconfigured", LIMITS, "configure failed: no weights"))
    assert (level, message) == (ERROR, "configure failed: no weights")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (replace(INPUT, publishers=()), "no publisher on /image; nobody publishes"),
        (
            replace(INPUT, publishers=(), elsewhere=(("/left/image_raw", IMAGE),)),
            "remap one: --ros-args -r image:=/left/image_raw",
        ),
        (
            Input(
                "/image/compressed",
                COMPRESSED,
                RELIABLE,
                elsewhere=(("/l/image/compressed", COMPRESSED),),
            ),
            "image:=/l/image",
        ),
        (
            replace(
                INPUT,
                publishers=(),
                elsewhere=(("/a", IMAGE), ("/image/compressed", COMPRESSED)),
            ),
            "but sensor_msgs/msg/CompressedImage is published on /image/compressed: "
            "set node.image_transport to compressed",
        ),
        (
            Input("/image/compressed", COMPRESSED, RELIABLE, elsewhere=(("/image", IMAGE),)),
            "but sensor_msgs/msg/Image is published on /image: set node.image_transport to raw",
        ),
        (
            replace(INPUT, publishers=(), elsewhere=(("/l/image/compressed", COMPRESSED),)),
            "set node.image_transport to compressed, and remap one: --ros-args -r image:=/l/image",
        ),
        (
            Input("/image/compressed", COMPRESSED, RELIABLE, elsewhere=(("/left", IMAGE),)),
            "set node.image_transport to raw, and remap one: --ros-args -r image:=/left",
        ),
        (
            replace(INPUT, publishers=(), elsewhere=tuple((f"/{k}", IMAGE) for k in range(30))),
            "/7 and 22 more; remap",
        ),
        (
            replace(INPUT, publishers=(Publisher("/camera", COMPRESSED, RELIABLE),)),
            "expected sensor_msgs/msg/Image; set node.image_transport to compressed",
        ),
        (
            replace(INPUT, publishers=(Publisher("/camera", "std_msgs/msg/String", RELIABLE),)),
            "/camera publishes std_msgs/msg/String on /image, expected sensor_msgs/msg/Image",
        ),
        (
            replace(INPUT, publishers=BEST_EFFORT_INPUT.publishers),
            "QoS mismatch in RELIABILITY with /camera on /image: it offers best_effort, "
            "this node asks for reliable",
        ),
        (
            replace(INPUT, quality=LATCHED),
            "QoS mismatch in DURABILITY with /camera on /image: it offers volatile, "
            "this node asks for transient_local",
        ),
        (replace(INPUT, incompatible_policy="DEADLINE"), "QoS mismatch in DEADLINE"),
        (BEST_EFFORT_INPUT, "fastdds_shm.xml"),
        (INPUT, "see whether it publishes at all with ros2 topic hz /image"),
        (
            replace(INPUT, publishers=(Publisher("/map", IMAGE, LATCHED),)),
            "/map is a reliable, transient_local publisher on /image, but nothing more arrives: "
            "a latched image may be its last, then set node.stale_after_s larger",
        ),
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
    assert diagnose(health(statistics=first)).message.startswith("first image is")


def test_refused_images():
    statistics = replace(WORKING, trouble="image: encoding klingon8", last_trouble="...")
    level, message, _ = diagnose(health(statistics=statistics))
    assert level == ERROR
    assert message == "newest image not labelled: image: encoding klingon8"


LOSING = replace(WORKING, loss=0.4, recently_dropped=0)


@pytest.mark.parametrize(
    ("machine", "said", "unsaid"),
    [
        (Machine(), "give the camera driver and this node the profile", "--shm-size"),
        (Machine(shm_mb=64.0), "--shm-size=512m", "so Fast DDS does without"),
        (PROFILE, "give the camera driver the profile too", "give the camera driver and this node"),
        (PROFILE._replace(shm_mb=64.0), "/dev/shm has 64 MB, too little", "camera driver"),
        (PROFILE._replace(has_profile=False), "/robot/shm.xml does not exist", "0.5 MB"),
        (Machine("rmw_cyclonedds_cpp"), "a buffer of rmw_cyclonedds_cpp", "Fast DDS"),
        (STARVED, "0.5 MB: give the camera driver and this node", "--shm-size"),
        (STARVED, "waits for a processor 70% of the time", "--shm-size"),
        (STARVED._replace(used=0.8), "Fast DDS", "waits for a processor"),  # itself takes it
    ],
)
def test_losses_of_large_best_effort_images_are_explained(machine, said, unsaid):
    source = replace(BEST_EFFORT_INPUT, machine=machine)
    level, message, _ = diagnose(health(source, LOSING))
    assert level == WARN
    assert message.startswith("40% of the images are lost on the way. ")
    assert message.endswith("latency 100 ms (p99 132 ms)")
    assert said in message
    assert unsaid not in message


def test_dds_is_not_to_blame_for_every_loss():
    """Small images fit its segment, and reliable ones are sent again."""
    small = replace(LOSING, image_bytes=360_000)
    for source, statistics, said in (
        (BEST_EFFORT_INPUT, small, "make it reliable"),
        (INPUT, LOSING, "Although all are reliable"),
        (replace(INPUT, machine=STARVED), LOSING, "the cause with top"),
        (replace(BEST_EFFORT_INPUT, machine=STARVED), small, "the cause with top"),
    ):
        level, message, _ = diagnose(health(source, statistics))
        assert level == WARN
        assert said in message
        assert "Fast DDS" not in message


def test_losses_cost_nothing_while_more_come_than_can_be_labelled():
    assert diagnose(health(BEST_EFFORT_INPUT, replace(LOSING, recently_dropped=5))).level == OK
    assert diagnose(health(statistics=replace(LOSING, loss=0.05))).level == OK


def test_images_come_and_no_labels():
    stuck = replace(WORKING, unlabelled_s=15.0, rate_out_hz=0.0)
    level, message, _ = diagnose(health(statistics=stuck))
    assert level == ERROR
    assert message.startswith("no labels for 15.0 s, though images come")
    assert "usually takes 100 ms" in message
    assert "set input.height and input.width" in message
    held_up = diagnose(health(replace(INPUT, machine=STARVED), stuck))
    assert held_up.level == ERROR
    assert "the cause with top" in held_up.message
    usual = replace(WORKING, unlabelled_s=15.0, latency_ms={"total": (14_000.0, 15_000.0)})
    assert diagnose(health(statistics=usual)).level == WARN  # slow as ever, not stuck
    assert diagnose(health(statistics=replace(WORKING, unlabelled_s=1.9))).level == OK


@pytest.mark.parametrize(
    ("stage", "way_out"),
    [
        ("network", "runtime.precision int8"),
        ("decode", "decode.seed_threshold"),
        ("publish", "who subscribes"),
        ("convert", "rgb8"),
    ],
)
def test_slow_labels_name_the_stage_and_the_way_out(stage, way_out):
    times = {"network": (80.0, 90.0), stage: (1500.0, 1600.0), "total": (1700.0, 1800.0)}
    slow = replace(WORKING, latency_ms=times)
    level, message, _ = diagnose(health(statistics=slow))
    assert level == WARN
    assert "labels come 1.7 s after their image, more than 1 s (node.max_latency_s)" in message
    assert f"Most of it is {stage}, 1500 ms" in message
    assert way_out in message
    rare = replace(WORKING, latency_ms={**times, "total": (900.0, 950.0)}, rate_out_hz=0.7)
    level, message, _ = diagnose(health(statistics=rare))
    assert level == WARN
    assert "fewer than 1 images/s are labelled (node.min_rate_hz), although more come" in message
    assert way_out in message


def test_few_labels_of_few_images_are_well():
    slow_camera = replace(WORKING, rate_in_hz=0.6, rate_out_hz=0.6, recently_dropped=0)
    assert diagnose(health(statistics=slow_camera)).level == OK
    begun = replace(WORKING, rate_out_hz=0.5, active_s=2.0)
    assert diagnose(health(statistics=begun)).level == OK


def test_images_that_are_refused_now_and_then_are_not_forgotten():
    refused = replace(WORKING, recently_dropped=0, rate_out_hz=0.5, last_trouble="image: cut short")
    level, message, _ = diagnose(health(statistics=refused))
    assert level == WARN
    assert "more come. image: cut short. 0.5 of 10.0" in message


def test_images_that_are_old_when_they_come():
    times = {**WORKING.latency_ms, "since stamp": (3100.0, 3200.0)}
    level, message, _ = diagnose(health(statistics=replace(WORKING, latency_ms=times)))
    assert level == WARN
    assert message.startswith("images are 3.0 s old when they come")


def test_the_first_images_may_take_longer():
    times = {"network": (4000.0, 4000.0), "total": (4100.0, 4100.0)}
    first = replace(WORKING, counts=Counts(received=2, labelled=1), latency_ms=times)
    assert diagnose(health(statistics=first)).level == OK


def test_this_process_knows_its_machine(monkeypatch, tmp_path):
    monkeypatch.delenv("FASTDDS_DEFAULT_PROFILES_FILE", raising=False)
    profile = tmp_path / "mine.xml"
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", str(profile))
    watch = MachineWatch("rmw_x")
    seen = watch.look()
    assert (seen.middleware, seen.profile, seen.has_profile) == ("rmw_x", str(profile), False)
    assert 0 <= seen.waiting <= 1
    assert 0 <= seen.used <= 1
    profile.touch()
    assert watch.look().has_profile
    monkeypatch.delenv("FASTRTPS_DEFAULT_PROFILES_FILE")
    seen = watch.look()
    assert (seen.profile, seen.has_profile) == ("", False)


def test_values_are_text():
    for state in (health(), health(statistics=SILENT), Health("inactive", LIMITS)):
        values = diagnose(state).values
        assert all(isinstance(text, str) for pair in values.items() for text in pair)
