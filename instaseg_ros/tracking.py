"""Tracks objects: an instance gets the id of the known object it matches."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.config import TrackingConfig
from instaseg_ros.frames import Instances

MAX_ID = 65_535  # of uint16; 0 is background
EMBEDDING_RADIUS = 1.5  # rho_r of Hu et al. 2019: instances are trained to lie twice as far apart


@dataclass(slots=True)
class _Track:
    """An object as last seen.

    rows, columns: its box in the image. mask: (h, w) bool, its pixels there. embedding: (D,), D = 0
    without an embedding. missed: frames since then.
    """

    id: int
    class_id: int
    rows: slice
    columns: slice
    mask: NDArray[np.bool_]
    pixels: int
    embedding: NDArray[np.float32]
    missed: int = 0


class _Pair(NamedTuple):
    """A known object and an instance, by index, and how well they match."""

    likeness: float
    old: int
    new: int


class Tracker:
    """Follows the objects of one camera.

    An instance continues the object of its class whose last mean embedding is nearest, within
    EMBEDDING_RADIUS (Hu et al. 2019); if the method learns no embedding, the object whose last mask
    has the largest IoU with its own. Pairs are matched best first, which is our choice.

    Other instances get a new id; once all 65535 are used, the one that has been free for longest.

    config: may be replaced between calls.
    """

    def __init__(self, config: TrackingConfig) -> None:
        self.config = config
        self.reset()

    def reset(self) -> None:
        """Forget every object; ids begin at 1."""
        self._tracks: list[_Track] = []  # the last frame's first, the longest lost last
        self._next_id = 1
        self._size = (0, 0)

    def update(self, instances: Instances) -> Instances:
        """Give the instances of the next frame lasting `ids`, also in `labels`; the order stays.

        If the frame's size differs from the last one's, every object is forgotten first.
        """
        if instances.labels.shape != self._size:
            self.reset()
            self._size = instances.labels.shape
        seen = _as_tracks(instances)
        ids = np.zeros(len(seen), np.int64)
        lost = dict(enumerate(self._tracks))
        for new, old in _best_first(self._pairs(seen, instances)).items():
            ids[new] = lost.pop(old).id
        kept = [track for track in lost.values() if track.missed < self.config.keep_frames]
        kept = kept[: MAX_ID - len(seen)]
        for track in kept:
            track.missed += 1
        ids[ids == 0] = self._unused(int((ids == 0).sum()), [*ids, *(t.id for t in kept)])
        for track, number in zip(seen, ids.tolist(), strict=True):
            track.id = number
        self._tracks = [*seen, *kept]
        lasting = np.zeros(1 << 16, np.uint16)
        lasting[instances.ids] = ids
        return dataclasses.replace(
            instances, labels=lasting.take(instances.labels), ids=ids.astype(np.uint16)
        )

    def _pairs(self, seen: list[_Track], instances: Instances) -> Iterator[_Pair]:
        """Pairs of a known object and an instance that may be the same."""
        pixels = np.array([track.pixels for track in seen], np.int64)
        n_labels = int(instances.ids.max(initial=0)) + 1
        for old, track in enumerate(self._tracks):
            if instances.embeddings is not None:
                likeness = -np.linalg.norm(instances.embeddings - track.embedding, axis=1)
                fits = likeness > -EMBEDDING_RADIUS
            else:
                under = instances.labels[track.rows, track.columns][track.mask]
                overlap = np.bincount(under, minlength=n_labels)[instances.ids]
                likeness = overlap / np.maximum(track.pixels + pixels - overlap, 1)
                fits = (overlap > 0) & (likeness >= self.config.min_iou)
            for new in np.flatnonzero(fits & (instances.class_ids == track.class_id)).tolist():
                yield _Pair(float(likeness[new]), old, new)

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


def _as_tracks(instances: Instances) -> list[_Track]:
    """The instances with their masks, not yet with a lasting id."""
    tracks = []
    embeddings = instances.embeddings
    if embeddings is None:
        embeddings = np.zeros((len(instances), 0), np.float32)
    corners = np.maximum(instances.boxes_xyxy, 0)
    corners[:, :2], corners[:, 2:] = np.floor(corners[:, :2]), np.ceil(corners[:, 2:])
    for k, (left, top, right, bottom) in enumerate(corners.astype(int).tolist()):
        rows, columns = slice(top, bottom), slice(left, right)
        mask = instances.labels[rows, columns] == instances.ids[k]
        class_id, pixels = int(instances.class_ids[k]), int(np.count_nonzero(mask))
        tracks.append(_Track(0, class_id, rows, columns, mask, pixels, embeddings[k]))
    return tracks


def _best_first(pairs: Iterable[_Pair]) -> dict[int, int]:
    """The known object of each instance, best match first, each in at most one pair."""
    old_of: dict[int, int] = {}
    taken: set[int] = set()
    for pair in sorted(pairs, key=lambda pair: -pair.likeness):
        if pair.new not in old_of and pair.old not in taken:
            old_of[pair.new] = pair.old
            taken.add(pair.old)
    return old_of
