"""Derives diagnostics for a person at the vehicle purely from the node's state. Needs no ROS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import NamedTuple

from instaseg_ros.config import NodeConfig
from instaseg_ros.ros.gpu import Gpu
from instaseg_ros.ros.input import Input, why_silent
from instaseg_ros.ros.reasons import why_held_up, why_lost, why_over_budget, why_slow
from instaseg_ros.ros.statistics import SINCE_STAMP, TOTAL, WINDOW_S, Counts, Snapshot

OK, WARN, ERROR = 0, 1, 2  # levels of diagnostic_msgs/DiagnosticStatus

LOSS_TO_WARN_OF = 0.1  # share of the recent images that never arrived
# What ~/status says.
FAILED, INACTIVE, DISABLED, WAITING, TOO_SLOW, LABELLING = STATUSES = (
    "failed",
    "inactive",
    "disabled",
    "waiting",
    "too slow",
    "labelling",
)

SETTLED = 10  # labelled images before latency is judged: the first take longer
HUNDRED = 100  # labelled images before their 99th percentile says more than that of the first


@dataclass(frozen=True, slots=True)
class Health:
    """Everything the diagnostics depend on, at one moment.

    lifecycle: label of the lifecycle state. limits: thresholds for late, stale and slow.
    failure: why the last transition failed, or empty. doing: current step while configuring, which
    may take minutes. engine: facts about the computation (runtime, precision, weights, ...).
    gpu: the one that computes, None if there is none or it cannot be observed. input: None while
    there is no subscription.
    """

    lifecycle: str
    limits: NodeConfig
    failure: str = ""
    doing: str = ""
    engine: Mapping[str, str] = field(default_factory=dict)
    gpu: Gpu | None = None
    input: Input | None = None
    statistics: Snapshot = field(default_factory=Snapshot)


class Diagnosis(NamedTuple):
    """level: OK, WARN or ERROR. message: one sentence. values: name -> text, in order."""

    level: int
    message: str
    values: dict[str, str]


def diagnose(health: Health) -> Diagnosis:
    """Level, message and values for /diagnostics."""
    level, _, message = _verdict(health)
    return Diagnosis(level, message, _values(health))


def diagnose_cameras(
    health: Health, cameras: Mapping[str, tuple[Input, Snapshot] | None]
) -> dict[str, Diagnosis]:
    """The diagnosis of each camera by name, and under "" that of the node as a whole.

    health: of the node. cameras: input and statistics by name, None while there is no subscription.
    A node with one camera without a name has one diagnosis, with everything in it.
    """
    of_camera = _of_cameras(health, cameras)
    if "" in of_camera:
        return {"": diagnose(of_camera[""])}
    diagnoses = {name: diagnose(replace(one, engine={})) for name, one in of_camera.items()}
    snapshots = [facts[1] for facts in cameras.values() if facts is not None]
    whole = _whole(health, diagnoses, snapshots) if snapshots else diagnose(health)
    return {"": whole, **diagnoses}


def status(health: Health, cameras: Mapping[str, tuple[Input, Snapshot] | None]) -> str:
    """The word for ~/status: of STATUSES the first that applies to a camera. Takes the same as
    `diagnose_cameras`."""
    words = [_verdict(one)[1] for one in _of_cameras(health, cameras).values()]
    return min(words, key=STATUSES.index)


def _of_cameras(
    health: Health, cameras: Mapping[str, tuple[Input, Snapshot] | None]
) -> dict[str, Health]:
    return {
        name: health if facts is None else replace(health, input=facts[0], statistics=facts[1])
        for name, facts in cameras.items()
    }


def _whole(
    health: Health, diagnoses: Mapping[str, Diagnosis], snapshots: Sequence[Snapshot]
) -> Diagnosis:
    """The node with its cameras: as bad as the worst of them, which it names."""
    level = max(diagnosis.level for diagnosis in diagnoses.values())
    rate_in_hz, rate_out_hz = (
        sum(getattr(snapshot, rate) for snapshot in snapshots)
        for rate in ("rate_in_hz", "rate_out_hz")
    )
    disabled = "" if health.limits.enabled else ", disabled (node.enabled)"
    rates = f"{rate_out_hz:.1f} of {rate_in_hz:.1f} images/s labelled"
    message = f"{len(diagnoses)} cameras{disabled}: {rates}"
    if level > OK:
        name, worst = next(item for item in diagnoses.items() if item[1].level == level)
        bad = sum(diagnosis.level > OK for diagnosis in diagnoses.values())
        message = f"{bad} of {message}. {name}: {worst.message}"
    counts = Counts(*map(sum, zip(*(astuple(s.counts) for s in snapshots), strict=True)))
    values = {
        "lifecycle state": health.lifecycle,
        **health.engine,
        "cameras": ", ".join(diagnoses),
        **_counted(counts),
        "rate in (Hz)": f"{rate_in_hz:.2f}",
        "rate out (Hz)": f"{rate_out_hz:.2f}",
    }
    return Diagnosis(level, message, values)


def _verdict(health: Health) -> tuple[int, str, str]:
    """The first of these that applies: cannot start, not active, disabled, no image, bad image, no
    labels, beyond what was promised, too few labels, late labels, no depth, all well."""
    statistics, limits = health.statistics, health.limits
    if health.failure:
        return ERROR, FAILED, health.failure
    if health.doing:
        return OK, INACTIVE, f"{health.lifecycle}: {health.doing}"
    if health.lifecycle == "finalized":
        said = "finalized: shut down permanently; restart the node to use it again"
        return OK, INACTIVE, said
    if health.input is None:
        said = f"{health.lifecycle}: waiting for a lifecycle transition, nothing is processed"
        return OK, INACTIVE, said
    if not limits.enabled:
        return OK, DISABLED, f"disabled (node.enabled): {_ignored(statistics)}"
    age_s = statistics.image_age_s
    if age_s is None:
        patient = statistics.active_s < limits.stale_after_s
        return WARN if patient else ERROR, WAITING, f"no image yet: {why_silent(health.input)}"
    if age_s > limits.stale_after_s:
        return ERROR, WAITING, f"no image for {age_s:.1f} s: {why_silent(health.input)}"
    if statistics.trouble:
        return ERROR, FAILED, f"newest image not labelled: {statistics.trouble}"
    if late := _no_labels(health.input, statistics, limits):
        return late
    said = _labelling(statistics)
    slow = (
        _over_budget(health.input, statistics, limits, health.gpu)
        or _below_floor(health.input, statistics, limits)
        or _too_few(health.input, statistics, limits)
        or _too_late(health.input, statistics, limits)
    )
    if slow:
        return WARN, TOO_SLOW, f"{slow}. {said}"
    if lost := _lost(health.input, statistics):
        return WARN, LABELLING, f"{lost}. {said}"
    if statistics.depth and (why := statistics.depth.why(limits.stale_after_s)):
        return WARN, LABELLING, f"{said}. Objects are not located: {why}"
    return OK, LABELLING, said


def _ignored(statistics: Snapshot) -> str:
    came = f"{statistics.rate_in_hz:.1f} images/s come and are ignored"
    return f"{came}; ~/enable with true goes on with the next"


def _labelling(statistics: Snapshot) -> str:
    rates = f"{statistics.rate_out_hz:.1f} of {statistics.rate_in_hz:.1f} images/s labelled"
    if TOTAL not in statistics.latency_ms:
        return rates
    median, p99 = statistics.latency_ms[TOTAL]
    return f"{rates}, latency {median:.0f} ms (p99 {p99:.0f} ms)"


def _no_labels(
    source: Input, statistics: Snapshot, limits: NodeConfig
) -> tuple[int, str, str] | None:
    """Level, status and message if images arrive but no labels follow."""
    took_s = statistics.unlabelled_s
    held_up = why_held_up(source.machine)
    if not statistics.counts.labelled:
        hint = held_up or "The first of a size takes longer, as the runtime prepares for it"
        return WARN, WAITING, f"first image is being processed, for {took_s:.1f} s. {hint}"
    usual_ms, _ = statistics.latency_ms.get(TOTAL, (0.0, 0.0))
    if took_s <= limits.stale_after_s + usual_ms / 1e3:
        return None
    hint = held_up or (
        "Its size may be very large, or new, so that the runtime must prepare for it: keep the "
        "camera at one size, or set input.height and input.width"
    )
    said = (
        f"no labels for {took_s:.1f} s, though images come: one is in work, which usually takes "
        f"{usual_ms:.0f} ms. {hint}"
    )
    return ERROR, TOO_SLOW, said


def _over_budget(source: Input, statistics: Snapshot, limits: NodeConfig, gpu: Gpu | None) -> str:
    """How late labels are, if that is over the budget, and why; else empty."""
    of = SINCE_STAMP if SINCE_STAMP in statistics.latency_ms else TOTAL
    median_ms, p99_ms = statistics.latency_ms.get(of, (0.0, 0.0))
    labelled, budget_ms = statistics.counts.labelled, limits.latency_budget_ms
    judged_ms = p99_ms if labelled >= HUNDRED else median_ms
    if not budget_ms or labelled < SETTLED or judged_ms <= budget_ms:
        return ""
    after = "their image's stamp" if of == SINCE_STAMP else "their image came"
    return (
        f"labels come {p99_ms:.0f} ms (p99; median {median_ms:.0f} ms) after {after}, more than "
        f"{budget_ms:g} ms (node.latency_budget_ms). "
        f"{why_over_budget(statistics, source.machine, gpu)}"
    )


def _below_floor(source: Input, statistics: Snapshot, limits: NodeConfig) -> str:
    """How few images per second are labelled, if that is below the floor, and why; else empty."""
    floor_hz = limits.rate_floor_hz
    if statistics.rate_out_hz >= floor_hz or statistics.labelling_s <= WINDOW_S:
        return ""
    if statistics.loss > LOSS_TO_WARN_OF and not statistics.recently_dropped:
        reason = why_lost(source, statistics)
    elif statistics.rate_in_hz < floor_hz:
        reason = f"The camera sends no more: see ros2 topic hz {source.topic}"
    elif statistics.recently_dropped:
        reason = why_slow(statistics, source.machine)
    else:
        reason = statistics.last_trouble
    return f"fewer than {floor_hz:g} images/s are labelled (node.rate_floor_hz). {reason}"


def _lost(source: Input, statistics: Snapshot) -> str:
    """How many images never arrive, and why; empty if most do. If images are dropped here anyway,
    those lost earlier do not matter."""
    if statistics.loss <= LOSS_TO_WARN_OF or statistics.recently_dropped:
        return ""
    lost = f"{statistics.loss:.0%} of the images are lost on the way"
    return f"{lost}. {why_lost(source, statistics)}"


def _too_few(source: Input, statistics: Snapshot, limits: NodeConfig) -> str:
    """Why too few images per second are labelled; empty if there are enough."""
    more_come = statistics.rate_in_hz > 2 * statistics.rate_out_hz
    few = statistics.rate_out_hz < limits.min_rate_hz and statistics.labelling_s > WINDOW_S
    if not (few and more_come):
        return ""
    dropped = statistics.recently_dropped
    reason = why_slow(statistics, source.machine) if dropped else statistics.last_trouble
    return (
        f"fewer than {limits.min_rate_hz:g} images/s are labelled (node.min_rate_hz), although "
        f"more come. {reason}"
    )


def _too_late(source: Input, statistics: Snapshot, limits: NodeConfig) -> str:
    """Why labels come long after their image; empty if they do not."""
    if statistics.counts.labelled < SETTLED:
        return ""
    inside_s, since_stamp_s = (
        statistics.latency_ms.get(stage, (0.0, 0.0))[0] / 1e3 for stage in (TOTAL, SINCE_STAMP)
    )
    limit = f"{limits.max_latency_s:g} s (node.max_latency_s)"
    if inside_s > limits.max_latency_s:
        return (
            f"labels come {inside_s:.1f} s after their image, more than {limit}. "
            f"{why_slow(statistics, source.machine)}"
        )
    if since_stamp_s - inside_s > limits.max_latency_s:
        return (
            f"images are {since_stamp_s - inside_s:.1f} s old when they come, more than {limit}. "
            "They wait in the camera driver or a slow network, or the clocks of the two machines "
            "differ: compare with ros2 topic delay on the camera's machine"
        )
    return ""


def _values(health: Health) -> dict[str, str]:
    values = {"lifecycle state": health.lifecycle, **health.engine}
    source, statistics = health.input, health.statistics
    if source is None:
        return values
    values |= {
        "image topic": source.topic,
        "image type": source.message_type,
        "image publishers": ", ".join(f"{p.node} ({p.quality})" for p in source.publishers),
        "subscription reliability": source.quality.reliability,
        "subscription durability": source.quality.durability,
        "camera info": source.camera_info,
        "waiting for a processor": f"{source.machine.waiting:.0%}",
    }
    if statistics.image_size:
        height, width = statistics.image_size
        values["image size"] = f"{width} x {height}"
    if statistics.network_size:
        height, width = statistics.network_size
        values["image size for the network"] = f"{width} x {height}"
    values |= {
        **_counted(statistics.counts),
        "last refusal or failure": statistics.last_trouble,
        "rate in (Hz)": f"{statistics.rate_in_hz:.2f}",
        "rate out (Hz)": f"{statistics.rate_out_hz:.2f}",
    }
    if statistics.image_age_s is not None:
        values["age of newest image (s)"] = f"{statistics.image_age_s:.2f}"
    if statistics.label_age_s is not None:
        values["age of newest labels (s)"] = f"{statistics.label_age_s:.2f}"
    for stage, (median, p99) in statistics.latency_ms.items():
        values[f"{stage} p50 (ms)"] = f"{median:.2f}"
        values[f"{stage} p99 (ms)"] = f"{p99:.2f}"
    if trend := statistics.trend:
        values["trend"] = (
            f"{trend.before_ms.get(TOTAL, 0.0):.1f} ms {trend.minutes} min ago, "
            f"{trend.now_ms.get(TOTAL, 0.0):.1f} ms now ({trend.change(TOTAL):+.0%})"
        )
    if statistics.depth:
        values |= statistics.depth.values()
    return values


def _counted(counts: Counts) -> dict[str, str]:
    return {
        "images received": str(counts.received),
        "images labelled": str(counts.labelled),
        "images dropped while busy": str(counts.dropped),
        "images ignored while disabled": str(counts.ignored),
        "images lost on the way": str(counts.lost),
        "images refused": str(counts.refused),
        "images failed": str(counts.failed),
    }
