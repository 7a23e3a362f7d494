"""What a node said, read from recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("duckdb")  # which the helpers of runs need

from fleet_runs import SECOND_NS, write_said
from written_recordings import CLASS_NAMES, stamp_ns, two_instances, write_bag, write_street_bag

from instaseg_ros.errors import InputError
from instaseg_ros.recordings.by_stamp import nearest
from instaseg_ros.recordings.recorded_results import RecordedResults

RESULTS = {stamp_ns(k): two_instances(k) for k in (0, 1, 3)}


def test_results_come_back(tmp_path: Path) -> None:
    said = RecordedResults(write_said(tmp_path / "said.mcap", RESULTS, CLASS_NAMES))
    assert said.stamps == sorted(RESULTS) and said.class_names == CLASS_NAMES
    found, made = said.at(stamp_ns(3)), two_instances(3)
    assert found is not None and said.at(stamp_ns(2)) is None
    np.testing.assert_array_equal(found.labels, made.labels)
    assert found.ids.tolist() == [7, 300]  # ascending
    for name in ("class_ids", "scores", "boxes_xyxy", "centers_xy"):
        np.testing.assert_allclose(getattr(found, name), getattr(made, name)[::-1], atol=1e-5)
    assert said.latency_ms == {} and said.diagnosed is None and said.remarks == ()


def test_latency_of_a_live_recording(tmp_path: Path) -> None:
    live = RecordedResults(write_said(tmp_path / "live.mcap", RESULTS, CLASS_NAMES, 25.0))
    assert live.latency_ms == pytest.approx(dict.fromkeys(RESULTS, 25.0))
    assert live.latency_from == "stamp"
    clock_ns = 1_700_000_000 * SECOND_NS
    path = write_said(tmp_path / "clock.mcap", RESULTS, CLASS_NAMES, 25.0, clock_ns=clock_ns)
    other = RecordedResults(path)
    assert other.latency_ms == pytest.approx(dict.fromkeys(RESULTS, 25.0))
    assert other.latency_from == "receipt of the image"


def test_one_camera_of_several_is_chosen(tmp_path: Path) -> None:
    path = write_said(tmp_path / "a.mcap", RESULTS, CLASS_NAMES, node="/node/front")
    other = write_said(tmp_path / "b.mcap", RESULTS, CLASS_NAMES, node="/node/rear")
    folder = tmp_path / "both"
    folder.mkdir()
    path.rename(folder / "a.mcap"), other.rename(folder / "b.mcap")
    with pytest.raises(InputError, match=r"several cameras: /node/front/labels, /node/rear/labels"):
        RecordedResults(folder)
    chosen = RecordedResults(folder, "/node/rear/labels")
    assert chosen.topics == ("/node/rear/labels", "/node/rear/detections")
    with pytest.raises(InputError, match="expected a topic /node/top/labels of sensor_msgs"):
        RecordedResults(folder, "/node/top/labels")


def test_what_is_not_labelled_is_refused(tmp_path: Path) -> None:
    for path in (write_bag(tmp_path / "a.mcap", 1), write_street_bag(tmp_path / "b.mcap", 1)):
        with pytest.raises(InputError, match="is not labelled: expected a topic"):
            RecordedResults(path)


def test_nearest_stamps_belong_together_once() -> None:
    assert nearest([0, 10, 20], [1, 11, 19], 0) == [-1, -1, -1]
    assert nearest([0, 10, 20], [0, 20], 0) == [0, -1, 1]
    assert nearest([0, 10, 20], [1, 11, 19], 1) == [0, 1, 2]
    assert nearest([0, 4], [3], 5) == [-1, 0]  # the nearer one has it
    assert nearest([0, 2], [1], 5) == [0, -1]  # of equally near ones the first
    assert nearest([0, 3], [2, 7], 4) == [-1, 0]
    assert nearest([], [1], 5) == [] and nearest([1], [], 5) == [-1]
