"""The comparison of recorded results with those of a replay sees every kind of difference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from fleet_runs import write_said
from written_recordings import CLASS_NAMES, StandInPipeline, noise_image, stamp_ns, two_instances

from instaseg_ros.frames import Frame, Instances
from instaseg_ros.recordings.live_comparison import Difference, LiveComparison, difference
from instaseg_ros.recordings.recorded_results import RecordedResults

OTHER_ORDER = CLASS_NAMES[::-1]


def compared(live: Instances, offline: Instances) -> Difference | None:
    return difference(5, live, offline, CLASS_NAMES, CLASS_NAMES)


def test_equal_results() -> None:
    one = two_instances(0)
    assert compared(one, two_instances(0)) is None
    order = np.array([1, 0])
    turned = replace(
        one,
        **{
            name: getattr(one, name)[order]
            for name in ("ids", "scores", "boxes_xyxy", "centers_xy", "bandwidths")
        },
    )
    # The classes' indices differ with the order of the names, and are the same classes.
    assert difference(5, turned, one, OTHER_ORDER, CLASS_NAMES) is None


def test_pixels_and_ids_that_differ() -> None:
    one = two_instances(0)
    labels = one.labels.copy()
    labels[10, 5:9] = 0
    assert compared(replace(one, labels=labels), one) == Difference(5, 4, (300,))
    renamed = replace(
        one,
        labels=np.where(one.labels == 7, np.uint16(8), one.labels),
        ids=np.array([300, 8], np.uint16),
    )
    assert compared(renamed, one) == Difference(5, 225, (7, 8))


def test_detections_that_differ_though_no_pixel_does() -> None:
    one = two_instances(0)
    for changed in (
        replace(one, scores=one.scores + np.float32(0.01)),
        replace(one, boxes_xyxy=one.boxes_xyxy + np.float32(1)),
    ):
        assert compared(changed, one) == Difference(5, 0, (7, 300))
    assert compared(replace(one, class_ids=np.array([1, 1])), one) == Difference(5, 0, (300,))
    assert compared(one.rows(one.ids != 7), one) == Difference(5, 0, (7,))


def test_labels_of_another_size() -> None:
    one = two_instances(0)
    small = replace(one, labels=one.labels[::2, ::2])
    assert compared(small, one) == Difference(5, one.labels.size, (7, 300), small.labels.shape)


def test_a_replay_beside_what_was_recorded(tmp_path: Path) -> None:
    """Frame 1 was dropped, frame 2 is that of another."""
    said = {stamp_ns(0): two_instances(0), stamp_ns(2): two_instances(5)}
    live = RecordedResults(write_said(tmp_path / "said.mcap", said, CLASS_NAMES))
    comparison = LiveComparison(live, CLASS_NAMES)
    for i in range(3):
        frame = Frame(noise_image(i), stamp_ns(i))
        comparison.write(frame, StandInPipeline().process([frame])[0])
    assert comparison.compared == 2
    assert [one.stamp_ns for one in comparison.differences] == [stamp_ns(2)]
    assert comparison.differences[0].ids == (7,)
