"""Packs what a maintainer asks for into one file. Needs no ROS.

No picture without being told to, no environment but what `machine.declared` lists, no host name;
the home folder's path is written as `~`.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from instaseg_ros.contract import written
from instaseg_ros.errors import InstasegError
from instaseg_ros.files import OutputFile
from instaseg_ros.ros.live.observed import Arrival, Observed, answered, frozen_s, timing
from instaseg_ros.ros.live.verdict import Verdict


def report(observed: Observed, verdict: Verdict, about: Mapping[str, Any]) -> dict[str, Any]:
    """Verdict, figures, machine and what nodes said, for JSON. about: further entries."""
    return {
        **written("live report"),
        "go": verdict.go,
        "verdict": verdict.line,
        "findings": [finding._asdict() for finding in verdict.findings],
        "seconds": observed.seconds,
        "cameras": [
            {
                **_without(camera, "arrivals", "pictures"),
                **_timed(camera.arrivals),
                "frozen_s": frozen_s(camera.arrivals),
                "pictures": [picture._asdict() for picture in camera.pictures],
            }
            for camera in observed.cameras
        ],
        "labels": [
            {**_without(labels, "arrivals"), **_timed(labels.arrivals)}
            for labels in observed.labels
        ],
        "latency_ms": {
            one.labels: {
                "camera": one.camera,
                "images": one.images,
                "labelled": one.labelled,
                "since_arrival": _percentiles(one.latency_ms),
                "since_stamp": _percentiles(one.since_stamp_ms),
            }
            for one in answered(observed)
        },
        "simulated_time": observed.simulated,
        "machine": observed.machine._asdict(),
        "shared_memory": observed.shared_memory and observed.shared_memory._asdict(),
        "processes": list(observed.processes),
        "graph": observed.graph,
        **about,
    }


def write_bundle(
    output: OutputFile,
    observed: Observed,
    facts: Mapping[str, Any],
    text: str,
    pictures: Mapping[str, tuple[NDArray[np.uint8], int]],
) -> None:
    """Write the zip file and give it its name. facts: the `report`. text: what was printed.
    pictures: by topic, (H, W, 3) uint8 RGB and stamp; left out if empty."""
    home = str(Path.home())
    files: dict[str, bytes] = {
        "report.txt": text.encode(),
        "report.json": to_json(facts).encode(),
    }
    for node in observed.nodes:
        name = _file_name(node.name)
        said = [
            {
                "seconds": one.heard_s - observed.start_s,
                "about": part,
                **_without_key(one._asdict(), "heard_s"),
            }
            for part, statuses in node.statuses.items()
            for one in statuses
        ]
        files[f"{name}/diagnostics.json"] = to_json(said).encode()
        files[f"{name}/parameters.json"] = to_json(node.parameters).encode()
    for seen in observed.topics:
        table = _csv(seen.arrivals, observed.start_s)
        files[f"{_file_name(seen.topic)}.csv"] = table.encode()
    if len(home) > 1:
        files = {name: text.replace(home.encode(), b"~") for name, text in files.items()}
    for topic, (image, stamp_ns) in pictures.items():
        done, png = cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))
        if done:
            files[f"{_file_name(topic)}-{stamp_ns}.png"] = png.tobytes()
    try:
        with zipfile.ZipFile(output.part, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        output.commit()
    except OSError as error:
        output.discard()
        raise InstasegError(f"bundle {output.path} cannot be written: {error}") from error


def to_json(content: Any) -> str:
    """JSON text of plain data, with null for numbers that are none."""
    return json.dumps(_plain(content), indent=2, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, (str, int, type(None))):
        return value
    return [_plain(one) for one in value]  # lists, tuples, and rclpy's arrays


def _timed(arrivals: Sequence[Arrival]) -> dict[str, Any]:
    found = timing(arrivals)
    sizes = [one.size_bytes for one in arrivals]
    return {
        "messages": len(arrivals),
        "frame_ids": sorted({one.frame_id for one in arrivals}),
        "size_bytes": max(sizes, default=0),
        "timing": found and found._asdict(),
    }


def _percentiles(values_ms: Sequence[float]) -> dict[str, float]:
    p50, p99 = np.percentile(values_ms, [50, 99]).tolist()
    return {"p50": p50, "p99": p99}


def _without(seen: Any, *names: str) -> dict[str, Any]:
    fields = (field.name for field in dataclasses.fields(seen))
    return {name: getattr(seen, name) for name in fields if name not in names}


def _without_key(entries: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in entries.items() if key != name}


def _csv(arrivals: Sequence[Arrival], start_s: float) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("seconds", "stamp_ns", "frame_id", "age_ms", "bytes"))
    for one in arrivals:
        row = (f"{one.heard_s - start_s:.4f}", one.stamp_ns, one.frame_id)
        writer.writerow((*row, f"{one.age_s * 1e3:.2f}", one.size_bytes))
    return text.getvalue()


def _file_name(topic: str) -> str:
    return topic.strip("/").replace("/", ".") or "root"
