"""Frames that a network is unsure of: what disagrees, and which frames are picked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import cv2
import numpy as np
import pytest

from instaseg_ros.config import Config, merge
from instaseg_ros.errors import ConfigError
from instaseg_ros.evaluation.disagreement import Doubt, Doubts, disagreement, pick
from instaseg_ros.frames import Frame, Instances, Result
from instaseg_ros.pipeline import Pipeline

SIZE = (96, 128)


def boxes(*sides: tuple[int, int, int, int, int]) -> Instances:
    """Rectangles of a class: class, left, top, right, bottom."""
    labels = np.zeros(SIZE, np.uint16)
    for number, (_, left, top, right, bottom) in enumerate(sides, 1):
        labels[top:bottom, left:right] = number
    count = len(sides)
    return replace(
        Instances.empty(*SIZE),
        labels=labels,
        ids=np.arange(1, count + 1).astype(np.uint16),
        class_ids=np.array([side[0] for side in sides], np.int64),
        scores=np.ones(count, np.float32),
        boxes_xyxy=np.array([side[1:] for side in sides], np.float32).reshape(-1, 4),
        centers_xy=np.zeros((count, 2), np.float32),
        bandwidths=np.zeros((count, 2), np.float32),
    )


class Scripted:
    """Stands in for a Pipeline: finds blocks of a colour, and for some frames what it is told.

    A block of red is of class 0, of blue of class 1. wrong: by stamp and whether it is the mirror
    image, the result.
    """

    class_names: tuple[str, ...] = ("car", "bus")
    config = Config()

    def __init__(self, wrong: dict[tuple[int, bool], Instances] | None = None) -> None:
        self.wrong = wrong or {}

    def process(self, frames: Sequence[Frame]) -> list[Result]:
        return [Result(self._found(frame)) for frame in frames]

    def _found(self, frame: Frame) -> Instances:
        key = frame.stamp_ns, frame.camera.startswith("mirror image of")
        if key in self.wrong:
            return self.wrong[key]
        sides = []
        for class_id, channel in ((0, 0), (1, 2)):
            mask = (frame.image[..., channel] == 255).astype(np.uint8)
            for x, y, width, height, _ in cv2.connectedComponentsWithStats(mask)[2][1:].tolist():
                sides.append((class_id, x, y, x + width, y + height))
        return boxes(*sides)


def doubts_by(by: Sequence[str], pipeline: Any, against: Any = None) -> Doubts:
    return Doubts(cast(Pipeline, pipeline), by, cast(Pipeline, against))


def drive(step: int, shift: int = 3) -> Frame:
    """A red block that moves to the right over noise that moves too, and a blue one; at 10 Hz."""
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 100, (SIZE[0] // 4, 40, 3), np.uint8)
    image = cv2.resize(noise, (160, SIZE[0]), interpolation=cv2.INTER_CUBIC)
    image = np.minimum(np.roll(image, shift * step, 1)[:, : SIZE[1]], 200).astype(np.uint8)
    image[20:50, 10 + shift * step : 40 + shift * step] = 255, 0, 0
    image[60:80, 60:100] = 0, 0, 255
    return Frame(image, 100_000_000 * step, "camera")


def test_disagreement_is_one_minus_panoptic_quality_of_all_classes() -> None:
    one = boxes((0, 0, 0, 20, 20), (1, 40, 40, 60, 60))
    assert disagreement(one, one) == 0
    assert disagreement(one, boxes()) == disagreement(boxes(), one) == 1
    assert disagreement(boxes(), boxes()) == 0
    assert disagreement(one, boxes((1, 0, 0, 20, 20), (1, 40, 40, 60, 60))) == 0.5  # another class
    smaller = boxes((0, 0, 0, 20, 15), (1, 40, 40, 60, 60))
    assert disagreement(one, smaller) == pytest.approx(1 - 2 * 1.75 / 4)
    assert disagreement(smaller, one) == disagreement(one, smaller)
    tiny = boxes((0, 0, 0, 20, 9), (1, 40, 40, 60, 60), (0, 100, 50, 120, 60))
    assert disagreement(one, tiny) == pytest.approx(1 - 2 * 1 / 5)
    left_out = replace(tiny, class_ids=np.array([0, 1, -1]))
    assert disagreement(one, left_out) == pytest.approx(1 - 2 * 1 / 4)


def test_what_a_frame_does_not_show_is_not_compared() -> None:
    outside = np.zeros(SIZE, bool)
    outside[:, :30] = True
    one, other = boxes((0, 0, 0, 20, 20)), boxes((1, 40, 40, 60, 60))
    both = boxes((0, 0, 0, 20, 20), (1, 40, 40, 60, 60))
    assert disagreement(other, both, outside) == disagreement(both, other, outside) == 0
    assert disagreement(both, one, outside) == 1


def test_only_the_frame_whose_mirror_image_differs_is_doubted() -> None:
    pipeline = Scripted({(200_000_000, True): boxes((0, 0, 0, 20, 20))})
    doubts = doubts_by(["mirror"], pipeline)
    for step in range(4):
        (result,) = doubts.process([drive(step)])
        assert len(result.instances) == 2
    assert [row.mirror for row in doubts.rows] == [0, 0, 1, 0]
    assert [row.stamp_ns for row in doubts.rows] == [0, 100_000_000, 200_000_000, 300_000_000]
    assert all(row.time is None and row.weights is None for row in doubts.rows)


def test_what_moves_agrees_with_its_neighbours_and_what_flickers_does_not() -> None:
    doubts = doubts_by(["time"], Scripted())
    for step in range(6):
        doubts.process([drive(step, shift=6)])
    steady = [row.time for row in doubts.rows]
    assert all(one is not None and one < 0.2 for one in steady), steady
    flickering = doubts_by(["time"], Scripted({(300_000_000, False): boxes()}))
    for step in range(6):
        flickering.process([drive(step, shift=6)])
    times = [row.time or 0 for row in flickering.rows]
    assert times[3] == 1 and max(times[:2] + times[5:]) < 0.2
    assert times[2] == pytest.approx(times[4], abs=0.2) and 0.4 < times[2] < 0.7  # one side


@pytest.mark.parametrize("gap_ns", [600_000_000, -100_000_000, 0])
def test_frames_far_apart_are_no_neighbours(gap_ns: int) -> None:
    doubts = doubts_by(["time"], Scripted())
    first = replace(drive(0), stamp_ns=1_000_000_000)
    for frame in (first, replace(drive(9), stamp_ns=first.stamp_ns + gap_ns)):
        doubts.process([frame])
    assert [row.time for row in doubts.rows] == [None, None]
    assert [row.disagreement for row in doubts.rows] == [0, 0]
    smaller = replace(first, image=first.image[:80], stamp_ns=first.stamp_ns + gap_ns + 10)
    doubts.process([smaller])
    assert doubts.rows[-1].time is None


def test_other_weights_are_compared_in_the_classes_that_both_know() -> None:
    other = Scripted({(0, False): boxes((2, 10, 20, 40, 50), (0, 60, 60, 100, 80))})
    other.class_names = ("bus", "tram", "car")
    doubts = doubts_by(["weights"], Scripted(), other)
    doubts.process([drive(0)])
    assert doubts.rows[0].weights == 0
    other.wrong[0, False] = boxes((2, 10, 20, 40, 50), (1, 60, 60, 100, 80))  # no bus but a tram
    doubts.process([drive(0)])
    assert doubts.rows[1].weights == pytest.approx(1 - 2 / 3)
    other.class_names = ("boat",)
    with pytest.raises(ConfigError, match="no class in common"):
        doubts_by(["weights"], Scripted(), other)


def test_a_mean_with_the_mirror_image_cannot_disagree_with_it() -> None:
    pipeline = Scripted()
    pipeline.config = merge(Config(), {"input.mirror": True})
    with pytest.raises(ConfigError, match=r"input\.mirror"):
        doubts_by(["mirror", "time"], pipeline)
    doubts_by(["time"], pipeline)


def rows_of(*values: float) -> list[Doubt]:
    return [Doubt(n, n, "camera", mirror=value) for n, value in enumerate(values)]


def test_the_worst_are_picked_but_not_from_one_moment() -> None:
    rows = rows_of(0.1, 0.2, 0.9, 0.95, 0.9, 0.1, 0.3, 0.1, 0.4, 0.1)
    assert [row.number for row in pick(rows, 2)] == [3, 8]
    assert [row.number for row in pick(rows, 2, apart=1)] == [2, 3]
    assert [row.number for row in pick(rows, 3, apart=2)] == [3, 6, 8]
    assert [row.number for row in pick(rows, 5)] == [2, 3, 4, 6, 8]
    assert pick(rows, 4)[0].mirror == 0.9


def test_there_are_as_many_as_wanted_wherever_the_bad_moment_is() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 7, 50, 200):
        rows = rows_of(*(rng.random(count) + 0.01))
        for wanted in (1, 2, 5, 49, 300):
            assert len(pick(rows, wanted)) == min(wanted, count)


def test_frames_in_which_all_agrees_are_not_picked() -> None:
    assert [row.number for row in pick(rows_of(0, 0.5, 0, 0), 3)] == [1]
    assert pick([], 3) == [] and pick([Doubt(0, 0, "")], 3) == []
    assert Doubt(0, 0, "", mirror=0.5, weights=0.1).disagreement == pytest.approx(0.3)
