"""Images as cameras publish them, good and bad."""

from __future__ import annotations

from array import array
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image

MAX_PIXELS = 1.5  # the node's input.max_pixels, in images of the usual size
OVERSIZED = 4  # times the rows; more would only make the middleware keep larger buffers
JPEG_HEAD_BYTES = 40


def raw(picture: NDArray[np.uint8]) -> Image:
    """`picture`: (H, W, 3) RGB."""
    height, width = picture.shape[:2]
    return Image(
        height=height,
        width=width,
        encoding="rgb8",
        step=3 * width,
        data=array("B", picture.tobytes()),
    )


def compressed(picture: NDArray[np.uint8]) -> CompressedImage:
    """A JPEG of `picture`, (H, W, 3) RGB."""
    encoded = cv2.imencode(".jpg", picture[..., ::-1])[1]
    return CompressedImage(format="jpeg", data=array("B", encoded.tobytes()))


def _unknown_encoding(image: Image) -> Image:
    image.encoding = "rgb9"
    return image


def _other_encoding(image: Image) -> Image:
    image.encoding = "rgba16"  # needs more data than there is
    return image


def _truncated(image: Image) -> Image:
    image.data = image.data[: len(image.data) // 2]
    return image


def _short_step(image: Image) -> Image:
    image.step = 7
    return image


def _long_step(image: Image) -> Image:
    image.step = 2**32 - 1
    return image


def _no_size(image: Image) -> Image:
    return Image(encoding=image.encoding)


def _huge_claim(image: Image) -> Image:
    image.height = image.width = 2**31
    return image


def _huge(image: Image) -> Image:
    return raw(np.zeros((OVERSIZED * image.height, image.width, 3), np.uint8))


def _no_data(image: Image) -> Image:
    image.data = array("B")
    return image


def _noise(image: CompressedImage) -> CompressedImage:
    image.data = array("B", np.random.default_rng(0).bytes(len(image.data)))
    return image


def _cut_jpeg(image: CompressedImage) -> CompressedImage:
    image.data = image.data[:JPEG_HEAD_BYTES]
    return image


def _huge_jpeg(image: CompressedImage) -> CompressedImage:
    picture = cv2.imdecode(np.frombuffer(image.data, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return compressed(np.zeros((OVERSIZED * len(picture), *picture.shape[1:]), np.uint8))


def _no_jpeg(image: CompressedImage) -> CompressedImage:
    return CompressedImage(format="jpeg")


# Each spoils a good image, which is its own. None may be labelled.
BAD_RAW: dict[str, Callable[[Image], Image]] = {
    "unknown encoding": _unknown_encoding,
    "encoding of more data": _other_encoding,
    "truncated data": _truncated,
    "step too short": _short_step,
    "step too long": _long_step,
    "no pixels": _no_size,
    "claims 2^62 pixels": _huge_claim,
    "more than max_pixels": _huge,
    "no data": _no_data,
}
BAD_COMPRESSED: dict[str, Callable[[CompressedImage], CompressedImage]] = {
    "unknown compressed data": _noise,
    "truncated JPEG": _cut_jpeg,
    "JPEG of more than max_pixels": _huge_jpeg,
    "no JPEG": _no_jpeg,
}
