"""Defines the data that passes through the package: camera frames in, instances out."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Distortion(NamedTuple):
    """What a lens does to an image that is not rectified.

    model: of sensor_msgs/distortion_models: plumb_bob, rational_polynomial or equidistant.
    coefficients: as many as that has, in OpenCV's order.
    """

    model: str
    coefficients: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Frame:
    """One camera image and what is known about it.

    image: (H, W, 3) uint8, RGB.
    stamp_ns: time of exposure, nanoseconds.
    frame_id: the camera's optical frame.
    depth: (H, W) float32, metres along the optical axis; 0 where unknown; None without depth.
    intrinsics: (3, 3) float64 camera matrix in pixels of `image`; None when unknown.
    received_ns: when a recorder received it, nanoseconds; None if not from a recording.
    name: name of the image's file, without suffix; empty if it has no file of its own.
    distortion: of the image, with the intrinsics; None: none, as in a rectified image.
    camera: name by which its camera is remembered from frame to frame; empty: `frame_id`.
    """

    image: NDArray[np.uint8]
    stamp_ns: int = 0
    frame_id: str = ""
    depth: NDArray[np.float32] | None = None
    intrinsics: NDArray[np.float64] | None = None
    received_ns: int | None = None
    name: str = ""
    camera: str = ""
    distortion: Distortion | None = None


@dataclass(frozen=True, slots=True)
class Instances:
    """The objects of one frame. All per-instance arrays share one order.

    labels: (H, W) uint16 label image; 0 = background, otherwise one of `ids`.
    ids: (N,) uint16, the label values.
    class_ids: (N,) int64, index into the checkpoint's class names.
    scores: (N,) float32 in [0, 1].
    boxes_xyxy: (N, 4) float32, pixels; right and lower edges exclusive.
    centers_xy: (N, 2) float32, pixels: where the network sees the object's centre.
    bandwidths: (N, 2) float32, pixels: the learned clustering radius along x and y; 0 for methods
        that learn none.
    embeddings: (N, D) float32, mean embedding of each instance, for methods whose embedding
        identifies instances from frame to frame; None for the others.
    """

    labels: NDArray[np.uint16]
    ids: NDArray[np.uint16]
    class_ids: NDArray[np.int64]
    scores: NDArray[np.float32]
    boxes_xyxy: NDArray[np.float32]
    centers_xy: NDArray[np.float32]
    bandwidths: NDArray[np.float32]
    embeddings: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, kept: NDArray[np.bool_]) -> Instances:
        """Those of the N instances that are kept, (N,) bool; `labels` stays as it is."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "labels"}
        chosen: dict[str, Any] = {n: v if v is None else v[kept] for n, v in values.items()}
        return replace(self, **chosen)

    @classmethod
    def empty(cls, height: int, width: int) -> Instances:
        """No objects, for an image of (height, width) pixels."""
        return cls(
            labels=np.zeros((height, width), np.uint16),
            ids=np.zeros(0, np.uint16),
            class_ids=np.zeros(0, np.int64),
            scores=np.zeros(0, np.float32),
            boxes_xyxy=np.zeros((0, 4), np.float32),
            centers_xy=np.zeros((0, 2), np.float32),
            bandwidths=np.zeros((0, 2), np.float32),
        )


@dataclass(frozen=True, slots=True)
class Locations:
    """Where M of a frame's N instances are, in the camera's optical frame: x right, y down, z
    forward, metres. Depth sees surfaces, so all of this is of what the camera sees of an object.

    ids: (M,) uint16, as in Instances. rows: (M,) int64, their places in its arrays.
    distances_m: (M,) float32, median along the optical axis.
    centroids: (M, 3) float64, mean of the visible points. covariances: (M, 3, 3) float64, of these
        points around it: how far the object spreads, and the noise of depth.
    box_centers, box_sizes: (M, 3) float64, a box along the axes around the visible points.
    ranges_m: (M, 2) float64, the nearest and farthest depth that counts as the object's.
    depth_pixels: (M,) int64, pixels of the object with such a depth.
    """

    ids: NDArray[np.uint16]
    rows: NDArray[np.int64]
    distances_m: NDArray[np.float32]
    centroids: NDArray[np.float64]
    covariances: NDArray[np.float64]
    box_centers: NDArray[np.float64]
    box_sizes: NDArray[np.float64]
    ranges_m: NDArray[np.float64]
    depth_pixels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Result:
    """The pipeline's result for one frame.

    stage_ms: wall-clock milliseconds by stage (`preprocess`, `network`, `decode`, `restore`, and
        with tracking `track`), for the whole batch of the frame.
    network_size: (height, width) pixels in which the network saw the frame, without padding; None
        if unknown.
    """

    instances: Instances
    stage_ms: dict[str, float] = field(default_factory=dict)
    network_size: tuple[int, int] | None = None
