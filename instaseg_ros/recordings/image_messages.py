"""Converts camera messages to RGB, label and depth images, with any strides, and camera matrices.

No ROS is needed: a message is anything with the fields of `sensor_msgs/Image` or
`sensor_msgs/CompressedImage` (REP 118 and `sensor_msgs/image_encodings.hpp`), from rclpy or a bag.
16-bit samples are reduced to their high byte, or scaled by `input.white_level`.
"""

from __future__ import annotations

import struct
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from instaseg_ros.config import InputConfig
from instaseg_ros.errors import ImageError
from instaseg_ros.frames import Distortion
from instaseg_ros.recordings.image_files import check_size, decode, read_image_file
from instaseg_ros.recordings.image_headers import read_header

AS_IT_COMES = InputConfig()
# How many coefficients the models of sensor_msgs/distortion_models.hpp may have.
LENS_MODELS = {
    "plumb_bob": (4, 5),
    "rational_polynomial": (8, 12, 14),
    "equidistant": (4,),
}
_DEPTH_HEADER = struct.Struct("<iff")  # of compressed_depth_image_transport


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


class CameraInfo(Protocol):
    """The fields of `sensor_msgs/CameraInfo` that are used; `roi` has the fields of its type."""

    height: int
    width: int
    distortion_model: str
    d: Any
    k: Any
    p: Any
    roi: Any


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
    # These have no colour meaning of their own; OpenCV programs publish grey, BGR or BGRA.
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

# Video-range BT.601, which cvtColor applies to the other YUV layouts; it has no code for NV24.
_YUV444_TO_RGB = np.array(
    [[1.164, 0.0, 1.596, -222.912], [1.164, -0.391, -0.813, 135.488], [1.164, 2.018, 0.0, -276.928]]
)


def image_to_rgb(msg: ImageMessage, config: InputConfig = AS_IT_COMES) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB from a raw image; a view of `msg.data` for rgb8 without row padding.

    Raises ImageError for an unknown encoding, data shorter than described, or more pixels than
    `config.max_pixels`.
    """
    if msg.height and msg.width:  # an image without pixels gets a better message below
        check_size(msg.height, msg.width, config.max_pixels)
    if msg.encoding in PACKED:
        return _packed_to_rgb(msg, PACKED[msg.encoding], config.white_level)
    if msg.encoding in SEMI_PLANAR:
        return _semi_planar_to_rgb(msg)
    return _cv_bridge_to_rgb(msg)


def image_to_labels(msg: ImageMessage) -> NDArray[np.uint16]:
    """(H, W) uint16 label image from a mono16, 16UC1, mono8 or 8UC1 image."""
    _expect(msg, "label image", ("mono16", "16UC1", "mono8", "8UC1"))
    return _samples(msg, "u2" if "16" in msg.encoding else "u1").astype(np.uint16)


def image_to_depth(
    msg: ImageMessage, max_pixels: int = AS_IT_COMES.max_pixels
) -> NDArray[np.float32]:
    """(H, W) float32 metres, 0 where unknown, from a 32FC1 (metres; NaN, infinite and at most 0 are
    unknown) or 16UC1, mono16 (mm; 0 is unknown) image. Raises ImageError."""
    _expect(msg, "depth image", ("32FC1", "16UC1", "mono16"))
    if msg.height and msg.width:
        check_size(msg.height, msg.width, max_pixels, "a depth image")
    kind = "f4" if msg.encoding == "32FC1" else "u2"
    return _metres(_samples(msg, kind))


def compressed_to_rgb(
    msg: CompressedMessage, config: InputConfig = AS_IT_COMES
) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB from a JPEG, PNG, ... image.

    `format` may be "jpeg", "png", or image_transport's "rgb8; jpeg compressed bgr8": the original's
    encoding, the codec, and the encoding passed to the codec, by default the original's. Raises
    ImageError if it is not a whole image, or has more pixels than `config.max_pixels`.
    """
    original, _, how = msg.format.lower().partition(";")
    encoding = how.partition("compressed")[2].strip() or original.strip() if how else ""
    flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    image = _eight_bit(_decode(msg, flags, config.max_pixels), config.white_level)
    if image.ndim == 2:
        is_mosaic = encoding.startswith("bayer_") and encoding in PACKED
        return _to_rgb(image, PACKED[encoding].code if is_mosaic else cv2.COLOR_GRAY2RGB)
    # Codecs call the first channel blue.
    return _to_rgb(image, None if encoding.startswith("rgb") else cv2.COLOR_BGR2RGB)


def file_to_rgb(path: Path, config: InputConfig = AS_IT_COMES) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB from an image file, rotated by its Exif data. Raises ImageError."""
    image = read_image_file(path, cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH, config.max_pixels)
    try:
        image = _eight_bit(image, config.white_level)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    return _to_rgb(image, cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB)


def compressed_to_labels(msg: CompressedMessage) -> NDArray[np.uint16]:
    """(H, W) uint16 label image from an 8- or 16-bit grey PNG."""
    return _decode_grey(msg, "label image").astype(np.uint16)


def compressed_to_depth(
    msg: CompressedMessage, max_pixels: int = AS_IT_COMES.max_pixels
) -> NDArray[np.float32]:
    """(H, W) float32 metres, 0 where unknown, from image_transport's `compressedDepth`, or a 16-bit
    PNG in millimetres. Raises ImageError.

    `compressedDepth` is a header of 12 bytes and a PNG, of the millimetres of a 16UC1 image; of a
    32FC1 image it has a / depth + b for the header's floats a and b, and 0 for unknown.
    """
    encoding, _, how = msg.format.partition(";")
    if "compressedDepth" not in how:
        return _metres(_decode_grey(msg, "depth image", max_pixels))
    what = f"depth image of format '{msg.format}'"
    _, _, codec = how.partition("compressedDepth")
    if codec.strip() not in ("", "png"):
        raise ImageError(
            f"{what}: expected PNG; set the publisher's parameter ...compressedDepth.format to png"
        )
    content = bytes(msg.data)
    if len(content) <= _DEPTH_HEADER.size:
        raise ImageError(f"{what}: expected a header of 12 bytes and a PNG, got {len(content)}")
    try:
        image = decode(content[_DEPTH_HEADER.size :], cv2.IMREAD_UNCHANGED, max_pixels)
    except ImageError as error:
        raise ImageError(f"{what}: {error}") from error
    if image.ndim != 2 or image.dtype != np.uint16:
        raise ImageError(
            f"{what}: expected one channel of 16 bits, got {image.dtype} of {image.shape}"
        )
    if encoding.strip() != "32FC1":
        return _metres(image)
    _, a, b = _DEPTH_HEADER.unpack_from(content)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        depth = np.float32(a) / (image.astype(np.float32) - np.float32(b))
    depth[image == 0] = 0
    return _metres(depth)


def camera_matrix(
    info: CameraInfo, size: tuple[int, int], rectified: bool = False
) -> NDArray[np.float64] | None:
    """(3, 3) camera matrix in pixels of an image of `size` (height, width), which may be binned,
    cropped or scaled; None if the camera is not calibrated.

    rectified: of the rectified image, from P; else from K, to which `lens_distortion` belongs.
    """
    height, width = info.roi.height or info.height, info.roi.width or info.width
    if rectified:
        matrix = np.array(info.p, np.float64).reshape(3, 4)[:, :3].copy()
    else:
        matrix = np.array(info.k, np.float64).reshape(3, 3)
    if not (height and width and np.isfinite(matrix).all() and matrix[0, 0] > 0 < matrix[1, 1]):
        return None
    matrix[:2, 2] -= info.roi.x_offset, info.roi.y_offset
    matrix[:2] *= [[size[1] / width], [size[0] / height]]
    return matrix


def lens_distortion(info: CameraInfo, rectified: bool = False) -> Distortion | None:
    """The distortion of an image that is not rectified; None if there is none, or its model is
    unknown."""
    coefficients = tuple(float(one) for one in info.d)
    counts = LENS_MODELS.get(info.distortion_model, ())
    if rectified or len(coefficients) not in counts or not any(coefficients):
        return None
    return (
        Distortion(info.distortion_model, coefficients) if np.isfinite(coefficients).all() else None
    )


def _metres(samples: NDArray[Any]) -> NDArray[np.float32]:
    """Metres, 0 where unknown, from millimetres (integers) or metres (floats)."""
    if samples.dtype.kind == "u":
        return samples.astype(np.float32) / np.float32(1000)
    depth = samples.astype(np.float32)
    depth[~((depth > 0) & (depth < np.inf))] = 0
    return depth


def _packed_to_rgb(msg: ImageMessage, encoding: Encoding, white_level: int) -> NDArray[np.uint8]:
    if encoding.samples == 2 and msg.width % 2:
        raise ImageError(
            f"image: encoding {msg.encoding} needs an even width, got {msg.width}; "
            "correct the width the driver publishes"
        )
    samples = _samples(msg, f"u{encoding.sample_bytes}", encoding.samples)
    shape = (msg.height, msg.width, encoding.samples)
    pixels = _eight_bit(samples, white_level).reshape(shape[: 2 if encoding.samples == 1 else 3])
    return _to_rgb(pixels, encoding.code)


def _semi_planar_to_rgb(msg: ImageMessage) -> NDArray[np.uint8]:
    """Convert a brightness plane followed by an interleaved chroma plane with the same row stride
    (NV12, NV21: a quarter as many chroma pairs; NV24: as many, in rows of twice the stride)."""
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
    """Convert encodings outside the tables, if the robot has cv_bridge."""
    try:
        bridge = import_module("cv_bridge").CvBridge()
    except Exception as error:  # missing, or built against another numpy, which fails in many ways
        raise ImageError(
            f"image: expected an encoding of {', '.join(ENCODINGS)}; got '{msg.encoding}'; "
            "configure the driver to publish one of these, or install cv_bridge"
        ) from error
    try:
        return np.asarray(bridge.imgmsg_to_cv2(msg, "rgb8"), np.uint8)
    except Exception as error:  # CvBridgeError, cv2.error or TypeError, depending on the version
        raise ImageError(f"image: cv_bridge cannot convert '{msg.encoding}': {error}") from error


def _u8(image: Any) -> NDArray[np.uint8]:
    """OpenCV's results, which are declared as arrays of any number, with their actual type."""
    return np.asarray(image, np.uint8)


def _to_rgb(image: NDArray[np.uint8], code: int | None) -> NDArray[np.uint8]:
    """Convert with a code of cvtColor; None: it is already RGB."""
    return image if code is None else _u8(cv2.cvtColor(image, code))


def _eight_bit(samples: NDArray[Any], white_level: int) -> NDArray[np.uint8]:
    """8-bit samples unchanged; the high byte of 16-bit samples, or those scaled so that values from
    `white_level` on are white. Raises ImageError for other samples."""
    if samples.dtype.kind != "u" or samples.dtype.itemsize > 2:
        raise ImageError(f"expected an image of 8 or 16 bits a sample, got {samples.dtype}")
    if samples.dtype.itemsize == 1:
        return _u8(samples)
    if not white_level:
        return (samples >> 8).astype(np.uint8)
    native = samples.astype(np.uint16, copy=False)
    return _u8(cv2.convertScaleAbs(native, alpha=255 / white_level))


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
    needed = (count - 1) * msg.step + row_bytes  # some drivers omit the last padding
    if len(data) < needed:
        raise ImageError(
            f"image ({said}): expected {count * msg.step} bytes, got {len(data)}; "
            "the message is cut short or its encoding is wrong"
        )
    return np.ndarray((count, row_bytes), np.uint8, data, 0, (msg.step, 1))


def _samples(msg: ImageMessage, kind: str, per_pixel: int = 1) -> NDArray[Any]:
    """(H, W * per_pixel) samples of a numpy kind ("u1", "u2", "f4") in the message's byte order."""
    dtype = np.dtype((">" if msg.is_bigendian else "<") + kind)
    rows = _rows(msg, msg.height, msg.width * per_pixel * dtype.itemsize)
    return np.ascontiguousarray(rows).view(dtype)


def _expect(msg: ImageMessage, what: str, encodings: tuple[str, ...]) -> None:
    if msg.encoding not in encodings:
        raise ImageError(
            f"{what}: expected encoding {' or '.join(encodings)}, got '{msg.encoding}'"
        )


def _decode(
    msg: CompressedMessage, flags: int, max_pixels: int = AS_IT_COMES.max_pixels
) -> NDArray[Any]:
    what = f"compressed image of format '{msg.format}'"
    if "compressedDepth" in msg.format or "rvl" in msg.format.lower():
        raise ImageError(f"{what}: not supported; publish the raw image, or jpeg or png compressed")
    try:
        return decode(msg.data, flags, max_pixels)
    except ImageError as error:
        raise ImageError(f"{what}: {error}") from error


def _decode_grey(
    msg: CompressedMessage, what: str, max_pixels: int = AS_IT_COMES.max_pixels
) -> NDArray[Any]:
    """(H, W) samples of 8 or 16 bits, exactly as before compression."""
    sent = f"format '{msg.format}'"
    if "png" in msg.format.lower():
        image = _decode(msg, cv2.IMREAD_UNCHANGED, max_pixels)
        sent = read_header(msg.data).kind
    if sent != "PNG":
        raise ImageError(
            f"{what}: expected lossless PNG, got {sent}; lossy compression alters the values"
        )
    if image.ndim != 2 or image.dtype not in (np.uint8, np.uint16):
        raise ImageError(
            f"{what}: expected one channel of 8 or 16 bits, got {image.dtype} of {image.shape}"
        )
    return image
