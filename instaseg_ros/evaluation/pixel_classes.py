"""Compares the pixel classes that a network predicts beside its objects with the truth."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from instaseg_ros.datasets import Sample
from instaseg_ros.evaluation.metrics.semantics import confusion, frame_confusion
from instaseg_ros.evaluation.run import ClassMatch, in_common
from instaseg_ros.model.heads import DENSE, STRIDE
from instaseg_ros.pipeline import Inferred


class PixelClasses:
    """Collects `confusion` counts of the frames that `labelled` passes to `look`, if they have
    scores and truth: of the dense classes if these are learned, else of the head `semantic`."""

    def __init__(self, classes: ClassMatch) -> None:
        self._classes = classes
        self.confusions: list[NDArray[np.int64]] = []

    def look(self, sample: Sample, inferred: Inferred) -> None:
        """Count one frame."""
        height, width = inferred.geometry.scaled
        if DENSE in inferred.outputs:
            if sample.semantic is not None:
                dense = inferred.outputs[DENSE]
                scores = interpolate(dense, scale_factor=STRIDE, mode="bilinear")
                seen = 1 + _best(scores[..., :height, :width])
                size = sample.semantic.shape[::-1]
                there = cv2.resize(seen.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
                known, unknown = 1 + dense.shape[1], sample.semantic == 0
                self.confusions.append(confusion(sample.semantic, there, known, unknown))
        elif "semantic" in inferred.outputs:
            best = _best(inferred.outputs["semantic"][..., :height, :width])
            seen = np.append(0, self._classes.predicted + 1)[best]
            objects, regions = in_common(self._classes, sample)
            known = len(self._classes.names) + 1
            self.confusions.append(frame_confusion(*objects, seen, known, *regions))


def _best(scores: Tensor) -> NDArray[np.int64]:
    """(H, W) the index of the largest channel of (1, C, H, W)."""
    return np.asarray(scores[0].argmax(0).cpu().numpy())
