"""The demo, whole: a recording, the node's process, what is left on disk."""

from __future__ import annotations

import json
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy")

from robot import free_domain

from instaseg_ros import cli
from instaseg_ros.datasets import ALL, open_dataset
from instaseg_ros.recordings.bags import BagSource
from instaseg_ros.recordings.result_messages import NODE_NAME
from instaseg_ros.synthetic_street import SyntheticStreet
from instaseg_ros.synthetic_street.export import write_bag

pytestmark = pytest.mark.ros


def test_every_frame_is_labelled_or_counted(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    domain, lock = free_domain()
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    street = SyntheticStreet((128, 256), split="val", sequences=1, frames_per_sequence=12)
    write_bag(street, tmp_path / "street.mcap", jpeg_quality=80)
    out = tmp_path / "demo"
    bag = str(tmp_path / "street.mcap")
    assert cli.main(["demo", "--bag", bag, "-o", str(out), "--rate", "10"]) == 0
    summary = json.loads((out / "summary.json").read_text())
    dropped = summary["frames_dropped"] + summary["frames_lost"]
    assert summary["frames_published"] == 12 == summary["frames_labelled"] + dropped
    assert summary["frames_labelled"] > 0
    assert 0 < summary["latency_ms"]["p50"] <= summary["latency_ms"]["p99"]
    assert {"ap50", "runtime", "precision"} <= summary.keys()
    assert f"frames_labelled    {summary['frames_labelled']}" in capfd.readouterr().out
    recorded = BagSource(out / "labelled.mcap", f"/{NODE_NAME}/labels")
    assert recorded.total == summary["frames_labelled"]
    assert next(iter(recorded)).image.shape == (128, 256, 3)
    # It stands alone: the images as they were recorded, and the truth about them.
    labelled = open_dataset(out / "labelled.mcap", ALL)
    original = open_dataset(tmp_path / "street.mcap", ALL)
    assert len(labelled) == 12
    for i in range(12):
        np.testing.assert_array_equal(labelled[i].frame.image, original[i].frame.image)
        np.testing.assert_array_equal(labelled[i].labels, original[i].labels)
    received_ns = [frame.received_ns for frame in BagSource(out / "labelled.mcap")]
    assert received_ns == sorted(received_ns)
    assert received_ns[0] / 1e9 == pytest.approx(time.time(), abs=600)  # when it was, not stamps
    assert cv2.imread(str(out / "overlay.png")) is not None
    assert cv2.VideoCapture(str(out / "overlay.mp4")).read()[0]
    assert not list(out.glob("*.part*"))
    lock.close()
