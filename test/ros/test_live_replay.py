"""`instaseg replay --live`: a recording through the real node, compared with the offline replay."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from coloured_shapes import scene
from robot import free_domain

from instaseg_ros import cli
from instaseg_ros.frames import Result
from instaseg_ros.pipeline import Pipeline
from instaseg_ros.recordings import result_messages
from instaseg_ros.recordings.bags import CAMERA_INFO, IMAGE, BagSource, BagWriter
from instaseg_ros.recordings.message_types import make_header
from instaseg_ros.recordings.recorded_results import RecordedResults
from instaseg_ros.ros import live_replay

pytestmark = pytest.mark.ros

COUNT, PERIOD_NS = 5, 300_000_000
SIZE = ["--set", "input.height=96", "--set", "input.width=160"]


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    """Coloured shapes at 3 Hz, and an image that no node can convert."""
    writer = BagWriter(tmp_path / "drive.mcap")
    writer.add_topic("/front/image", IMAGE)
    writer.add_topic("/front/camera_info", CAMERA_INFO)
    for i in range(COUNT):
        header = make_header(10**18 + i * PERIOD_NS, "front")
        message = result_messages.overlay_message(writer.msgs, header, scene(seed=i))
        if i == 2:
            message = replace(message, encoding="of no camera")
        info = writer.msgs.CameraInfo(header=header)
        writer.write("/front/camera_info", info, i * PERIOD_NS)
        writer.write("/front/image", message, i * PERIOD_NS + 1000)
    writer.close()
    return tmp_path / "drive.mcap"


def replay_live(
    network: dict[str, Any], monkeypatch: pytest.MonkeyPatch, *words: object
) -> tuple[int, dict[str, Any]]:
    """Exit code, and the report."""
    domain, lock = free_domain()
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    options = [part for name, value in network.items() for part in ("--set", f"{name}={value}")]
    report = Path(str(words[0])).with_suffix(".json")
    with lock:
        arguments = ["replay", *words, "--live", "--json", report, *options, *SIZE]
        code = cli.main(list(map(str, arguments)))
    return code, json.loads(report.read_text())


def test_every_answer_is_that_of_the_offline_replay(
    bag: Path,
    network: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    kept = tmp_path / "live.mcap"
    code, told = replay_live(network, monkeypatch, bag, "-o", kept)
    assert code == 0, capfd.readouterr().err
    frames = told["frames"]
    assert told["agrees"] is True and told["differences"] == []
    assert frames["published"] == COUNT
    # On a busy machine the odd image may be dropped before it is refused.
    assert sum(frames[name] for name in ("answered", "dropped", "lost", "refused")) == COUNT
    assert frames["compared"] == frames["equal"] == frames["answered"] > 0
    assert frames["unaccounted"] == frames["ambiguous"] == 0
    assert 10**18 + 2 * PERIOD_NS in told["unanswered_stamps_ns"]
    assert 0 < told["latency_ms"]["p50"] <= told["latency_ms"]["p99"]
    assert (told["runtime"], told["topic"]) == ("torch", "/front/image")
    assert f"{frames['equal']} of {frames['equal']} equal" in capfd.readouterr().out
    said = RecordedResults(kept)
    assert len(said.stamps) == frames["answered"]
    first = said.at(said.stamps[0])
    assert first is not None and len(first) == 3
    labels = BagSource(kept, "/instaseg_replay/instaseg_node/labels")
    assert labels.total == frames["answered"]


@pytest.mark.slow
def test_answers_that_differ_are_named_also_while_tracking(
    bag: Path, network: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pixel of the offline labels is changed in every frame."""

    class Other(Pipeline):
        def process(self, frames: Any) -> list[Result]:
            (result,) = super().process(frames)
            labels = result.instances.labels.copy()
            labels.flat[np.flatnonzero(labels)[0]] = 0
            return [replace(result, instances=replace(result.instances, labels=labels))]

    monkeypatch.setattr(live_replay, "Pipeline", Other)
    code, told = replay_live({**network, "tracking.enabled": True}, monkeypatch, bag, "--rate", 0.7)
    assert code == 1 and told["agrees"] is False
    differences = told["differences"]
    assert len(differences) == told["frames"]["compared"] > 0 == told["frames"]["equal"]
    assert {one["pixels"] for one in differences} == {1}
    assert {len(one["ids"]) for one in differences} == {1}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-o", "out.mp4"], "ends in .mcap"),
        (["--rate", "0"], "--rate: expected a positive number"),
        (["--depth", "/depth"], "--depth"),
        (["--topic", "/up"], "no image topic '/up'"),
    ],
)
def test_unusable_options_stop_before_the_node_starts(
    bag: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert cli.main(["replay", str(bag), "--live", *words]) == 2
    assert said in capsys.readouterr().err
    assert list(bag.parent.iterdir()) == [bag]
