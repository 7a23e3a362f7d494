"""Camera messages to RGB, label and depth images, with true strides.

No ROS is needed: a message is anything with the fields of `sensor_msgs/Image` or
`sensor_msgs/CompressedImage` (REP 118 and `sensor_msgs/image_encodings.hpp`), be it rclpy's or one
read from a bag. 16-bit samples keep their high byte.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from instaseg_ros.errors import ImageError


class ImageMessage(Protocol):
    """The fields of `sensor_msgs/Image`; `data` is any contiguous buffer of bytes."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: Any


class CompressedMessage(Protocol):
    """The fields of `sensor_msgs/CompressedImage`; `data` is any contiguous buffer of bytes."""

    format: str
    data: Any


class Encoding(NamedTuple):
    """One packed pixel layout: samples per pixel, bytes per sample, cvtColor code to RGB."""

    samples: int
    sample_bytes: int
    code: int | None


# OpenCV names a Bayer pattern by its second row, ROS by its first: RGGB here is BayerBG there.
_BAYER = {
    "rggb": cv2.COLOR_BayerBG2RGB,
    "bggr": cv2.COLOR_BayerRG2RGB,
    "gbrg": cv2.COLOR_BayerGR2RGB,
    "grbg": cv2.COLOR_BayerGB2RGB,
}
PACKED = {
    "rgb8": Encoding(3, 1, None),
    "bgr8": Encoding(3, 1, cv2.COLOR_BGR2RGB),
    "rgba8": Encoding(4, 1, cv2.COLOR_RGBA2RGB),
    "bgra8": Encoding(4, 1, cv2.COLOR_BGRA2RGB),
    "mono8": Encoding(1, 1, cv2.COLOR_GRAY2RGB),
    "rgb16": Encoding(3, 2, None),
    "bgr16": Encoding(3, 2, cv2.COLOR_BGR2RGB),
    "rgba16": Encoding(4, 2, cv2.COLOR_RGBA2RGB),
    "bgra16": Encoding(4, 2, cv2.COLOR_BGRA2RGB),
    "mono16": Encoding(1, 2, cv2.COLOR_GRAY2RGB),
    # Without a colour meaning of their own: what OpenCV programs publish is grey, BGR or BGRA.
    "8UC1": Encoding(1, 1, cv2.COLOR_GRAY2RGB),
    "8UC3": Encoding(3, 1, cv2.COLOR_BGR2RGB),
    "8UC4": Encoding(4, 1, cv2.COLOR_BGRA2RGB),
    "16UC1": Encoding(1, 2, cv2.COLOR_GRAY2RGB),
    "16UC3": Encoding(3, 2, cv2.COLOR_BGR2RGB),
    "yuv422": Encoding(2, 1, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": Encoding(2, 1, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": Encoding(2, 1, cv2.COLOR_YUV2RGB_YUY2),
    "yuyv": Encoding(2, 1, cv2.COLOR_YUV2RGB_YUY2),
    **{f"bayer_{name}8": Encoding(1, 1, code) for name, code in _BAYER.items()},
    **{f"bayer_{name}16": Encoding(1, 2, code) for name, code in _BAYER.items()},
}
SEMI_PLANAR = {"nv12": cv2.COLOR_YUV2RGB_NV12, "nv21": cv2.COLOR_YUV2RGB_NV21, "nv24": None}
ENCODINGS = (*PACKED, *SEMI_PLANAR)

# Video-range BT.601, as cvtColor applies to the other YUV layouts; it has no code for NV24.
_YUV444_TO_RGB = np.array(
    [[1.164, 0.0, 1.596, -222.912], [1.164, -0.391, -0.813, 135.488], [1.164, 2.018, 0.0, -276.928]]
)


def image_to_rgb(msg: ImageMessage) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of a raw image; a view of `msg.data` for rgb8 without row padding.

    Raises ImageError for an unknown encoding, or data shorter than its own description.
    """
    if msg.encoding in PACKED:
        return _packed_to_rgb(msg, PACKED[msg.encoding])
    if msg.encoding in SEMI_PLANAR:
        return _semi_planar_to_rgb(msg)
    return _cv_bridge_to_rgb(msg)


def image_to_labels(msg: ImageMessage) -> NDArray[np.uint16]:
    """(H, W) uint16 label image of a mono16, 16UC1, mono8 or 8UC1 image."""
    _expect(msg, "label image", ("mono16", "16UC1", "mono8", "8UC1"))
    return _samples(msg, "u2" if "16" in msg.encoding else "u1").astype(np.uint16)


def image_to_depth(msg: ImageMessage) -> NDArray[np.float32]:
    """(H, W) float32 metres, 0 where unknown, of a 32FC1 (metres) or 16UC1, mono16 (mm) image."""
    _expect(msg, "depth image", ("32FC1", "16UC1", "mono16"))
    if msg.encoding != "32FC1":
        return _samples(msg, "u2").astype(np.float32) / np.float32(1000)
    depth = _samples(msg, "f4").astype(np.float32)
    return np.nan_to_num(depth, copy=False, nan=0.0, posinf=0.0, neginf=0.0)


def compressed_to_rgb(msg: CompressedMessage) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of a JPEG, PNG, ... image. Raises ImageError when it cannot be decoded.

    `format` may be "jpeg", "png", or image_transport's "rgb8; jpeg compressed bgr8".
    """
    image = _decode(msg, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    # image_transport encodes BGR; where it says otherwise, what decodes as blue is red.
    swapped = "compressed rgb" in msg.format
    return image if swapped else _u8(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


def compressed_to_labels(msg: CompressedMessage) -> NDArray[np.uint16]:
    """(H, W) uint16 label image of an 8- or 16-bit grey PNG."""
    return _decode_grey(msg, "label image").astype(np.uint16)


def compressed_to_depth(msg: CompressedMessage) -> NDArray[np.float32]:
    """(H, W) float32 metres, 0 where unknown, of a 16-bit PNG in millimetres."""
    return _decode_grey(msg, "depth image").astype(np.float32) / np.float32(1000)


def _packed_to_rgb(msg: ImageMessage, encoding: Encoding) -> NDArray[np.uint8]:
    pixel_bytes = encoding.samples * encoding.sample_bytes
    if encoding.samples == 2 and msg.width % 2:
        raise ImageError(
            f"image: encoding {msg.encoding} needs an even width, got {msg.width}; "
            "correct the width the driver publishes"
        )
    rows = _rows(msg, msg.height, msg.width * pixel_bytes)
    if encoding.sample_bytes == 2:
        rows = rows[:, 0 if msg.is_bigendian else 1 :: 2]
    shape = (msg.height, msg.width, encoding.samples)
    pixels = np.ascontiguousarray(rows).reshape(shape[: 2 if encoding.samples == 1 else 3])
    return pixels if encoding.code is None else _u8(cv2.cvtColor(pixels, encoding.code))


def _semi_planar_to_rgb(msg: ImageMessage) -> NDArray[np.uint8]:
    """A plane of brightness, then one of interleaved chroma with the same row stride (NV12, NV21:
    a quarter as many chroma pairs; NV24: as many, in rows of twice the stride)."""
    code, height, width = SEMI_PLANAR[msg.encoding], msg.height, msg.width
    if code is None:
        y_rows = _rows(msg, 3 * height, width)[:height]
        strides = (2 * msg.step, 2, 1)
        pairs = np.ndarray((height, width, 2), np.uint8, msg.data, height * msg.step, strides)
        return _u8(cv2.transform(np.dstack([y_rows, pairs]), _YUV444_TO_RGB))
    if height % 2 or width % 2:
        raise ImageError(
            f"image: encoding {msg.encoding} needs even sides, got {width} x {height}; "
            "correct the size the driver publishes"
        )
    return _u8(cv2.cvtColor(_rows(msg, height * 3 // 2, width), code))


def _cv_bridge_to_rgb(msg: ImageMessage) -> NDArray[np.uint8]:
    """Encodings outside the tables, where the robot has cv_bridge."""
    try:
        bridge = import_module("cv_bridge").CvBridge()
    except Exception as error:  # absent, or built against another numpy, which fails in many ways
        raise ImageError(
            f"image: expected an encoding of {', '.join(ENCODINGS)}; got '{msg.encoding}'; "
            "configure the driver to publish one of these, or install cv_bridge"
        ) from error
    try:
        return np.asarray(bridge.imgmsg_to_cv2(msg, "rgb8"), np.uint8)
    except Exception as error:  # CvBridgeError, cv2.error, TypeError, by version
        raise ImageError(f"image: cv_bridge cannot convert '{msg.encoding}': {error}") from error


def _u8(image: Any) -> NDArray[np.uint8]:
    """OpenCV's results, whose declared type is any number, as what they are."""
    return np.asarray(image, np.uint8)


def _rows(msg: ImageMessage, count: int, row_bytes: int) -> NDArray[np.uint8]:
    """(count, row_bytes) uint8 view of the message's rows without their padding."""
    data = np.frombuffer(msg.data, np.uint8) if len(msg.data) else np.zeros(0, np.uint8)
    said = f"{msg.width} x {msg.height} {msg.encoding}, step {msg.step}"
    if not (msg.height and msg.width):
        raise ImageError(f"image ({said}): expected at least one pixel; the driver sent none")
    if msg.step < row_bytes:
        raise ImageError(
            f"image ({said}): expected a step of at least {row_bytes} bytes, got {msg.step}; "
            "the driver's step, width and encoding contradict each other"
        )
    needed = (count - 1) * msg.step + row_bytes  # some drivers leave out the last padding
    if len(data) < needed:
        raise ImageError(
            f"image ({said}): expected {count * msg.step} bytes, got {len(data)}; "
            "the message is cut short or its encoding is wrong"
        )
    return np.ndarray((count, row_bytes), np.uint8, data, 0, (msg.step, 1))


def _samples(msg: ImageMessage, kind: str) -> NDArray[Any]:
    """(H, W) samples of one numpy kind ("u1", "u2", "f4") in the message's byte order."""
    dtype = np.dtype((">" if msg.is_bigendian else "<") + kind)
    rows = _rows(msg, msg.height, msg.width * dtype.itemsize)
    return np.ascontiguousarray(rows).view(dtype)


def _expect(msg: ImageMessage, what: str, encodings: tuple[str, ...]) -> None:
    if msg.encoding not in encodings:
        raise ImageError(
            f"{what}: expected encoding {' or '.join(encodings)}, got '{msg.encoding}'"
        )


def _decode(msg: CompressedMessage, flags: int) -> NDArray[Any]:
    if "compressedDepth" in msg.format or "rvl" in msg.format.lower():
        raise ImageError(
            f"compressed image: format '{msg.format}' is not read; "
            "publish the raw image, or jpeg or png compressed"
        )
    data = np.frombuffer(msg.data, np.uint8) if len(msg.data) else None
    try:
        image = None if data is None else cv2.imdecode(data, flags)
    except cv2.error:
        image = None
    if image is None:
        raise ImageError(
            f"compressed image: {len(msg.data)} bytes of format '{msg.format}' are no image "
            "that OpenCV can decode; expected jpeg or png"
        )
    return image


def _decode_grey(msg: CompressedMessage, what: str) -> NDArray[Any]:
    if "png" not in msg.format.lower():
        raise ImageError(
            f"{what}: expected lossless 'png', got format '{msg.format}'; "
            "lossy compression alters the values"
        )
    image = _decode(msg, cv2.IMREAD_UNCHANGED)
    if image.ndim != 2:
        raise ImageError(f"{what}: expected one channel, got {image.shape[2]}")
    return image
