"""What every dataset gives: a frame and the truth about it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from instaseg_ros.types import Frame


@dataclass(frozen=True, slots=True)
class Sample:
    """A frame with its instances.

    labels: (H, W) uint16, 0 background, otherwise an instance id that lasts through
        a sequence.
    ids: (N,) uint16, the label values present in `labels`, ascending.
    class_ids: (N,) int64, index into the dataset's `class_names`, same order as `ids`.
    ignore: (H, W) bool, pixels that count neither as background nor as an object; None:
        there are none.
    pose: (4, 4) float64 camera to world, x right, y down, z forward; None when unknown.
    """

    frame: Frame
    labels: np.ndarray
    ids: np.ndarray
    class_ids: np.ndarray
    ignore: np.ndarray | None = None
    pose: np.ndarray | None = None
