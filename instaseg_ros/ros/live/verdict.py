"""Judges what was observed beside a running robot: go or no-go, with reasons. Needs no ROS."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from instaseg_ros.config import NodeConfig
from instaseg_ros.ros.diagnostics import ERROR, LOSS_TO_WARN_OF, WARN
from instaseg_ros.ros.input import LARGER_SHM, Input, large_images, why_silent
from instaseg_ros.ros.live.observed import (
    Answers,
    CameraSeen,
    LabelsSeen,
    NodeSeen,
    Observed,
    TopicSeen,
    answered,
    frozen_s,
    timing,
)
from instaseg_ros.tables import text_table

FUTURE_MS = 5.0  # stamps this much ahead of this clock are of another clock
STEADY = 0.25  # share of the period that stamps may jitter by
GAPS_TO_WARN_OF = 0.02  # share of intervals that lack an image
FLAWED = 0.5  # share of the pictures that have the same flaw
FLAWS = {  # flaw of a picture: level, what it means
    "dark": (ERROR, "the picture is dark: is a cap on the lens, is the exposure fixed?"),
    "overexposed": (ERROR, "the picture is overexposed: is the exposure fixed?"),
    "plain": (WARN, "the picture shows one plain surface: is the lens covered?"),
    "blurred": (WARN, "the picture is blurred: look at lens and focus"),
}
DAY_S = 86400.0
FREE_SHM_MB = 64.0  # one segment of our profile


class Finding(NamedTuple):
    """Something that is wrong. level: ERROR forbids to go, WARN does not. about: topic or node."""

    level: int
    about: str
    what: str

    def __str__(self) -> str:
        return f"{'no-go' if self.level == ERROR else 'warning'}  {self.about}: {self.what}"


class Verdict(NamedTuple):
    """go: nothing forbids it. line: the verdict in one line. findings: the worst first."""

    go: bool
    line: str
    findings: tuple[Finding, ...]


def judge(observed: Observed, limits: NodeConfig) -> Verdict:
    """The verdict. limits: what counts as late, stale and slow."""
    pairs = answered(observed)
    found = [
        *_about_topics(observed),
        *_about_nodes(observed),
        *(f for camera in observed.cameras for f in _about_camera(camera, observed, limits)),
        *(f for labels in observed.labels for f in _about_labels(labels, observed, limits)),
        *(f for one in pairs for f in _about_latency(one, observed, limits)),
        *_about_machine(observed),
    ]
    found.sort(key=lambda finding: -finding.level)
    errors = [finding for finding in found if finding.level == ERROR]
    if errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        return Verdict(False, f"NO-GO: {errors[0].about}: {errors[0].what}{more}", tuple(found))
    remarks = len(found)
    said = f"; {remarks} warning{'s' if remarks > 1 else ''}" if remarks else ""
    return Verdict(True, f"GO: {'; '.join(map(_working, pairs))}{said}", tuple(found))


def _working(one: Answers) -> str:
    median, p99 = np.percentile(one.latency_ms, [50, 99])
    return (
        f"{one.labelled} of {one.images} images of {one.camera} labelled, "
        f"{median:.0f} ms after they came (p99 {p99:.0f} ms)"
    )


def _about_topics(observed: Observed) -> Iterator[Finding]:
    seen = {camera.topic for camera in observed.cameras}
    for topic in observed.expected:
        if topic not in seen:
            listed = ", ".join(name for name, _ in observed.images) or "no image topic at all"
            yield Finding(ERROR, topic, f"no node publishes images there, but there is {listed}")
    if not seen and not observed.expected:
        yield Finding(
            ERROR,
            "cameras",
            "no node publishes images: is the camera driver running, in this ROS_DOMAIN_ID?",
        )


def _about_camera(camera: CameraSeen, observed: Observed, limits: NodeConfig) -> Iterator[Finding]:
    if not camera.arrivals:
        yield Finding(ERROR, camera.topic, f"no image came: {_why_silent(camera, observed)}")
        return
    silent_s = observed.end_s - camera.arrivals[-1].heard_s
    if silent_s > limits.stale_after_s:
        why = _why_silent(camera, observed)
        yield Finding(ERROR, camera.topic, f"no image for {silent_s:.1f} s: {why}")
    yield from _about_picture(camera, limits)
    yield from _about_stamps(camera, observed, limits)
    yield from _about_losses(camera, observed)
    same_type = [p.node for p in camera.publishers if p.message_type == camera.message_type]
    if len(same_type) > 1:
        yield Finding(WARN, camera.topic, f"several nodes publish it: {', '.join(same_type)}")


def _why_silent(camera: CameraSeen, observed: Observed) -> str:
    return why_silent(
        Input(
            topic=camera.topic,
            message_type=camera.message_type,
            quality=camera.quality,
            publishers=camera.publishers,
            elsewhere=tuple(one for one in observed.images if one[0] != camera.topic),
            incompatible_policy=camera.incompatible_policy,
            machine=observed.machine,
        )
    )


def _about_picture(camera: CameraSeen, limits: NodeConfig) -> Iterator[Finding]:
    if camera.unreadable:
        yield Finding(ERROR, camera.topic, f"its images cannot be read: {camera.unreadable}")
    still_s = frozen_s(camera.arrivals)
    if still_s > limits.stale_after_s:
        yield Finding(
            ERROR,
            camera.topic,
            f"the picture is frozen: the same to the last bit for {still_s:.1f} s, though images "
            "come (a simulated camera may do so while nothing moves)",
        )
    flaws = Counter(picture.flaw for picture in camera.pictures)
    for flaw, (level, meaning) in FLAWS.items():
        if flaws[flaw] > FLAWED * len(camera.pictures):
            yield Finding(level, camera.topic, meaning)


def _about_stamps(camera: CameraSeen, observed: Observed, limits: NodeConfig) -> Iterator[Finding]:
    found = timing(camera.arrivals)
    if found is None:
        return
    count, about = len(camera.arrivals), camera.topic
    if found.unstamped > 1:  # one may be the start of a count
        said = f"{found.unstamped} of {count} images have no stamp"
        yield Finding(ERROR, about, f"{said}: let the driver fill header.stamp")
        return
    if found.backwards:
        yield Finding(
            ERROR,
            about,
            f"stamps went back {found.backwards} times: two publishers, or a clock that was set",
        )
    if found.repeated:
        yield Finding(WARN, about, f"{found.repeated} images have the stamp of the one before them")
    yield from _about_clock(about, found.age_ms[0] / 1e3, found.youngest_ms, observed, limits)
    gaps = found.gaps / max(count - 1, 1)
    if gaps > GAPS_TO_WARN_OF:
        yield Finding(
            WARN,
            about,
            f"{found.gaps} gaps in {count} images, the longest of {found.longest_ms:.0f} ms where "
            f"{found.period_ms:.0f} ms are usual: images are missing",
        )
    if found.jitter_ms > STEADY * found.period_ms:
        yield Finding(
            WARN,
            about,
            f"stamps jitter by {found.jitter_ms:.1f} ms at a period of {found.period_ms:.1f} ms: "
            "let the driver stamp at exposure, not at arrival",
        )


def _about_clock(
    about: str, age_s: float, youngest_ms: float, observed: Observed, limits: NodeConfig
) -> Iterator[Finding]:
    remedy = "synchronise the clocks of the two machines (chrony, PTP)"
    if observed.simulated:
        remedy = "/clock is published here, so that every node needs use_sim_time"
    if abs(age_s) > DAY_S:
        said = "a recording is played without /clock (ros2 bag play --clock), or the driver counts "
        yield Finding(
            ERROR,
            about,
            f"stamps are {abs(age_s) / DAY_S:.0f} days {'old' if age_s > 0 else 'in the future'}: "
            f"{said}from its own start",
        )
        return
    if youngest_ms < -FUTURE_MS:
        level = ERROR if -youngest_ms / 1e3 > limits.max_latency_s else WARN
        ahead = -youngest_ms
        yield Finding(level, about, f"stamps are up to {ahead:.0f} ms in the future: {remedy}")
    elif age_s > limits.max_latency_s:
        yield Finding(
            ERROR,
            about,
            f"images are {age_s:.2f} s old when they come, more than {limits.max_latency_s:g} s "
            f"(node.max_latency_s): they wait in the driver or the network, or {remedy}",
        )


def _about_losses(camera: CameraSeen, observed: Observed) -> Iterator[Finding]:
    share = camera.lost / (camera.lost + len(camera.arrivals))
    if not share:
        return
    why = "increase the publisher's depth, or see whether the network loses packets"
    if camera.quality.reliability == "best_effort":
        why = large_images(observed.machine)
    level = ERROR if share > LOSS_TO_WARN_OF else WARN
    yield Finding(
        level, camera.topic, f"{camera.lost} images ({share:.1%}) never came to this command. {why}"
    )


def _about_nodes(observed: Observed) -> Iterator[Finding]:
    if not observed.nodes:
        yield Finding(
            ERROR,
            "instaseg_node",
            "no such node speaks on /diagnostics: is it running, in this ROS_DOMAIN_ID?",
        )
    for node in observed.nodes:
        yield from _about_node(node, observed)


def _about_node(node: NodeSeen, observed: Observed) -> Iterator[Finding]:
    for part, statuses in node.statuses.items():
        about = f"{node.name}, {part}" if part else node.name
        newest = statuses[-1]
        state = newest.values["lifecycle state"]
        if newest.level >= ERROR:
            yield Finding(ERROR, about, newest.message)
        elif state != "active":
            activate = f"; activate it: ros2 lifecycle set {node.name} activate"
            idle = state in ("inactive", "unconfigured")
            yield Finding(ERROR, about, newest.message + (activate if idle else ""))
        elif newest.level >= WARN:
            yield Finding(WARN, about, newest.message)
        earlier = [one for one in statuses[:-1] if one.level > max(newest.level, WARN - 1)]
        if earlier:
            worst = max(earlier, key=lambda one: one.level)
            yield Finding(
                WARN,
                about,
                f"{len(earlier)} of {len(statuses)} times it said worse, such as "
                f"{observed.end_s - worst.heard_s:.0f} s before the end: {worst.message}",
            )


def _about_labels(labels: LabelsSeen, observed: Observed, limits: NodeConfig) -> Iterator[Finding]:
    if not labels.arrivals:
        yield Finding(ERROR, labels.topic, f"no labels came in {observed.seconds:.0f} s")
        return
    silent_s = observed.end_s - labels.arrivals[-1].heard_s
    if silent_s > limits.stale_after_s:
        yield Finding(ERROR, labels.topic, f"no labels for {silent_s:.1f} s")
    found = timing(labels.arrivals)
    if found and found.rate_hz < limits.min_rate_hz:
        yield Finding(
            ERROR,
            labels.topic,
            f"{found.rate_hz:.2f} labels/s, fewer than {limits.min_rate_hz:g} (node.min_rate_hz)",
        )
    if labels.objects and not any(labels.objects):
        yield Finding(
            WARN, labels.topic, f"no object in any of {len(labels.objects)} images: is it true?"
        )
    if len(labels.publishers) > 1:
        names = ", ".join(publisher.node for publisher in labels.publishers)
        yield Finding(ERROR, labels.topic, f"several nodes publish it: {names}")
    if not any(one.labels == labels.topic for one in answered(observed)):
        yield Finding(
            WARN,
            labels.topic,
            "its images did not come to this command, so that latency is unknown: name their topic "
            "with --image",
        )


def _about_latency(one: Answers, observed: Observed, limits: NodeConfig) -> Iterator[Finding]:
    median_s, p99_s = np.percentile(one.latency_ms, [50, 99]) / 1e3
    limit = f"{limits.max_latency_s:g} s (node.max_latency_s)"
    late, shown = (ERROR, median_s) if median_s > limits.max_latency_s else (WARN, p99_s)
    if shown > limits.max_latency_s:
        which = "half" if late == ERROR else "1 %"
        yield Finding(
            late,
            one.labels,
            f"{which} of the labels come {shown:.2f} s or more after their image, over {limit}",
        )
    missing = 1 - one.labelled / max(one.images, 1)
    if missing > LOSS_TO_WARN_OF:
        yield Finding(
            WARN,
            one.labels,
            f"{missing:.0%} of the {one.images} images of {one.camera} are not labelled: the node "
            "works on the newest image, and drops what comes meanwhile",
        )


def _about_machine(observed: Observed) -> Iterator[Finding]:
    shared = observed.shared_memory
    fast_dds = "fastrtps" in observed.machine.middleware
    if fast_dds and shared and shared.free_mb < FREE_SHM_MB:
        yield Finding(
            WARN,
            "/dev/shm",
            f"{shared.free_mb:.0f} of {shared.size_mb:.0f} MB are free, less than one segment for "
            f"whole images; {shared.segments} segments of Fast DDS take {shared.segments_mb:.0f} "
            f"MB: remove those of killed programs with `fastdds shm clean`, or {LARGER_SHM}",
        )
    profile = observed.machine.profile
    if profile and not observed.machine.has_profile:
        yield Finding(WARN, "Fast DDS", f"the profile {profile} does not exist")


def table(observed: Observed) -> str:
    """The figures for people; times in ms."""
    pairs = {one.labels: one for one in answered(observed)}
    times = ("age p50", "age p99", "jitter", "gaps", "latency p50", "p99 (ms)")
    headings = ("topic", "messages", "lost", "Hz", *times)
    rows = [_row(seen, pairs.get(seen.topic)) for seen in observed.topics]
    if not rows:
        return "no topics of cameras or labels"
    return text_table(headings, rows, ("", "d", "d", ".2f", ".0f", ".0f", ".1f", "d", ".0f", ".0f"))


def _row(seen: TopicSeen, pair: Answers | None) -> tuple[object, ...]:
    found = timing(seen.arrivals)
    timed = (found.rate_hz, *found.age_ms, found.jitter_ms, found.gaps) if found else (None,) * 5
    latency = tuple(np.percentile(pair.latency_ms, [50, 99])) if pair else (None, None)
    lost = seen.lost if isinstance(seen, CameraSeen) else None
    return (seen.topic, len(seen.arrivals), lost, *timed, *latency)
