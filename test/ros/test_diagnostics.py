"""What is said in which state. No ROS needed."""

from dataclasses import replace

import pytest

from instaseg_ros.config import NodeConfig
from instaseg_ros.ros.diagnostics import ERROR, OK, WARN, Health, diagnose, diagnose_cameras, status
from instaseg_ros.ros.gpu import Gpu
from instaseg_ros.ros.input import (
    COMPRESSED,
    IMAGE,
    Input,
    Publisher,
    Quality,
)
from instaseg_ros.ros.machine import Machine, MachineWatch
from instaseg_ros.ros.statistics import Counts, Snapshot
from instaseg_ros.ros.trend import Trend

RELIABLE, BEST_EFFORT = Quality(), Quality("best_effort")
LATCHED = Quality("reliable", "transient_local")
CAMERA = Publisher("/camera", IMAGE, RELIABLE)
INPUT = Input("/image", IMAGE, RELIABLE, (CAMERA,))
BEST_EFFORT_INPUT = Input("/image", IMAGE, BEST_EFFORT, (Publisher("/camera", IMAGE, BEST_EFFORT),))
LIMITS = NodeConfig(stale_after_s=2.0, min_rate_hz=1.0, max_latency_s=1.0)
WORKING = Snapshot(
    counts=Counts(received=20, labelled=18, dropped=2),
    active_s=10.0,
    labelling_s=10.0,
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
    begun = replace(WORKING, rate_out_hz=0.5, labelling_s=2.0)
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


BUDGET = replace(LIMITS, latency_budget_ms=120.0)
MANY = replace(WORKING, counts=Counts(received=400, labelled=400), recently_dropped=0)


def judged(limits: NodeConfig, statistics: Snapshot, source: Input = INPUT):
    return diagnose(Health("active", limits, input=source, statistics=statistics))


def test_budget_and_floor_are_off_unless_set():
    late = replace(MANY, latency_ms={"total": (900.0, 990.0)}, rate_out_hz=1.0, rate_in_hz=1.0)
    assert judged(LIMITS, late).level == OK


def test_labels_over_the_budget_name_the_stage_of_the_latest_ones():
    usual = {"total": (90.0, 131.6), "network": (80.0, 90.0), "wait": (1.0, 40.0)}
    latest = {"total": 131.6, "network": 81.0, "wait": 45.0, "hand over": 2.0}
    statistics = replace(MANY, latency_ms=usual, slowest_ms=latest)
    level, message, values = judged(BUDGET, statistics)
    assert level == WARN
    assert message.startswith(
        "labels come 132 ms (p99; median 90 ms) after their image came, more than 120 ms "
        "(node.latency_budget_ms). Most of it is network, 81 ms: set input.height"
    )
    assert message.endswith("latency 90 ms (p99 132 ms)")
    assert (values["wait p50 (ms)"], values["wait p99 (ms)"]) == ("1.00", "40.00")
    drawn = replace(statistics, slowest_ms={**latest, "hand over": 100.0})
    assert "Most of it is hand over, 100 ms: the image before" in judged(BUDGET, drawn).message
    starved = judged(BUDGET, statistics, replace(INPUT, machine=STARVED)).message
    assert "the cause with top" in starved
    assert judged(replace(BUDGET, latency_budget_ms=132.0), statistics).level == OK


def test_the_budget_counts_from_the_stamp_where_clocks_agree():
    usual = {"total": (60.0, 70.0), "since stamp": (150.0, 160.0), "network": (50.0, 55.0)}
    latest = {"total": 70.0, "since stamp": 160.0, "network": 55.0}
    level, message, _ = judged(BUDGET, replace(MANY, latency_ms=usual, slowest_ms=latest))
    assert level == WARN
    assert "160 ms (p99; median 150 ms) after their image's stamp" in message
    assert "Most of it is time before the image came, 90 ms: the camera driver" in message


def test_one_slow_image_among_the_first_is_no_breach():
    few = replace(
        MANY,
        counts=Counts(received=50, labelled=50),
        latency_ms={"network": (80.0, 3000.0), "total": (90.0, 3000.0)},
    )
    assert judged(BUDGET, few).level == OK
    slow = replace(few, latency_ms={"network": (130.0, 140.0), "total": (140.0, 150.0)})
    assert judged(BUDGET, slow).level == WARN


@pytest.mark.parametrize(
    ("stage", "said"), [("network", "a hot processor or GPU"), ("publish", "publish grew most. ")]
)
def test_over_budget_says_what_has_grown(stage, said):
    before = {"total": 100.0, "network": 60.0, "publish": 20.0}
    now = {**before, "total": 140.0, stage: before[stage] + 40.0}
    statistics = replace(MANY, trend=Trend(10, before, now), slowest_ms={"network": 80.0})
    level, message, values = judged(BUDGET, statistics)
    assert level == WARN
    assert f"It was 100 ms 10 min ago; {stage} grew most" in message
    assert said in message
    assert values["trend"] == "100.0 ms 10 min ago, 140.0 ms now (+40%)"
    steady = replace(statistics, trend=Trend(10, before, before))
    assert "min ago;" not in judged(BUDGET, steady).message


def test_a_gpu_that_is_held_down_is_named():
    hot = Gpu((3072.0, 8192.0), 91, (900, 1980), "heat")
    over = replace(MANY, latency_ms={"network": (130.0, 140.0), "total": (140.0, 150.0)})
    level, message, _ = diagnose(Health("active", BUDGET, input=INPUT, statistics=over, gpu=hot))
    assert level == WARN
    assert "Heat slows the GPU down to 900 of 1980 MHz, at 91 °C. " in message
    assert diagnose(health(gpu=hot)).level == OK
    unknown = Health("active", BUDGET, input=INPUT, statistics=over, gpu=Gpu())
    assert "GPU down" not in diagnose(unknown).message


FLOOR = replace(LIMITS, rate_floor_hz=9.0)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"rate_in_hz": 8.0}, "The camera sends no more: see ros2 topic hz /image"),
        ({"recently_dropped": 9}, "Most of it is network, 80 ms"),
        ({"loss": 0.3, "recently_dropped": 0}, "newer ones replace them before they are sent"),
        ({"recently_dropped": 0, "last_trouble": "image: cut short"}, "image: cut short"),
    ],
)
def test_rate_below_the_floor(facts, said):
    level, message, _ = judged(FLOOR, replace(WORKING, **facts))
    assert level == WARN
    assert message.startswith("fewer than 9 images/s are labelled (node.rate_floor_hz). ")
    assert said in message


def test_rate_is_judged_after_a_window_only():
    assert judged(FLOOR, replace(WORKING, labelling_s=4.0)).level == OK
    assert judged(FLOOR, replace(WORKING, rate_out_hz=9.5)).level == OK


def test_disabled_is_well_and_says_how_to_go_on():
    disabled = replace(LIMITS, enabled=False)
    for statistics in (WORKING, SILENT, replace(WORKING, trouble="...")):
        level, message, values = judged(disabled, statistics)
        assert level == OK
        assert message.startswith("disabled (node.enabled)")
        assert "~/enable" in message
        assert values["images ignored while disabled"] == "0"
    several = {"front": (INPUT, WORKING), "left": (INPUT, SILENT)}
    whole = diagnose_cameras(Health("active", disabled), several)[""]
    assert whole.level == OK
    assert whole.message.startswith("2 cameras, disabled (node.enabled): ")


@pytest.mark.parametrize(
    ("state", "word"),
    [
        (health(), "labelling"),
        (health(BEST_EFFORT_INPUT, LOSING), "labelling"),
        (Health("inactive", LIMITS), "inactive"),
        (Health("unconfigured", LIMITS), "inactive"),
        (Health("configuring", LIMITS, doing="importing torch"), "inactive"),
        (Health("finalized", LIMITS), "inactive"),
        (Health("unconfigured", LIMITS, "configure failed: no weights"), "failed"),
        (health(statistics=SILENT), "waiting"),
        (health(statistics=replace(WORKING, image_age_s=7.0)), "waiting"),
        (health(statistics=replace(WORKING, counts=Counts(received=1))), "waiting"),
        (health(statistics=replace(WORKING, trouble="image: cut short")), "failed"),
        (health(statistics=replace(WORKING, unlabelled_s=15.0)), "too slow"),
        (health(statistics=replace(WORKING, latency_ms={"total": (1700.0, 1800.0)})), "too slow"),
        (Health("active", replace(FLOOR, enabled=False), input=INPUT), "disabled"),
        (Health("active", FLOOR, input=INPUT, statistics=WORKING), "too slow"),
    ],
)
def test_status(state, word):
    assert status(state, {"": None}) == word
    if state.input is not None:  # of several cameras, that of the one that is worst off
        well, other = (INPUT, WORKING), (state.input, state.statistics)
        cameras = {"front": well, "left": other, "right": well}
        assert status(Health("active", state.limits), cameras) == word


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
