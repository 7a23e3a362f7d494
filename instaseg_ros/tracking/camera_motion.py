"""Measures how the camera's own motion moves the picture."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

WIDTH = 256  # pixels at which it is measured
POINTS = 120
FEWEST_POINTS = 8  # fewer say nothing about the whole picture
WINDOW = (15, 15)  # pixels around a point that are looked for in the next image
LEVELS = 3  # of the image pyramid: points are found up to 15 * 2**3 pixels away
MOST_ERROR_PX = 1.5  # of a point that moves with the picture
MOST_ZOOM = 2.0  # from one image to the next; beyond it, corners were mistaken for each other

Transform = NDArray[
    np.float64
]  # (2, 3): a point x of the image before is now at A[:, :2] x + A[:, 2]


class CameraMotion:
    """Follows corners of the background, with sparse optical flow (Lucas and Kanade 1981)."""

    def __init__(self) -> None:
        self._grey: NDArray[np.uint8] | None = None
        self._points: NDArray[np.float32] | None = None

    def update(self, image: NDArray[np.uint8], boxes_xyxy: NDArray[np.float32]) -> Transform:
        """Rotation, scale and shift since the last image, in pixels of `image`: (2, 3).

        image: (H, W, 3) uint8 RGB, of the last one's size. boxes_xyxy: (N, 4), the objects, whose
        corners are not followed. The identity for the first image, and where too few corners are
        found again or agree.
        """
        height, width = image.shape[:2]
        scale = WIDTH / width
        step = max(1, width // (2 * WIDTH))
        green = np.ascontiguousarray(image[::step, ::step, 1])  # alone it is as good as grey
        size = WIDTH, max(1, round(height * scale))
        grey = np.asarray(cv2.resize(green, size, interpolation=cv2.INTER_AREA), np.uint8)
        motion = self._since_last(grey)
        motion[:, 2] /= scale
        background = np.full(grey.shape, 255, np.uint8)
        for left, top, right, bottom in (boxes_xyxy * scale).astype(int).tolist():
            background[max(0, top) : bottom + 1, max(0, left) : right + 1] = 0
        corners = cv2.goodFeaturesToTrack(grey, POINTS, 0.01, 5, mask=background)
        self._grey, self._points = grey, None if corners is None else corners.astype(np.float32)
        return motion

    def _since_last(self, grey: NDArray[np.uint8]) -> Transform:
        identity = np.eye(2, 3)
        if self._grey is None or self._points is None or len(self._points) < FEWEST_POINTS:
            return identity
        moved, found, _ = cv2.calcOpticalFlowPyrLK(
            self._grey, grey, self._points, np.empty_like(self._points), None, None, WINDOW, LEVELS
        )
        kept = found[:, 0] == 1
        if kept.sum() < FEWEST_POINTS:
            return identity
        motion, agreeing = cv2.estimateAffinePartial2D(
            self._points[kept],
            moved[kept],
            ransacReprojThreshold=MOST_ERROR_PX,
            maxIters=200,
        )
        if motion is None or agreeing.sum() < FEWEST_POINTS:
            return identity
        zoom = np.hypot(motion[0, 0], motion[1, 0])
        return np.asarray(motion, np.float64) if 1 / MOST_ZOOM < zoom < MOST_ZOOM else identity
