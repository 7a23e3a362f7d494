"""Raw outputs of the box regression for given truth."""

from __future__ import annotations

import numpy as np
import torch

from instaseg_ros.methods import Targets
from instaseg_ros.methods.box_regression import _true_boxes, raw_outputs
from instaseg_ros.methods.semantic import semantic_truth


def targets_of_image(labels: np.ndarray, class_ids: list[int]) -> Targets:
    """The truth of one image, no pixel of it excused. labels: (H, W), 1..K."""
    whole = torch.from_numpy(labels.astype(np.int64))[None]
    return Targets(whole, [torch.tensor(class_ids, dtype=torch.int64)], whole < 0)


def perfect_outputs(truth: Targets, n_classes: int, logit: float = 6.0) -> dict[str, torch.Tensor]:
    """What a network says that knows the truth of one image."""
    labels, (class_ids,) = truth.labels[0], truth.class_ids
    y, x = torch.nonzero(labels, as_tuple=True)
    owner = labels[y, x] - 1
    position = torch.stack([x, y]) + 0.5
    box = torch.zeros(4, *labels.shape)
    box[:, y, x] = raw_outputs(_true_boxes(position, owner, len(class_ids))[:, owner], position)
    classes = semantic_truth(truth).clamp(min=0)
    semantic = torch.nn.functional.one_hot(classes, n_classes + 1).permute(0, 3, 1, 2)
    return {"box": box[None], "semantic": logit * semantic.float()}


def street_of_ellipses(
    height: int, width: int, n: int, seed: int = 0
) -> tuple[np.ndarray, list[int]]:
    """Ellipses, the nearer ones in front; at least 30 pixels of each can be seen."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    labels = np.zeros((height, width), np.int64)
    for k in range(1, n + 1):
        side = height / 20 + height / 4 * k / n
        cx, cy = rng.uniform(0, width), height * (0.4 + 0.4 * k / n)
        w, h = side * rng.uniform(0.4, 1.0), side * rng.uniform(0.5, 1.0)
        labels[((x - cx) / w) ** 2 + ((y - cy) / h) ** 2 < 0.5] = k
    _, labels, counts = np.unique(labels, return_inverse=True, return_counts=True)
    labels = labels.reshape(height, width)
    labels = np.where(counts[labels] >= 30, labels, 0)
    _, labels = np.unique(labels, return_inverse=True)
    labels = labels.reshape(height, width)
    return labels, rng.integers(0, 3, labels.max()).tolist()
