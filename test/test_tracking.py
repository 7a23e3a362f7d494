"""Ids over time: objects that continue, appear or return, and jumps of a camera's time."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from instaseg_ros import tracking
from instaseg_ros.config import Config, TrackingConfig, merge
from instaseg_ros.frames import Frame, Instances
from instaseg_ros.pipeline import Pipeline
from instaseg_ros.tracking import EMBEDDING_RADIUS, Tracker

SIZE = 40, 120
Square = tuple[int, int]  # left edge, class


def scene(*squares: Square | None, numbers: Sequence[int] | None = None) -> Instances:
    """Squares of 20 pixels beside each other, numbered as they come or as told."""
    labels = np.zeros(SIZE, np.uint16)
    seen = [square for square in squares if square is not None]
    numbers = numbers or range(1, len(seen) + 1)
    for (left, _), number in zip(seen, numbers, strict=True):
        labels[10:30, left : left + 20] = number
    n = len(seen)
    return dataclasses.replace(
        Instances.empty(*SIZE),
        labels=labels,
        ids=np.array(numbers, np.uint16),
        class_ids=np.array([class_id for _, class_id in seen], np.int64),
        scores=np.linspace(1, 0.5, n).astype(np.float32),
        boxes_xyxy=np.array([[left, 10, left + 20, 30] for left, _ in seen], np.float32),
        centers_xy=np.zeros((n, 2), np.float32),
        bandwidths=np.zeros((n, 2), np.float32),
    )


def embedded(instances: Instances, *means: float) -> Instances:
    return dataclasses.replace(instances, embeddings=np.array(means, np.float32)[:, None])


def ids(tracker: Tracker, instances: Instances) -> list[int]:
    """The lasting ids; checks that the label image has them in place of the instances."""
    found = tracker.update(instances)
    assert found.ids.dtype == found.labels.dtype == np.uint16
    assert len(set(found.ids.tolist())) == len(found.ids)
    for before, after in zip(instances.ids, found.ids, strict=True):
        np.testing.assert_array_equal(found.labels == after, instances.labels == before)
    for name in ("class_ids", "scores", "boxes_xyxy", "embeddings"):
        assert getattr(found, name) is getattr(instances, name)
    return found.ids.tolist()


@pytest.fixture
def tracker() -> Tracker:
    return Tracker(TrackingConfig(enabled=True, keep_frames=2, min_iou=0.1))


def test_ids_follow_masks_whatever_their_order(tracker: Tracker) -> None:
    assert ids(tracker, scene((0, 0), (40, 0), (80, 0))) == [1, 2, 3]
    assert ids(tracker, scene((85, 0), (5, 0), (45, 0))) == [3, 1, 2]
    assert ids(tracker, scene((10, 0), (50, 0), numbers=[900, 65_535])) == [1, 2]


def test_the_best_pair_goes_first(tracker: Tracker) -> None:
    ids(tracker, scene((0, 0), (22, 0)))
    # The square at 14 overlaps both, the second one more; the first one is left with that at -4.
    assert ids(tracker, scene((35, 0), (14, 0))) == [1 + 2, 2]


def test_another_class_is_another_object(tracker: Tracker) -> None:
    ids(tracker, scene((0, 0), (40, 1)))
    assert ids(tracker, scene((0, 1), (40, 1))) == [3, 2]


def test_the_least_iou(tracker: Tracker) -> None:
    ids(tracker, scene((0, 0)))
    assert ids(tracker, scene((15, 0))) == [1]  # 5 / 35
    tracker.config = dataclasses.replace(tracker.config, min_iou=0.2)
    assert ids(tracker, scene((0, 0))) == [2]
    tracker.config = dataclasses.replace(tracker.config, min_iou=0.0)
    assert ids(tracker, scene((60, 0))) == [3]  # no pixel in common
    tracker.config = dataclasses.replace(tracker.config, min_iou=1 / 3)
    assert ids(tracker, scene((70, 0))) == [3]  # 10 / 30, and that will do


@pytest.mark.parametrize(("gone", "back"), [(1, 1), (2, 1), (3, 3)])
def test_a_lost_object_keeps_its_id_for_some_frames(tracker: Tracker, gone: int, back: int) -> None:
    """It comes back where another object stood meanwhile."""
    ids(tracker, scene((40, 0)))
    for _ in range(gone):
        assert ids(tracker, scene((42, 1))) == [2]
    assert ids(tracker, scene((42, 0))) == [back]


def test_nothing_to_follow(tracker: Tracker) -> None:
    assert ids(tracker, Instances.empty(*SIZE)) == []
    assert ids(tracker, scene((0, 0))) == [1]
    assert ids(tracker, Instances.empty(*SIZE)) == []
    assert ids(tracker, scene((0, 0))) == [1]


def test_embeddings_decide_where_there_are_some(tracker: Tracker) -> None:
    ids(tracker, embedded(scene((0, 0), (40, 0)), 0.0, 2.0))
    assert ids(tracker, embedded(scene((0, 0), (40, 0)), 1.9, 0.4)) == [2, 1]
    far = 0.4 + EMBEDDING_RADIUS
    assert ids(tracker, embedded(scene((0, 1), (80, 0)), 0.4, far - 0.1)) == [3, 2]
    assert ids(tracker, Instances.empty(*SIZE)) == []
    assert ids(tracker, embedded(scene((0, 0)), 0.0)) == [1]
    assert ids(tracker, embedded(scene((0, 0)), -EMBEDDING_RADIUS)) == [4]


def test_ids_are_used_again_only_when_all_are_spent(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "MAX_ID", 5)
    tracker.config = dataclasses.replace(tracker.config, keep_frames=0)
    places = [scene((0, 0), (40, 0)), scene((0, 0), (80, 0))]  # the first one stays
    given = [ids(tracker, places[n % 2]) for n in range(6)]
    assert given == [[1, 2], [1, 3], [1, 4], [1, 5], [1, 2], [1, 3]]


def test_lost_objects_give_up_their_ids_to_those_in_the_frame(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "MAX_ID", 3)
    assert ids(tracker, scene((0, 0), (40, 0))) == [1, 2]
    assert ids(tracker, scene((0, 1), (40, 1))) == [3, 2]  # that of 1, sooner lost, is kept
    assert ids(tracker, scene((0, 0))) == [1]


def test_reset_and_another_size_begin_anew(tracker: Tracker) -> None:
    ids(tracker, scene((0, 0), (40, 0)))
    tracker.reset()
    assert ids(tracker, scene((40, 0))) == [1]
    larger = np.pad(scene((40, 0)).labels, ((0, 8), (0, 0)))
    assert ids(tracker, dataclasses.replace(scene((80, 0)), labels=larger * 0)) == [1]


class Squares:
    """A method that finds, in each image, what its first pixel says; the network's part is real."""

    temporal = False

    def __init__(self, instances: Sequence[Instances]) -> None:
        self.instances = iter(instances)

    def decode(self, outputs: dict[str, object], config: object) -> list[Instances]:
        return [next(self.instances)]


@pytest.fixture(scope="module")
def network() -> Pipeline:
    return Pipeline(merge(Config(), {"runtime.name": "torch"}))


@pytest.fixture
def pipeline(network: Pipeline) -> Pipeline:
    network.reset()
    network.reconfigure(replace(network.config, tracking=TrackingConfig(enabled=True)))
    return network


def frame(stamp_ns: int = 0, camera: str = "front") -> Frame:
    return Frame(np.zeros((*SIZE, 3), np.uint8), stamp_ns, camera)


def processed(pipeline: Pipeline, one: Frame) -> list[int]:
    return pipeline.process([one])[0].instances.ids.tolist()


def test_every_camera_has_its_own_objects(pipeline: Pipeline) -> None:
    left, right = scene((0, 0), (40, 0)), scene((40, 0), (0, 0))
    pipeline.method = Squares([left, left, right, right])
    assert processed(pipeline, frame(1, "front")) == [1, 2]
    assert processed(pipeline, frame(2, "rear")) == [1, 2]
    assert processed(pipeline, frame(3, "front")) == [2, 1]
    assert processed(pipeline, frame(3, "rear")) == [2, 1]


def test_stamps_that_jump_back_and_reset_begin_anew(pipeline: Pipeline) -> None:
    pipeline.method = Squares([scene((0, 0), (40, 0)), scene((40, 0))] * 3)
    for begin in (lambda: frame(5), lambda: frame(4), lambda: pipeline.reset() or frame(9)):
        assert processed(pipeline, begin()) == [1, 2]
        assert processed(pipeline, frame(9)) == [2]


def test_a_reset_does_not_touch_the_frame_being_finished(pipeline: Pipeline) -> None:
    pipeline.method = Squares([scene((0, 0), (40, 0)), scene((40, 0)), scene((40, 0))])
    processed(pipeline, frame(5))
    inferred = pipeline.infer([frame(6)])
    pipeline.reset()
    assert pipeline.finish(inferred)[0].instances.ids.tolist() == [2]
    assert processed(pipeline, frame(7)) == [1]


def test_tracking_is_switched_live(pipeline: Pipeline) -> None:
    pipeline.method = Squares([scene((0, 0), (40, 0)), scene((40, 0))] * 2)
    pipeline.reconfigure(replace(pipeline.config, tracking=TrackingConfig()))
    assert "track" not in pipeline.process([frame()])[0].stage_ms
    assert processed(pipeline, frame()) == [1]
    pipeline.reconfigure(replace(pipeline.config, tracking=TrackingConfig(enabled=True)))
    assert processed(pipeline, frame()) == [1, 2]
    (result,) = pipeline.process([frame()])
    assert result.instances.ids.tolist() == [2]
    assert result.stage_ms["track"] > 0
