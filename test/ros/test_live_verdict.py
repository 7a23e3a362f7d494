"""What is made of what was seen beside a robot. No ROS needed."""

from __future__ import annotations

import json
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from instaseg_ros.config import NodeConfig
from instaseg_ros.contract import format_of
from instaseg_ros.files import OutputFile
from instaseg_ros.ros.diagnostics import ERROR, OK, WARN
from instaseg_ros.ros.input import IMAGE, Publisher, Quality
from instaseg_ros.ros.live import bundle
from instaseg_ros.ros.live.machine import SET, TEXTS, declared, environment, shared_memory
from instaseg_ros.ros.live.observed import (
    Arrival,
    CameraSeen,
    LabelsSeen,
    NodeSeen,
    Observed,
    SharedMemory,
    Status,
    answers,
    frozen_s,
    read_header,
    timing,
)
from instaseg_ros.ros.live.pictures import measure
from instaseg_ros.ros.live.verdict import judge, table
from instaseg_ros.ros.machine import Machine

LIMITS = NodeConfig()
START_NS, PERIOD_NS, COUNT = 1_800_000_000_000_000_000, 100_000_000, 100
CAMERA = Publisher("/driver", IMAGE, Quality())
NODE = Publisher("/instaseg_node", IMAGE, Quality())
ACTIVE = {"lifecycle state": "active"}


def arrivals(
    count: int = COUNT, age_s: float = 0.02, later_s: float = 0.0, every: int = 1
) -> list[Arrival]:
    """Images every 0.1 s with a picture that changes, received `later_s` after they came."""
    made = []
    for index in range(0, count, every):
        stamp_ns = START_NS + index * PERIOD_NS
        delay_ns = round((age_s + later_s) * 1e9)
        heard_s = 100 + index * 0.1 + later_s
        made.append(Arrival(stamp_ns, "front", heard_s, stamp_ns + delay_ns, 6_000_000, index + 1))
    return made


def street(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (24, 32, 3), np.uint8)
    return cv2.resize(coarse, (512, 384), interpolation=cv2.INTER_NEAREST)


def robot() -> Observed:
    """A robot on which all is well."""
    camera = CameraSeen(
        "/image",
        arrivals(),
        (CAMERA,),
        message_type=IMAGE,
        listeners=("/instaseg_node",),
        pictures=[measure(street(seed)) for seed in range(3)],
        size=(384, 512),
    )
    labels = LabelsSeen("/instaseg_node/labels", arrivals(later_s=0.15), (NODE,), [3] * COUNT)
    told = [Status(101.0 + k, OK, "10.0 of 10.0 images/s labelled", ACTIVE) for k in range(9)]
    node = NodeSeen("/instaseg_node", {"": told}, {"weights": "street"})
    return Observed(
        100.0,
        110.2,
        cameras=[camera],
        labels=[labels],
        nodes=[node],
        images=(("/image", IMAGE),),
        shared_memory=SharedMemory(4096.0, 4000.0, 3.0, 6),
    )


def found(observed: Observed, level: int) -> list[str]:
    return [f"{f.about}: {f.what}" for f in judge(observed, LIMITS).findings if f.level == level]


def test_go() -> None:
    verdict = judge(robot(), LIMITS)
    assert verdict.go and not verdict.findings
    assert verdict.line == (
        "GO: 100 of 100 images of /image labelled, 150 ms after they came (p99 150 ms)"
    )
    assert "\n/instaseg_node/labels" in table(robot())


def no_images(seen: Observed) -> None:
    seen.cameras[0].arrivals.clear()
    seen.cameras[0].publishers = ()


def stopped(seen: Observed) -> None:
    del seen.cameras[0].arrivals[70:]


def frozen(seen: Observed) -> None:
    seen.cameras[0].arrivals = [one._replace(pixels=7) for one in arrivals()]


def dark(seen: Observed) -> None:
    seen.cameras[0].pictures = [measure(street() // 12)] * 3


def overexposed(seen: Observed) -> None:
    seen.cameras[0].pictures = [measure(np.full((90, 120, 3), 254, np.uint8))] * 3


def unreadable(seen: Observed) -> None:
    seen.cameras[0].unreadable = "encoding 'h264'"


def unstamped(seen: Observed) -> None:
    seen.cameras[0].arrivals = [one._replace(stamp_ns=0) for one in arrivals()]


def going_back(seen: Observed) -> None:
    first = seen.cameras[0].arrivals
    seen.cameras[0].arrivals = first[:50] + [
        one._replace(stamp_ns=one.stamp_ns - 9_000_000_000) for one in first[50:]
    ]


def old(seen: Observed) -> None:
    seen.cameras[0].arrivals = arrivals(age_s=1.5)


def of_the_future(seen: Observed) -> None:
    seen.cameras[0].arrivals = arrivals(age_s=-30)


def of_1970(seen: Observed) -> None:
    seen.cameras[0].arrivals = [
        one._replace(stamp_ns=one.stamp_ns - START_NS) for one in arrivals()
    ]


def lost(seen: Observed) -> None:
    seen.cameras[0].lost = 50
    seen.cameras[0].quality = Quality("best_effort")


def no_node(seen: Observed) -> None:
    seen.nodes.clear()
    seen.labels.clear()


def inactive(seen: Observed) -> None:
    told = Status(109.0, OK, "inactive: nothing is processed", {"lifecycle state": "inactive"})
    seen.nodes[0].statuses[""].append(told)


def in_error(seen: Observed) -> None:
    seen.nodes[0].statuses[""].append(Status(109.0, ERROR, "no image for 3.1 s", ACTIVE))


def one_camera_in_error(seen: Observed) -> None:
    seen.nodes[0].statuses["camera left"] = [Status(109.0, ERROR, "no image yet", ACTIVE)]


def no_labels(seen: Observed) -> None:
    seen.labels[0].arrivals.clear()


def labels_stopped(seen: Observed) -> None:
    del seen.labels[0].arrivals[50:]


def too_few(seen: Observed) -> None:
    seen.labels[0].arrivals = arrivals(later_s=0.15, every=20)


def too_late(seen: Observed) -> None:
    seen.labels[0].arrivals = arrivals(later_s=1.2)


def two_nodes(seen: Observed) -> None:
    seen.labels[0].publishers = (NODE, NODE._replace(node="/other/instaseg_node"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (no_images, "/image: no image came: no publisher on /image"),
        (stopped, "/image: no image for 3.3 s: /driver is a reliable publisher"),
        (frozen, "/image: the picture is frozen: the same to the last bit for 9.9 s"),
        (dark, "/image: the picture is dark"),
        (overexposed, "/image: the picture is overexposed"),
        (unreadable, "/image: its images cannot be read: encoding 'h264'"),
        (unstamped, "/image: 100 of 100 images have no stamp"),
        (going_back, "/image: stamps went back 1 times"),
        (old, "/image: images are 1.50 s old when they come"),
        (of_the_future, "/image: stamps are up to 30000 ms in the future: synchronise"),
        (of_1970, "/image: stamps are 20833 days old: a recording is played without /clock"),
        (lost, "/image: 50 images (33.3%) never came to this command. With its default"),
        (no_node, "instaseg_node: no such node speaks on /diagnostics"),
        (inactive, "activate it: ros2 lifecycle set /instaseg_node activate"),
        (in_error, "/instaseg_node: no image for 3.1 s"),
        (one_camera_in_error, "/instaseg_node, camera left: no image yet"),
        (no_labels, "/instaseg_node/labels: no labels came in 10 s"),
        (labels_stopped, "/instaseg_node/labels: no labels for 5.1 s"),
        (too_few, "/instaseg_node/labels: 0.50 labels/s, fewer than 1"),
        (too_late, "/instaseg_node/labels: half of the labels come 1.20 s or more after"),
        (two_nodes, "several nodes publish it: /instaseg_node, /other/instaseg_node"),
    ],
)
def test_no_go(change, said: str) -> None:
    seen = robot()
    change(seen)
    verdict = judge(seen, LIMITS)
    assert not verdict.go
    assert verdict.line.startswith("NO-GO: ")
    assert any(said in one for one in found(seen, ERROR)), found(seen, ERROR)


def blurred(seen: Observed) -> None:
    seen.cameras[0].pictures = [measure(cv2.GaussianBlur(street(), (0, 0), 6))] * 3


def plain(seen: Observed) -> None:
    seen.cameras[0].pictures = [measure(np.full((90, 120, 3), 128, np.uint8))] * 3


def a_little_ahead(seen: Observed) -> None:
    seen.cameras[0].arrivals = arrivals(age_s=-0.03)


def gaps(seen: Observed) -> None:
    seen.cameras[0].arrivals = [one for k, one in enumerate(arrivals()) if k % 10]


def jitter(seen: Observed) -> None:
    seen.cameras[0].arrivals = [
        one._replace(stamp_ns=one.stamp_ns + (k % 2) * 40_000_000)
        for k, one in enumerate(arrivals())
    ]


def repeated(seen: Observed) -> None:
    one = seen.cameras[0].arrivals
    one[5] = one[5]._replace(stamp_ns=one[4].stamp_ns)


def few_lost(seen: Observed) -> None:
    seen.cameras[0].lost = 2


def two_cameras(seen: Observed) -> None:
    seen.cameras[0].publishers = (CAMERA, CAMERA._replace(node="/bag"))


def dropping(seen: Observed) -> None:
    seen.labels[0].arrivals = arrivals(later_s=0.15, every=2)


def nothing_found(seen: Observed) -> None:
    seen.labels[0].objects = [0] * COUNT


def elsewhere(seen: Observed) -> None:
    seen.labels[0].arrivals = [one._replace(frame_id="rear") for one in arrivals(later_s=0.15)]


def once_in_error(seen: Observed) -> None:
    seen.nodes[0].statuses[""][2] = Status(103.0, ERROR, "newest image not labelled", ACTIVE)


def warns(seen: Observed) -> None:
    seen.nodes[0].statuses[""].append(Status(109.0, WARN, "labels come 1.5 s after", ACTIVE))


def full_shared_memory(seen: Observed) -> None:
    seen.shared_memory = SharedMemory(64.0, 3.0, 55.0, 40)


def absent_profile(seen: Observed) -> None:
    seen.machine = Machine(profile="/robot/shm.xml")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (blurred, "/image: the picture is blurred"),
        (plain, "/image: the picture shows one plain surface"),
        (a_little_ahead, "/image: stamps are up to 30 ms in the future"),
        (gaps, "/image: 9 gaps in 90 images, the longest of 200 ms where 100 ms are usual"),
        (jitter, "/image: stamps jitter by 40.0 ms at a period of"),
        (repeated, "/image: 1 images have the stamp of the one before them"),
        (few_lost, "/image: 2 images (2.0%) never came to this command"),
        (two_cameras, "/image: several nodes publish it: /driver, /bag"),
        (dropping, "49% of the 99 images of /image are not labelled"),
        (nothing_found, "no object in any of 100 images"),
        (elsewhere, "name their topic with --image"),
        (once_in_error, "1 of 9 times it said worse, such as 7 s before the end: newest image"),
        (warns, "/instaseg_node: labels come 1.5 s after"),
        (full_shared_memory, "/dev/shm: 3 of 64 MB are free"),
        (absent_profile, "Fast DDS: the profile /robot/shm.xml does not exist"),
    ],
)
def test_warnings_do_not_forbid_to_go(change, said: str) -> None:
    seen = robot()
    change(seen)
    verdict = judge(seen, LIMITS)
    assert verdict.go, verdict.line
    assert verdict.line.startswith("GO: ")
    assert any(said in one for one in found(seen, WARN)), found(seen, WARN)


def test_the_limits_are_the_parameters() -> None:
    assert judge(robot(), replace(LIMITS, max_latency_s=0.2)).go
    assert not judge(robot(), replace(LIMITS, max_latency_s=0.1)).go


def test_a_robot_without_anything() -> None:
    seen = Observed(100.0, 110.0, expected=("/left/image",))
    verdict = judge(seen, LIMITS)
    assert verdict.line.startswith("NO-GO: /left/image: no node publishes images there")
    assert table(seen) == "no topics of cameras or labels"


def test_timing_of_a_steady_camera() -> None:
    figures = timing(arrivals())
    assert figures is not None
    assert figures.rate_hz == pytest.approx(10)
    assert figures.age_ms == pytest.approx((20, 20))
    assert (figures.period_ms, figures.longest_ms) == (100, 100)
    assert (figures.gaps, figures.backwards, figures.repeated, figures.unstamped) == (0, 0, 0, 0)
    assert timing(arrivals(1)) is None


def test_labels_are_matched_by_header_whatever_their_order() -> None:
    camera = CameraSeen("/image", arrivals(), message_type=IMAGE)
    late = arrivals(later_s=0.15)[10:90:2]
    one = answers(camera, LabelsSeen("/n/labels", late[::-1]))
    assert (one.images, one.labelled) == (79, 40)
    assert one.latency_ms == pytest.approx([150] * 40)
    assert one.since_stamp_ms == pytest.approx([170] * 40)


def test_a_picture_that_changes_again_is_not_frozen() -> None:
    same = [one._replace(pixels=7) for one in arrivals()]
    assert frozen_s(same) == pytest.approx(9.9)
    assert frozen_s([*same, same[-1]._replace(pixels=8)]) == 0.0
    assert frozen_s([]) == 0.0


@pytest.mark.parametrize("order", ["<", ">"])
def test_header_of_a_serialized_message(order: str) -> None:
    name = b"front\0"
    head = bytes([0, order == "<", 0, 0])
    raw = head + struct.pack(order + "iII", 12, 34, len(name)) + name + b"\0\0rest"
    assert read_header(raw) == (12_000_000_034, "front", 22)
    for size in (3, 10, 18):
        with pytest.raises(ValueError, match="message"):
            read_header(raw[:size])


def test_no_variable_is_told_that_is_not_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", "5")
    monkeypatch.setenv("ROS_SECURITY_KEYSTORE", "/home/ada/keys")
    monkeypatch.setenv("ACCESS_TOKEN", "secret")
    told = environment()
    assert told["ROS_DOMAIN_ID"] == "5"
    assert told["ROS_SECURITY_KEYSTORE"] == "(set)"
    assert told.keys() <= TEXTS | SET
    assert declared({"ACCESS_TOKEN": "secret"}) == {}


def test_shared_memory_of_this_machine() -> None:
    seen = shared_memory()
    assert seen is None or 0 <= seen.free_mb <= seen.size_mb


@pytest.mark.parametrize("with_pictures", [False, True])
def test_the_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_pictures: bool) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    seen = robot()
    seen.nodes[0].parameters = {"weights": "/home/ada/mine.safetensors", "decode.min_pixels": 64}
    facts = bundle.report(seen, judge(seen, LIMITS), {"versions": {"instaseg_ros": "0.1.0"}})
    pictures = {"/image": (street(), START_NS)} if with_pictures else {}
    output = OutputFile(tmp_path / "report.zip", overwrite=True)
    bundle.write_bundle(output, seen, facts, "GO\n", pictures)
    assert [path.name for path in tmp_path.iterdir()] == ["report.zip"]
    with zipfile.ZipFile(tmp_path / "report.zip") as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    assert set(content) == {
        "report.txt",
        "report.json",
        "instaseg_node/diagnostics.json",
        "instaseg_node/parameters.json",
        "image.csv",
        "instaseg_node.labels.csv",
        *((f"image-{START_NS}.png",) if with_pictures else ()),
    }
    told = json.loads(content["report.json"])
    assert told["format"] == format_of("live report") and told["go"] is True
    assert told["latency_ms"]["/instaseg_node/labels"]["labelled"] == COUNT
    assert told["versions"] == {"instaseg_ros": "0.1.0"}
    assert json.loads(content["instaseg_node/parameters.json"])["weights"] == "~/mine.safetensors"
    assert not [name for name, text in content.items() if b"/home/ada" in text]
    assert content["image.csv"].count(b"\n") == COUNT + 1
    if with_pictures:
        png = np.frombuffer(content[f"image-{START_NS}.png"], np.uint8)
        np.testing.assert_array_equal(cv2.imdecode(png, cv2.IMREAD_COLOR)[..., ::-1], street())
