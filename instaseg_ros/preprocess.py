"""Scales camera images to network input, and instances back to camera resolution."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from instaseg_ros.errors import ImageError
from instaseg_ros.frames import Instances
from instaseg_ros.model.heads import STRIDE
from instaseg_ros.recordings.image_files import check_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from instaseg_ros.config import InputConfig


class Geometry(NamedTuple):
    """Sizes in pixels, (height, width): of the camera, and of the image inside the padding."""

    camera: tuple[int, int]
    scaled: tuple[int, int]


def preprocess(
    images: Sequence[NDArray[np.uint8]], config: InputConfig, stride: int = STRIDE
) -> tuple[NDArray[np.uint8], Geometry]:
    """Scale images of one size to the configured size, and pad them at the right and below to a
    multiple of the network's stride.

    A side configured as 0 follows the other, so that the image keeps its aspect ratio; if both are
    0, both follow the magnification, and then the rows are brought between `min_height` and
    `max_height`.

    images: (H, W, 3) uint8 RGB each. Returns (B, H', W', 3) uint8 and the sizes for `restore`.
    Raises ImageError if an image is not of that kind, the sizes differ within the batch, or there
    are more than `config.max_pixels` pixels, before or after scaling.
    """
    for image in images:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ImageError(f"image: expected (H, W, 3) uint8, got {image.shape} {image.dtype}")
        if image.shape != images[0].shape:
            raise ImageError(
                f"batch: expected images of one size {images[0].shape}, got {image.shape}"
            )
    height, width = images[0].shape[:2]
    scaled = scaled_size((height, width), config)
    check_size(height, width, config.max_pixels)
    check_size(*scaled, config.max_pixels, "a scaled image")
    padded = tuple(-(-side // stride) * stride for side in scaled)
    if len(images) == 1 and padded == (height, width):
        return np.ascontiguousarray(images[0])[None], Geometry((height, width), scaled)
    batch = np.zeros((len(images), *padded, 3), np.uint8)
    for image, out in zip(images, batch, strict=True):
        if scaled != (height, width):
            shrinks = scaled[0] * scaled[1] < height * width
            flag = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            out[: scaled[0], : scaled[1]] = cv2.resize(image, scaled[::-1], interpolation=flag)
        else:
            out[:height, :width] = image
    return batch, Geometry((height, width), scaled)


def scaled_size(camera: tuple[int, int], config: InputConfig) -> tuple[int, int]:
    """(height, width) in pixels of a camera's image once it is scaled, without padding."""
    height, width = camera
    if config.height and config.width:
        return config.height, config.width
    scale = config.height / height or config.width / width
    if not scale:
        scale = max(config.scale, config.min_height / height)
        scale = min(scale, (config.max_height or np.inf) / height)
    return max(1, round(height * scale)), max(1, round(width * scale))


def restore(instances: Instances, geometry: Geometry) -> Instances:
    """Bring instances of the scaled image to camera resolution; ids stay the same.

    If the image was magnified, instances too thin for a camera pixel are dropped.
    """
    (height, width), scaled = geometry
    if scaled == (height, width):
        return instances
    labels = cv2.resize(instances.labels, (width, height), interpolation=cv2.INTER_NEAREST)
    ratio = np.array([width / scaled[1], height / scaled[0]], np.float32)
    restored = dataclasses.replace(
        instances,
        labels=np.asarray(labels, np.uint16),
        boxes_xyxy=instances.boxes_xyxy * np.tile(ratio, 2),
        centers_xy=instances.centers_xy * ratio,
        bandwidths=instances.bandwidths * ratio,
    )
    magnified = min(ratio) < 1
    return _with_pixels(restored) if magnified and len(restored) else restored


def _with_pixels(instances: Instances) -> Instances:
    kept = np.bincount(instances.labels.ravel(), minlength=2**16)[instances.ids] > 0
    return instances.rows(kept)
