"""The shipped layout for Foxglove: its panels, and topics that the code knows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from instaseg_ros.recordings.result_messages import DEBUG_TOPICS, NODE_NAME, RECORDED_TOPICS, TOPICS

LAYOUT = Path(__file__).parents[2] / "config" / "foxglove_layout.json"


def panels_in(place: Any) -> Iterator[str]:
    """The panels of a tree of the layout, where each inner place is divided in two."""
    if isinstance(place, str):
        yield place
        return
    assert place["direction"] in ("row", "column") and 0 < place["splitPercentage"] < 100
    for half in ("first", "second"):
        yield from panels_in(place[half])


def test_its_panels_are_placed_once_and_configured() -> None:
    layout = json.loads(LAYOUT.read_text(encoding="utf-8"))
    assert layout.keys() == {
        *("configById", "globalVariables", "userNodes", "playbackConfig", "layout")
    }
    panels = layout["configById"]
    placed = list(panels_in(layout["layout"]))
    for name in panels:
        kind, _, rest = name.partition("!")
        assert kind in ("Image", "Tab", "DiagnosticSummary", "RawMessages") and rest
        if kind == "Tab":
            placed += [one for tab in panels[name]["tabs"] for one in panels_in(tab["layout"])]
    assert sorted(placed) == sorted(panels)


def test_its_topics_are_those_of_the_node_and_of_recordings() -> None:
    panels = json.loads(LAYOUT.read_text(encoding="utf-8"))["configById"]
    images = {
        f"/{NODE_NAME}/{name}"
        for name, topic in {**TOPICS, **DEBUG_TOPICS}.items()
        if topic.type == "sensor_msgs/msg/Image"
    }
    modes = [one["imageMode"] for name, one in panels.items() if name.startswith("Image!")]
    shown = {mode["imageTopic"] for mode in modes}
    method = {f"/{NODE_NAME}/debug/embedding"}  # of other methods than the default
    assert shown == images - method | {"/camera/image_raw"}
    (drawn,) = [mode["annotations"] for mode in modes if "annotations" in mode]
    assert drawn == {f"/{NODE_NAME}/{name}": {"visible": True} for name in RECORDED_TOPICS}
    assert panels["DiagnosticSummary!node"]["topicToRender"] == "/diagnostics"
    topic, _, path = panels["RawMessages!detections"]["topicPath"].partition(".")
    assert topic == f"/{NODE_NAME}/detections" and path == "detections[:]"
