"""Why objects are not located. No ROS needed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from instaseg_ros.config import NodeConfig
from instaseg_ros.ros.depth_statistics import DepthSnapshot, DepthStatistics
from instaseg_ros.ros.diagnostics import OK, WARN, Health, diagnose
from instaseg_ros.ros.input import (
    COMPRESSED,
    IMAGE,
    Input,
    Publisher,
    Quality,
)
from instaseg_ros.ros.statistics import Counts, Snapshot

RELIABLE, BEST_EFFORT = Quality(), Quality("best_effort")
IMAGES = Input("/image", IMAGE, RELIABLE, (Publisher("/camera", IMAGE, RELIABLE),))
DEPTH = Input("/depth", IMAGE, RELIABLE, (Publisher("/depth_camera", IMAGE, RELIABLE),))
LIMITS = NodeConfig(stale_after_s=2.0)
WORKING = Snapshot(
    counts=Counts(received=20, labelled=20),
    active_s=10.0,
    image_age_s=0.1,
    label_age_s=0.1,
    image_size=(480, 640),
    rate_in_hz=10.0,
    rate_out_hz=10.0,
)


def diagnosed(depth: DepthSnapshot) -> tuple[int, str, dict[str, str]]:
    statistics = replace(WORKING, depth=depth)
    return diagnose(Health("active", LIMITS, input=IMAGES, statistics=statistics))


def test_located_objects_are_well_and_counted():
    depth = DepthStatistics(DEPTH)
    depth.received(10.0)
    depth.located(10.1, later_ms=-3.0, objects=4, left_out=2)
    depth.without("the nearest depth image was taken 30 ms before the image")
    level, message, values = diagnosed(depth.snapshot(11.0, DEPTH))
    assert level == OK and "located" not in message
    assert values["depth topic"] == "/depth"
    assert values["depth publishers"] == "/depth_camera (reliable)"
    assert (values["images with depth"], values["images without depth"]) == ("1", "1")
    assert (values["objects in space"], values["objects without enough depth"]) == ("4", "2")
    assert values["depth taken later (ms)"] == "-3.0"
    assert values["last reason without depth"].endswith("before the image")
    assert values["age of newest depth (s)"] == "1.00"


def test_the_newest_reason_is_said_while_depth_comes():
    depth = DepthStatistics(DEPTH)
    depth.located(10.1, 0.0, 1, 0)
    depth.received(19.9)
    depth.without("depth image: expected encoding 32FC1, got 'rgb8'")
    level, message, _ = diagnosed(depth.snapshot(20.0, DEPTH))
    assert level == WARN
    assert message.startswith("10.0 of 10.0 images/s labelled. Objects are not located: depth ima")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (replace(DEPTH, publishers=()), "no publisher on /depth; remap it"),
        (
            replace(DEPTH, publishers=(Publisher("/d", COMPRESSED, RELIABLE),)),
            f"/d publishes {COMPRESSED} on /depth, expected {IMAGE}; set depth.transport to "
            "compressedDepth",
        ),
        (
            replace(DEPTH, publishers=(Publisher("/d", IMAGE, BEST_EFFORT),)),
            "QoS mismatch in RELIABILITY with /d on /depth",
        ),
        (DEPTH, "/depth_camera is a reliable publisher on /depth, but nothing arrives"),
    ],
)
@pytest.mark.parametrize("came", [False, True])
def test_why_no_depth_comes(source, said, came):
    depth = DepthStatistics(DEPTH)
    if came:
        depth.received(10.0)
    depth.without("")
    level, message, values = diagnosed(depth.snapshot(20.0, source))
    assert level == WARN
    assert f"no depth{' any more' if came else ''}: {said}" in message
    assert values["last reason without depth"] == "no depth image came"
