"""Writes label images as PNG: lossless, and in milliseconds, as labels are flat."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, UP = 0, 2  # of PNG: the colour type, and the filter "difference to the row above"


def encode_labels(labels: NDArray[np.uint16]) -> bytes:
    """A 16-bit grey PNG of a (H, W) uint16 label image, at least one pixel.

    Most pixels are like the one above, so most differences are 0, and runs of one value are all
    that is worth looking for. At 1024 x 2048 this takes a third of the time of `cv2.imencode` with
    its usual settings, and less space; OpenCV can choose the filter only from version 4.11 on.
    zlib releases the interpreter's lock.
    """
    height, width = labels.shape
    samples = np.ascontiguousarray(labels, ">u2").view(np.uint8)  # (H, 2 W)
    rows = np.empty((height, 1 + 2 * width), np.uint8)
    rows[:, 0] = UP
    rows[0, 1:] = samples[0]
    np.subtract(samples[1:], samples[:-1], out=rows[1:, 1:])
    deflate = zlib.compressobj(level=1, strategy=zlib.Z_RLE)
    header = struct.pack(">IIBBBBB", width, height, 16, GREY, 0, 0, 0)
    return b"".join(
        (
            SIGNATURE,
            _chunk(b"IHDR", header),
            _chunk(b"IDAT", deflate.compress(rows.data) + deflate.flush()),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(content, zlib.crc32(kind))
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)
