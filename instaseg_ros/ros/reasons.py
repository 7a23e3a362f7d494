"""Explains why images are lost, or labelled late, with remedies. Needs no ROS."""

from __future__ import annotations

from collections.abc import Mapping

from instaseg_ros.ros.gpu import Gpu
from instaseg_ros.ros.input import LARGE_BYTES, Input, large_images
from instaseg_ros.ros.machine import Machine
from instaseg_ros.ros.statistics import SINCE_STAMP, TOTAL, Snapshot

GREW = 0.1  # share by which latency has grown before it is worth a sentence

BEFORE = "time before the image came"  # our name for what passes between exposure and arrival
# What to do about the slowest stage.
FASTER = {
    BEFORE: "the camera driver or a network holds images back, or the clocks of two machines "
    "differ: compare with ros2 topic delay on the camera's machine",
    "wait": "images wait for earlier ones, so the network is too slow",
    "convert": "let the camera publish rgb8 or bgr8, smaller or raw images",
    "preprocess": "set input.height and input.width smaller",
    "network": "set input.height and input.width or input.scale smaller, use weights of the fast "
    "profile, another runtime.name, or runtime.precision int8",
    "decode": "raise decode.seed_threshold or decode.min_pixels",
    "hand over": "the image before is still being published: see who subscribes to ~/overlay, "
    "~/markers and ~/labels/compressed, which are made then",
    "restore": "let the camera publish smaller images",
    "track": "raise decode.min_score or decode.min_pixels",
    "publish": "see who subscribes to the labels, and over which network",
}


def why_lost(source: Input, statistics: Snapshot) -> str:
    """The most likely reason why images are lost between their publisher and this node."""
    held_up = why_held_up(source.machine)
    best_effort = source.quality.reliability == "best_effort"
    if best_effort and statistics.image_bytes > LARGE_BYTES:
        large = large_images(source.machine)
        return f"{large}. {held_up}" if held_up else large
    if held_up:
        return held_up
    if best_effort:
        return (
            "The publisher is best effort: make it reliable, or check whether the network between "
            "the two loses packets"
        )
    return (
        "Although all are reliable, newer ones replace them before they are sent or read: increase "
        "the publisher's depth, or use compressed images (node.image_transport) over a slow network"
    )


def why_slow(statistics: Snapshot, machine: Machine) -> str:
    """The most likely reason why labels take long after their image."""
    if held_up := why_held_up(machine):
        return held_up
    inside = {name: ms for name, (ms, _) in statistics.latency_ms.items() if name != SINCE_STAMP}
    return _costliest(inside)


def why_over_budget(statistics: Snapshot, machine: Machine, gpu: Gpu | None = None) -> str:
    """The stage that costs most in the latest labels, and what has become slower."""
    reasons = (
        why_held_up(machine) or _costliest(statistics.slowest_ms),
        _why_grown(statistics),
        _why_gpu_slow(gpu),
    )
    return ". ".join(filter(None, reasons))


def _costliest(stage_ms: Mapping[str, float]) -> str:
    stages = {name: ms for name, ms in stage_ms.items() if name in FASTER}
    if SINCE_STAMP in stage_ms:
        stages[BEFORE] = stage_ms[SINCE_STAMP] - stage_ms.get(TOTAL, 0.0)
    if not stages:
        return "See the times of the stages"
    slowest = max(stages, key=lambda name: stages[name])
    return f"Most of it is {slowest}, {stages[slowest]:.0f} ms: {FASTER[slowest]}"


def _why_grown(statistics: Snapshot) -> str:
    """What has become slower in the last minutes; empty if nothing has."""
    trend = statistics.trend
    if trend is None or trend.change(TOTAL) < GREW:
        return ""
    grown = {s: ms - trend.before_ms.get(s, 0.0) for s, ms in trend.now_ms.items() if s in FASTER}
    most = max(grown, key=lambda stage: grown[stage], default=TOTAL)
    hot = ": a hot processor or GPU slows down" if most in ("network", "decode") else ""
    return f"It was {trend.before_ms[TOTAL]:.0f} ms {trend.minutes} min ago; {most} grew most{hot}"


def _why_gpu_slow(gpu: Gpu | None) -> str:
    """What keeps the GPU's clock down; empty if nothing does."""
    if gpu is None or not gpu.slowed_by:
        return ""
    clock = "" if gpu.clock_mhz is None else " to {} of {} MHz".format(*gpu.clock_mhz)
    heat = "" if gpu.temperature_c is None else f", at {gpu.temperature_c} °C"
    return f"{gpu.slowed_by.capitalize()} slows the GPU down{clock}{heat}"


def why_held_up(machine: Machine) -> str:
    """A message if other programs take the processor; empty if they do not, or this one has it."""
    if machine.waiting < 0.5 or machine.used > 0.5:
        return ""
    return (
        f"This process waits for a processor {machine.waiting:.0%} of the time it could run: find "
        "the cause with top and end it, or give this node a better nice value or more cores"
    )
