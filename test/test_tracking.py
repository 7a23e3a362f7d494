"""Ids over time: objects that continue, appear or return, and jumps of a camera's time."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import pytest

from instaseg_ros.config import Config, TrackingConfig, merge
from instaseg_ros.frames import Frame, Instances
from instaseg_ros.pipeline import Pipeline
from instaseg_ros.tracking import Tracker
from instaseg_ros.tracking import tracker as tracking
from instaseg_ros.tracking.camera_motion import CameraMotion
from instaseg_ros.tracking.tracker import EMBEDDING_RADIUS

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


class Drive:
    """A tracker and the time of its camera; the camera sees grey noise that stands still."""

    def __init__(self, **settings: object) -> None:
        self.tracker = Tracker(TrackingConfig(enabled=True, **settings))
        self.stamp_ns = 0
        self.texture = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)

    def see(self, instances: Instances, after_s: float = 0.1) -> Instances:
        """The tracked instances; checks that only ids and classes differ."""
        self.stamp_ns += round(after_s * 1e9)
        found = self.tracker.update(instances, Frame(self.texture, self.stamp_ns))
        assert found.ids.dtype == found.labels.dtype == np.uint16
        assert len(set(found.ids.tolist())) == len(found.ids)
        for before, after in zip(instances.ids, found.ids, strict=True):
            np.testing.assert_array_equal(found.labels == after, instances.labels == before)
        for name in ("scores", "boxes_xyxy", "embeddings"):
            assert getattr(found, name) is getattr(instances, name)
        return found

    def ids(self, instances: Instances, after_s: float = 0.1) -> list[int]:
        return self.see(instances, after_s).ids.tolist()


@pytest.fixture
def drive() -> Drive:
    return Drive(keep_s=0.35)


def test_ids_follow_objects_whatever_their_order(drive: Drive) -> None:
    assert drive.ids(scene((0, 0), (40, 0), (80, 0))) == [1, 2, 3]
    assert drive.ids(scene((85, 0), (5, 0), (45, 0))) == [3, 1, 2]
    assert drive.ids(scene((10, 0), (50, 0), numbers=[900, 65_535])) == [1, 2]


def test_all_pairs_are_considered_together(drive: Drive) -> None:
    """The second square matches the first object best, but the first one matches nothing else."""
    drive.ids(scene((0, 0), (30, 0)))
    assert drive.ids(scene((14, 0), (50, 0))) == [1, 2]


def test_an_object_is_found_where_its_motion_took_it(drive: Drive) -> None:
    """Two move right by a square's width each tenth of a second: by place alone, each would be
    taken for the one before it."""
    for k in range(3):
        assert drive.ids(scene((12 * k, 0), (12 * k + 28, 0))) == [1, 2]
    assert drive.ids(scene((52, 0), (80, 0)), after_s=0.2) == [1, 2]


def test_a_gap_is_bridged_by_motion_not_by_the_number_of_images(drive: Drive) -> None:
    for k in range(4):
        drive.ids(scene((8 * k, 0)))
    assert drive.ids(scene((24 + 24, 0)), after_s=0.3) == [1]
    assert drive.ids(scene((48 + 8, 0)), after_s=0.1) == [1]


def test_another_class_is_rather_another_object(drive: Drive) -> None:
    drive.ids(scene((40, 0)))
    assert drive.ids(scene((48, 1), (30, 0))) == [2, 1]


def test_the_class_is_a_vote(drive: Drive) -> None:
    """A car that is called a lorry once stays a car, and keeps its id; one that is called a lorry
    for long was one."""
    seen = [drive.see(scene((40, class_id))) for class_id in (0, 0, 1, 0, 1, 1, 1, 1)]
    assert [one.ids.tolist() for one in seen] == [[1]] * 8
    assert [int(one.class_ids[0]) for one in seen] == [0, 0, 0, 0, 0, 1, 1, 1]


def test_the_least_match(drive: Drive) -> None:
    drive.ids(scene((0, 0)))
    drive.tracker.config = dataclasses.replace(drive.tracker.config, min_match=0.9)
    assert drive.ids(scene((10, 0))) == [2]
    assert drive.ids(scene((10, 0))) == [2]
    drive = Drive(min_match=0.0)
    drive.ids(scene((0, 0)))
    assert drive.ids(scene((50, 0))) == [1]  # however far, if nothing is asked for


@pytest.mark.parametrize(("gone", "back"), [(1, 1), (2, 1), (3, 2)])
def test_a_lost_object_keeps_its_id_for_some_time(drive: Drive, gone: int, back: int) -> None:
    drive.ids(scene((40, 0)))
    for _ in range(gone):
        assert drive.ids(Instances.empty(*SIZE)) == []
    assert drive.ids(scene((42, 0))) == [back]


def test_what_the_last_image_showed_is_known_at_any_rate(drive: Drive) -> None:
    drive.ids(scene((40, 0)))
    assert drive.ids(scene((42, 0)), after_s=5) == [1]


def test_objects_can_wait_for_confirmation() -> None:
    drive = Drive(confirm_frames=3)
    tracker, frame = drive.tracker, Frame(drive.texture)
    both, one = scene((0, 0), (80, 0)), scene((0, 0))
    for instances in (one, both):
        found = tracker.update(instances, frame)
        assert len(found) == 0
        assert not found.labels.any()
    found = tracker.update(both, frame)  # the first one's third image
    assert found.ids.tolist() == [1]
    np.testing.assert_array_equal(found.labels, one.labels)
    assert tracker.update(both, frame).ids.tolist() == [1, 2]


def test_nothing_to_follow(drive: Drive) -> None:
    assert drive.ids(Instances.empty(*SIZE)) == []
    assert drive.ids(scene((0, 0))) == [1]
    assert drive.ids(Instances.empty(*SIZE)) == []
    assert drive.ids(scene((0, 0))) == [1]


def test_embeddings_decide_where_there_are_some(drive: Drive) -> None:
    drive.ids(embedded(scene((0, 0), (40, 0)), 0.0, 2.0))
    assert drive.ids(embedded(scene((0, 0), (40, 0)), 1.9, 0.4)) == [2, 1]
    assert drive.ids(embedded(scene((80, 0)), 0.4 - 0.9 * EMBEDDING_RADIUS)) == [1]
    assert drive.ids(Instances.empty(*SIZE)) == []
    assert drive.ids(embedded(scene((0, 0)), 0.4 - 2 * EMBEDDING_RADIUS)) == [3]


def test_ids_are_used_again_only_when_all_are_spent(
    drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "MAX_ID", 5)
    drive.tracker.config = dataclasses.replace(drive.tracker.config, keep_s=0.0)
    places = [scene((0, 0), (40, 0)), scene((0, 0), (100, 0))]  # the first one stays
    drive.tracker.config = dataclasses.replace(drive.tracker.config, min_match=0.3)
    given = [drive.ids(places[n % 2]) for n in range(6)]
    assert given == [[1, 2], [1, 3], [1, 4], [1, 5], [1, 2], [1, 3]]


def test_lost_objects_give_up_their_ids_to_those_in_the_frame(
    drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "MAX_ID", 3)
    drive.tracker.config = dataclasses.replace(drive.tracker.config, min_match=0.3)
    assert drive.ids(scene((0, 0), (40, 0))) == [1, 2]
    assert drive.ids(scene((100, 0), (40, 0))) == [3, 2]  # that of 1, lost, is kept
    assert drive.ids(scene((70, 0), (100, 0), (40, 0))) == [1, 3, 2]


def test_reset_and_another_size_begin_anew(drive: Drive) -> None:
    drive.ids(scene((0, 0), (40, 0)))
    drive.tracker.reset()
    assert drive.ids(scene((40, 0))) == [1]
    larger = np.pad(scene((40, 0)).labels, ((0, 8), (0, 0)))
    drive.texture = np.pad(drive.texture, ((0, 8), (0, 0), (0, 0)))
    assert drive.ids(dataclasses.replace(scene((80, 0)), labels=larger * 0)) == [1]


def picture(shift: int = 0) -> np.ndarray:
    """Noise of some pixels' size, moved to the right."""
    coarse = np.random.default_rng(1).integers(0, 256, (30, 70), np.uint8)
    large = cv2.resize(coarse, (700, 300), interpolation=cv2.INTER_CUBIC)
    part = large[20:276, 60 - shift : 60 - shift + 512]
    return np.ascontiguousarray(np.repeat(part[..., None], 3, axis=2))


def test_the_cameras_motion_is_measured() -> None:
    motion, nothing = CameraMotion(), np.zeros((0, 4), np.float32)
    np.testing.assert_array_equal(motion.update(picture(), nothing), np.eye(2, 3))
    moved = motion.update(picture(24), nothing)
    np.testing.assert_allclose(moved[:, :2], np.eye(2), atol=0.02)
    np.testing.assert_allclose(moved @ [256, 128, 1], [280, 128], atol=1)
    turned = np.ascontiguousarray(np.rot90(picture(24), 2))  # too far for corners to be found again
    np.testing.assert_array_equal(motion.update(turned, nothing), np.eye(2, 3))
    dark = np.zeros((256, 512, 3), np.uint8)
    np.testing.assert_array_equal(motion.update(dark, nothing), np.eye(2, 3))
    np.testing.assert_array_equal(motion.update(picture(), nothing), np.eye(2, 3))


@pytest.mark.parametrize("measured", [True, False])
def test_a_turning_camera_does_not_exchange_objects(measured: bool) -> None:
    """Squares stand 60 pixels apart; while none is seen, the camera turns by those 60."""
    tracker = Tracker(TrackingConfig(enabled=True, camera_motion=measured))
    shape = 256, 512

    def squares(*lefts: int) -> Instances:
        boxes = np.array([[left, 100, left + 30, 130] for left in lefts], np.float32)
        labels = np.zeros(shape, np.uint16)
        for number, left in enumerate(lefts, 1):
            labels[100:130, left : left + 30] = number
        n = len(lefts)
        found = scene(*[(0, 0)] * n)
        return dataclasses.replace(found, labels=labels, boxes_xyxy=boxes)

    def tracked(instances: Instances, shift: int) -> list[int]:
        return tracker.update(instances, Frame(picture(shift))).ids.tolist()

    assert tracked(squares(100, 160, 220), 0) == [1, 2, 3]
    for shift in (20, 40):
        tracked(Instances.empty(*shape), shift)
    found = tracked(squares(160, 220, 280), 60)
    assert found == ([1, 2, 3] if measured else [2, 3, 4])


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


def test_switching_it_on_live_loads_what_it_needs_before_the_next_frame() -> None:
    code = """
import sys
from dataclasses import replace
from instaseg_ros.pipeline import Pipeline
from instaseg_ros.config import Config, TrackingConfig, merge
pipeline = Pipeline(merge(Config(), {"runtime.name": "torch"}))
before = "scipy.optimize" in sys.modules
pipeline.reconfigure(replace(pipeline.config, tracking=TrackingConfig(enabled=True)))
print(before, "scipy.optimize" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True"], done.stderr
