"""Proposes masks for a frame: what the network sees, and the masks of the frame before, moved."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from instaseg_ros.frames import Instances
from instaseg_ros.labelling.editing import MOST_ID, PROPOSAL, Drawing, Object

FLOW_WIDTH = 640  # pixels at which the motion is measured
SAME_OBJECT = 0.5  # IoU of a moved mask and the network's
MOST_CHANGE = 30.0  # mean grey levels by which a moved object may look different
LEAST_FREE = 0.5  # share of a proposal that no other one covers
LEAST_PX = 9

Classes = Sequence[int]  # the dataset's class of each of the network's; -1: none


def of_network(instances: Instances, classes: Classes) -> Drawing:
    """The network's instances of the classes that the dataset has."""
    return _combined(Drawing(np.zeros_like(instances.labels), {}), instances, classes)


def moved(
    before: Drawing,
    image_before: NDArray[np.uint8],
    image: NDArray[np.uint8],
    instances: Instances | None,
    classes: Classes,
) -> Drawing:
    """The objects of the frame before, moved to this one, and what the network sees besides.

    An object keeps its label value and class. It has the network's mask if the network sees it too,
    else its own, moved by dense optical flow (Kroeger et al. 2016) if it still looks the same.
    image_before, image: (H, W, 3) uint8 RGB of one size.
    """
    labels = _by_flow(before.labels, image_before, image)
    objects = {i: Object(one.class_id, PROPOSAL) for i, one in before.objects.items()}
    here = Drawing(labels, objects, first_id=max(before.objects, default=0) + 1)
    if instances is None:
        return here
    return _combined(here, instances, classes)


def added(drawing: Drawing, instances: Instances, classes: Classes) -> Drawing:
    """What a frame has, and what the network sees besides, where there is room."""
    found = drawing.copy()
    made, objects, free_id = found.labels, dict(found.objects), found.new_id()
    for k in np.argsort(-instances.scores):
        mask = instances.labels == instances.ids[k]
        room, class_id = mask & (made == 0) & ~found.ignore, classes[instances.class_ids[k]]
        enough = np.count_nonzero(room) >= max(LEAST_FREE * np.count_nonzero(mask), LEAST_PX)
        if class_id >= 0 and enough and free_id <= MOST_ID:
            made[room] = free_id
            objects[free_id] = Object(int(class_id), PROPOSAL)
            free_id += 1
    return Drawing(made, objects, found.ignore)


def _by_flow(
    labels: NDArray[np.uint16], before: NDArray[np.uint8], now: NDArray[np.uint8]
) -> NDArray[np.uint16]:
    """(H, W) uint16: the labels of the image before, where its pixels are now."""
    height, width = labels.shape
    scale = min(1.0, FLOW_WIDTH / width)
    size = max(16, round(width * scale)), max(16, round(height * scale))
    old, new = (
        cv2.cvtColor(cv2.resize(i, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
        for i in (before, now)
    )
    finder = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow = finder.calc(new, old, None)  # type: ignore[call-overload]
    x, y = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in size))
    looked = cv2.remap(old, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR)
    change = np.abs(looked.astype(np.int16) - new)
    flow = cv2.resize(flow, (width, height)) / np.float32(scale)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    constant = cv2.BORDER_CONSTANT
    found = cv2.remap(
        labels, x + flow[..., 0], y + flow[..., 1], cv2.INTER_NEAREST, borderMode=constant
    )
    small = cv2.resize(found, size, interpolation=cv2.INTER_NEAREST)
    counts = np.bincount(small.ravel(), minlength=MOST_ID + 1)
    changes = np.bincount(small.ravel(), change.ravel(), MOST_ID + 1) / np.maximum(counts, 1)
    sizes = np.bincount(found.ravel(), minlength=MOST_ID + 1)
    kept = (changes <= MOST_CHANGE) & (sizes >= LEAST_PX)
    return np.where(kept[found], found, 0).astype(np.uint16)


def _combined(known: Drawing, instances: Instances, classes: Classes) -> Drawing:
    """The known objects with the network's masks where it sees them, and its other instances where
    there is room."""
    labels = known.labels.copy()
    sizes = np.bincount(labels.ravel(), minlength=MOST_ID + 1)
    taken: set[int] = set()
    others = np.zeros(len(instances), bool)
    for k in np.argsort(-instances.scores):
        mask = instances.labels == instances.ids[k]
        under = np.bincount(known.labels[mask], minlength=1)
        under[0] = 0
        best = int(under.argmax())
        union = np.count_nonzero(mask) + sizes[best] - under[best]
        if best and best not in taken and under[best] >= SAME_OBJECT * union:
            taken.add(best)
            labels[labels == best] = 0  # the moved mask is replaced
            labels[mask] = best
        else:
            others[k] = True
    here = Drawing(labels, known.objects, first_id=known.new_id())
    return added(here, instances.rows(others), classes)
