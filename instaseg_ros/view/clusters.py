"""Tells how near two clusters are to being one, and where their objects are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.clustering.ellipses import MEMBERSHIP
from instaseg_ros.frames import Instances
from instaseg_ros.tables import text_table

LEAST_SHIFT_PX = 20  # less is where a network sees objects' centres


class Neighbour(NamedTuple):
    """The cluster of the same class that comes nearest to being one with another.

    id: its label value. phi: in [0, 1], how far the centre of the less sure one belongs to the
    surer one; above 0.5 they would be one.
    """

    id: int
    phi: float


def neighbours(clusters: Instances) -> list[Neighbour | None]:
    """For each cluster of a method with bandwidths; None if none is of its class.

    clusters: as clustering gave them, the surest first by id.
    """
    found: list[Neighbour | None] = []
    for n, label in enumerate(clusters.ids):
        surer = np.minimum(n, np.arange(len(clusters)))
        away = clusters.centers_xy - clusters.centers_xy[n]
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = np.square(away / clusters.bandwidths[surer]).sum(1)
        phi = np.nan_to_num(np.exp(math.log(MEMBERSHIP) * distance))
        phi[(clusters.class_ids != clusters.class_ids[n]) | (clusters.ids == label)] = -1
        best = int(phi.argmax())
        found.append(
            Neighbour(int(clusters.ids[best]), float(phi[best])) if phi[best] >= 0 else None
        )
    return found


def common_shift(clusters: Instances) -> NDArray[np.float64]:
    """(2,): x and y in pixels by which all pixels point beside their objects, by the median of the
    clusters; 0 if it is small.

    The loss compares points with each other alone, so that a network is free to learn such a shift;
    clustering does not see it.
    """
    middles = [np.argwhere(clusters.labels == label).mean(0)[::-1] for label in clusters.ids]
    if not middles:
        return np.zeros(2)
    shift = np.median(clusters.centers_xy - np.array(middles), axis=0)
    return shift if np.hypot(*shift) > LEAST_SHIFT_PX else np.zeros(2)


def described(clusters: Instances, class_names: Sequence[str]) -> str:
    """A table of the clusters, and for each the one of its class that comes nearest to being one
    with it."""
    if not len(clusters):
        return "no objects"
    pixels = np.bincount(clusters.labels.ravel(), minlength=1 << 16)[clusters.ids]
    columns = [
        clusters.ids.tolist(),
        [class_names[class_id] for class_id in clusters.class_ids],
        clusters.scores.tolist(),
        pixels.tolist(),
        *(clusters.centers_xy - common_shift(clusters)).T.tolist(),
        *clusters.bandwidths.T.tolist(),
    ]
    headings = ["id", "class", "score", "pixels", "centre x", "y", "bandwidth x", "y"]
    formats = ["d", "", ".2f", "d", ".0f", ".0f", ".1f", ".1f"]
    if clusters.bandwidths.any():
        near = neighbours(clusters)
        columns += [[n.id if n else None for n in near], [n.phi if n else None for n in near]]
        headings += ["nearest of its class", "phi"]
        formats += ["d", ".3f"]
    return text_table(headings, list(zip(*columns, strict=True)), formats)
