"""Tracks objects: an instance gets the id of the known object it matches.

Each object is expected where the camera's motion and its own take it, so that it is found again
after a gap. How it is matched is ours; assignment is Hungarian, as in SORT (Bewley et al. 2016).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from instaseg_ros.config import TrackingConfig
from instaseg_ros.frames import Frame, Instances
from instaseg_ros.tracking.camera_motion import CameraMotion, Transform

MAX_ID = 65_535  # of uint16; 0 is background
EMBEDDING_RADIUS = 1.5  # rho_r of Hu et al. 2019: instances are trained to lie twice as far apart
UNKNOWN_INTERVAL_S = 0.1  # between images without stamps

# Chosen on sequences of the synthetic street's training split, at 10 Hz and at 3 Hz with a third of
# the images missing.
OVERLAP = 0.7  # what the IoU of masks counts beside nearness
NEAR, NEAR_PER_S = 0.7, 1.0  # standard deviation of the place, in sizes of the object
OTHER_CLASS = 0.2  # what a match with an instance of another class counts
FOLLOW, FIRST = 0.4, 0.7  # share of a new velocity that is believed, and of an object's first one
MOST_SPEED, MOST_GROWTH = 6.0, 1.5  # per second, in sizes of the object, and of the log of its size
COMPARED_PX = 4096  # about as many pixels of a mask are compared at most; all of a smaller one
VOTES_S = 0.5  # in which what a vote for a class counts falls to 1/e

State = NDArray[np.float64]  # (..., 4): x and y of a box's centre, logs of its width and height, px


@dataclass(slots=True)
class _Object:
    """A known object.

    state: as last seen, moved along with the camera since. velocity: (4,) of it per second, beside
    the camera's. expected: (4,) state in the image at hand. mask: (h, w) bool, its pixels within
    its box. votes: for each class. embedding: (D,), D = 0 without an embedding. seen: images in
    which it was found. missed_s: seconds since the last one.
    """

    id: int
    state: State
    velocity: State = field(default_factory=lambda: np.zeros(4))
    expected: State = field(default_factory=lambda: np.zeros(4))
    mask: NDArray[np.bool_] = field(default_factory=lambda: np.zeros((1, 1), bool))
    votes: dict[int, float] = field(default_factory=dict)
    embedding: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    seen: int = 0
    missed_s: float = 0.0

    @property
    def class_id(self) -> int:
        return max(self.votes, key=self.votes.__getitem__)

    def follow(self, camera: Transform, passed_s: float) -> None:
        """Time passes and the picture moves."""
        self.state[:2] = camera[:, :2] @ self.state[:2] + camera[:, 2]
        self.state[2:] += np.log(np.hypot(camera[0, 0], camera[1, 0]))
        self.missed_s += passed_s
        kept = math.exp(-passed_s / VOTES_S)
        self.votes = {class_id: kept * votes for class_id, votes in self.votes.items()}
        moved = self.velocity * self.missed_s
        moved[2:] = _limited(moved[2:], 1)
        self.expected = self.state + moved

    def found(self, state: State) -> None:
        """It is seen again, as `state` says."""
        passed_s = max(self.missed_s, 1e-3)
        if self.seen == 1:
            self.velocity = FIRST * (state - self.state) / passed_s
        else:
            self.velocity += FOLLOW * (state - self.expected) / passed_s
        self.velocity[:2] = _limited(self.velocity[:2], MOST_SPEED * np.exp(state[2:]))
        self.velocity[2:] = _limited(self.velocity[2:], MOST_GROWTH)
        self.state, self.missed_s = state, 0.0

    def see(self, instances: Instances, number: int, mask: NDArray[np.bool_]) -> None:
        """It is this instance of the image."""
        self.mask = mask
        class_id, score = int(instances.class_ids[number]), float(instances.scores[number])
        self.votes[class_id] = self.votes.get(class_id, 0.0) + score
        if instances.embeddings is not None:
            self.embedding = instances.embeddings[number]
        self.seen += 1


class Tracker:
    """Follows the objects of one camera.

    An instance continues the known object that it matches best, all pairs considered together
    (Hungarian assignment). They match by the IoU of the masks and by how near the instance is to
    where the object is expected; if the method learns an embedding, by the distance of their mean
    embeddings instead, within EMBEDDING_RADIUS (Hu et al. 2019). An object's class is the vote of
    the instances it was.

    Other instances get a new id; once all 65535 are used, the one that has been free for longest.

    config: may be replaced between calls.
    """

    def __init__(self, config: TrackingConfig) -> None:
        self.config = config
        self.reset()

    def reset(self) -> None:
        """Forget every object; ids begin at 1."""
        self._objects: list[_Object] = []  # those of the last image first, the longest lost last
        self._next_id = 1
        self._size = (0, 0)
        self._stamp_ns: int | None = None
        self._camera = CameraMotion()

    def update(self, instances: Instances, frame: Frame) -> Instances:
        """Give the instances of the next frame lasting `ids`, also in `labels`, and classes.

        Their order stays; those whose objects have not been seen `config.confirm_frames` times
        yet are left out. If the frame's size differs from the last one's, every object is forgotten
        first.
        """
        if instances.labels.shape != self._size:
            self.reset()
            self._size = instances.labels.shape
        known = self._still_known(frame, instances)
        states, masks = _states(instances), _masks(instances)
        objects: list[_Object | None] = [None] * len(instances)
        likeness = self._likeness(known, states, masks, instances)
        for row, new in _assigned(likeness, self.config.min_match):
            known[row].found(states[new])
            objects[new] = known[row]
        lost = [one for one in known if one.missed_s > 0][: MAX_ID - len(instances)]
        taken = [one.id for one in [*lost, *objects] if one is not None]
        free = iter(self._unused(objects.count(None), taken).tolist())
        present = []
        for new, one in enumerate(objects):
            one = one or _Object(next(free), states[new])
            one.see(instances, new, masks[new])
            present.append(one)
        self._objects = [*present, *lost]
        return _renamed(instances, present, self.config.confirm_frames)

    def _still_known(self, frame: Frame, instances: Instances) -> list[_Object]:
        """The objects that are not lost for too long, at the frame's time and camera."""
        passed_s = UNKNOWN_INTERVAL_S
        if self._stamp_ns is not None and frame.stamp_ns > self._stamp_ns:
            passed_s = (frame.stamp_ns - self._stamp_ns) / 1e9
        self._stamp_ns = frame.stamp_ns
        motion = np.eye(2, 3)
        if self.config.camera_motion:
            motion = self._camera.update(frame.image, instances.boxes_xyxy)
        for one in self._objects:
            one.follow(motion, passed_s)
        longest_s = max(self.config.keep_s, passed_s)  # what the last image showed is known
        return [one for one in self._objects if one.missed_s <= longest_s]

    def _likeness(
        self,
        known: list[_Object],
        states: State,
        masks: list[NDArray[np.bool_]],
        instances: Instances,
    ) -> NDArray[np.float64]:
        """(K, N) in [0, 1]: how well each known object matches each instance."""
        likeness = np.zeros((len(known), len(instances)))
        if not likeness.size:
            return likeness
        if instances.embeddings is None:
            pixels = np.array([np.count_nonzero(mask) for mask in masks])
            overlap = np.array([_overlap(one, instances, pixels) for one in known])
            likeness = OVERLAP * overlap + (1 - OVERLAP) * _nearness(known, states)
        else:
            for row, one in enumerate(known):
                distance = np.linalg.norm(instances.embeddings - one.embedding, axis=1)
                likeness[row] = 1 - distance / EMBEDDING_RADIUS
        classes = np.array([one.class_id for one in known])
        likeness[classes[:, None] != instances.class_ids] *= OTHER_CLASS
        return likeness

    def _unused(self, count: int, taken: list[int]) -> NDArray[np.int64]:
        """The next `count` ids that are not taken."""
        if not count:
            return np.zeros(0, np.int64)
        free = np.ones(MAX_ID + 1, bool)
        free[taken] = False
        turn = (np.arange(MAX_ID) + self._next_id - 1) % MAX_ID + 1
        ids = turn[free[turn]][:count]
        self._next_id = int(ids[-1]) % MAX_ID + 1
        return ids


def _states(instances: Instances) -> State:
    """(N, 4): the instances' boxes."""
    boxes = instances.boxes_xyxy.astype(np.float64)
    low, high = boxes[:, :2], boxes[:, 2:]
    return np.hstack([(low + high) / 2, np.log(np.maximum(high - low, 1))])


def _masks(instances: Instances) -> list[NDArray[np.bool_]]:
    """(h, w) of each instance: its pixels within its box."""
    corners = np.maximum(instances.boxes_xyxy, 0)
    corners[:, :2], corners[:, 2:] = np.floor(corners[:, :2]), np.ceil(corners[:, 2:])
    boxes = zip(corners.astype(int).tolist(), instances.ids, strict=True)
    return [
        instances.labels[top:bottom, left:right] == number
        for (left, top, right, bottom), number in boxes
    ]


def _overlap(one: _Object, instances: Instances, pixels: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N,) IoU of each instance, of (N,) `pixels`, with the object's last mask where and as large
    as it is expected; large ones are compared in every `step`-th row and column."""
    labels = instances.labels
    size = np.minimum(np.exp(one.expected[2:]), 4 * np.array(labels.shape[::-1]))
    step = max(1, int(np.sqrt(size.prod() / COMPARED_PX)))
    left, top = np.rint(one.expected[:2] - size / 2).astype(int).tolist()
    columns, rows = np.maximum(np.rint(size / step), 1).astype(int).tolist()
    mask: NDArray[Any] = one.mask
    if mask.shape != (rows, columns):
        mask = cv2.resize(mask.view(np.uint8), (columns, rows), interpolation=cv2.INTER_NEAREST)
    first_row, first_column = -(min(0, top) // step), -(min(0, left) // step)
    under = labels[top + first_row * step :: step, left + first_column * step :: step]
    under = under[: rows - first_row, : columns - first_column]
    mask = mask[first_row:, first_column:][: under.shape[0], : under.shape[1]].view(bool)
    if not under.size:
        return np.zeros(len(pixels))
    covered = np.bincount(under[mask], minlength=int(instances.ids.max()) + 1)[instances.ids]
    both = np.count_nonzero(mask) * step**2 + pixels - covered * step**2
    iou: NDArray[np.float64] = covered * step**2 / np.maximum(both, 1)
    return np.minimum(iou, 1)


def _nearness(known: list[_Object], states: State) -> NDArray[np.float64]:
    """(K, N) in [0, 1]: how near each instance is to where an object is expected, and as large."""
    expected = np.array([one.expected for one in known])[:, None]
    spread = NEAR + NEAR_PER_S * np.array([one.missed_s for one in known])[:, None]
    apart = states - expected
    apart[..., :2] /= np.exp((states[:, 2:] + expected[..., 2:]) / 2)
    apart[..., 2:] /= 2
    nearness: NDArray[np.float64] = np.exp(-0.5 * (apart**2).sum(-1) / spread**2)
    return nearness


def _limited(values: State, most: NDArray[np.float64] | float) -> State:
    """Within -most and most; for a few values several times as fast as np.clip."""
    return np.minimum(np.maximum(values, -np.asarray(most)), most)


def load_assignment() -> Callable[..., Any]:
    """SciPy's solver, whose first import takes a quarter of a second and is not needed without
    tracking."""
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment


def _assigned(likeness: NDArray[np.float64], least: float) -> list[tuple[int, int]]:
    """Pairs of a row and a column, each in at most one, that together are most alike."""
    rows, columns = load_assignment()(np.maximum(likeness, 0), maximize=True)
    kept = likeness[rows, columns] >= max(least, 1e-9)
    return list(zip(rows[kept].tolist(), columns[kept].tolist(), strict=True))


def _renamed(instances: Instances, objects: list[_Object], confirm_frames: int) -> Instances:
    """The instances with their objects' ids and classes, without objects seen less often."""
    confirmed = np.array([one.seen >= confirm_frames for one in objects], bool)
    ids = np.array([one.id for one in objects], np.uint16)
    lasting = np.zeros(1 << 16, np.uint16)
    lasting[instances.ids] = np.where(confirmed, ids, 0)
    classes = np.array([one.class_id for one in objects], np.int64)
    named = dataclasses.replace(
        instances, labels=lasting.take(instances.labels), ids=ids, class_ids=classes
    )
    return named if confirmed.all() else named.rows(confirmed)
