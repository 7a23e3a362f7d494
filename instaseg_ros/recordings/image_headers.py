"""Finds kind and size of an image file, and for PNG and JPEG whether it is whole.

OpenCV does not tell the size before it has allocated the pixels, and a file of a hundred bytes can
declare four billion of them. Only a subset of each format is read here: anything odd is refused.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from instaseg_ros.errors import ImageError

MAX_SCANS = 100  # of a progressive JPEG, each of which takes time for all its pixels; 10 are usual
# JPEG markers, except those without content, which occur among the samples of a scan.
_MARKER = re.compile(rb"\xff+([\x02-\xcf\xd8-\xfe])")
_GAP = rb"(?:\s|#[^\r\n]*[\r\n])+"  # in a PNM, including comments
_PNM = re.compile(rb"P[1-6]" + _GAP + rb"(\d{1,9})" + _GAP + rb"(\d{1,9})\s")
TIFF_SIDES = (256, 257, 322, 323)  # tags: width and height, of the image and of its tiles
TIFF_LENGTHS = (279, 325)  # tags: bytes of each strip, or of each tile


class Header(NamedTuple):
    """An image file's own claims. kind: one of KINDS; height, width: in pixels, not checked."""

    kind: str
    height: int
    width: int


class _Damaged(Exception):
    """A fault in a file of known kind."""


def read_header(data: Any) -> Header:
    """The header of an image file in memory (any contiguous buffer). Raises ImageError if it is not
    an image, or truncated."""
    content = bytes(data)
    if not content:
        raise ImageError("expected an image, found no bytes")
    start = content[:12]
    for kind, (signature, size) in KINDS.items():
        if re.match(signature, start, re.DOTALL):
            try:
                return Header(kind, *size(content))
            except (struct.error, _Damaged) as error:
                what = error if isinstance(error, _Damaged) else "that breaks off"
                raise ImageError(f"expected an image, found a {kind} {what}") from error
    raise ImageError(
        f"expected an image ({', '.join(KINDS)}), found {len(content)} bytes that begin with "
        f"{start!r}"
    )


def _png(data: bytes) -> tuple[int, int]:
    """The size. Visits all chunks, as OpenCV allocates whatever length a chunk declares."""
    width, height = struct.unpack_from(">II", data, 16)
    at, name = 8, b""
    while name != b"IEND":
        length, name = struct.unpack_from(">I4s", data, at)
        at += 12 + length
    if at > len(data):
        raise _Damaged("that breaks off")
    return height, width


def _jpeg(data: bytes) -> tuple[int, int]:
    """The size. Visits all markers, as some versions of OpenCV fill the missing part of a truncated
    file with grey."""
    size, scans, at = None, 0, 2
    found = _MARKER.search(data, at)
    while found:
        marker, at = found[1][0], found.end()
        if marker == 0xD9:  # end of the image
            if size is None or not scans:
                raise _Damaged("without a picture")
            return size
        (length,) = struct.unpack_from(">H", data, at)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of a frame
            if size is not None:
                raise _Damaged("with two frames")
            size = struct.unpack_from(">HH", data, at + 3)
        scans += marker == 0xDA
        if scans > MAX_SCANS:
            raise _Damaged(f"of more than {MAX_SCANS} scans")
        found = _MARKER.search(data, at + max(length, 2))
    raise _Damaged("that breaks off")


def _webp(data: bytes) -> tuple[int, int]:
    chunk = data[12:16]
    if chunk == b"VP8X":  # 24 bits each, less one
        width, height = struct.unpack_from("<3s3s", data, 24)
        return int.from_bytes(height, "little") + 1, int.from_bytes(width, "little") + 1
    if chunk == b"VP8L":  # 14 bits each, less one, after a signature
        signature, bits = struct.unpack_from("<BI", data, 20)
        if signature == 0x2F:
            return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if chunk == b"VP8 ":  # 14 bits each, after a start code
        code, width, height = struct.unpack_from("<3sHH", data, 23)
        if code == b"\x9d\x01\x2a":
            return height & 0x3FFF, width & 0x3FFF
    raise _Damaged("without a picture")


def _tiff(data: bytes) -> tuple[int, int]:
    """The size in the first directory, or that of its tiles, which are decoded whole, if larger.
    Checks the lengths of its parts, as some versions of libtiff allocate that much memory."""
    order = "<" if data[0] == ord("I") else ">"
    (at,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, at)
    found: dict[int, tuple[int, ...]] = {}
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind, number, start = struct.unpack_from(f"{order}HHII", data, entry)
        if tag in (*TIFF_SIDES, *TIFF_LENGTHS):
            if tag in found or kind not in (3, 4):
                raise _Damaged(f"with a damaged tag {tag}")
            values = f"{order}{number}{'H' if kind == 3 else 'I'}"
            where = entry + 8 if struct.calcsize(values) <= 4 else start
            found[tag] = struct.unpack_from(values, data, where)
    for tag in TIFF_LENGTHS:
        if max(found.pop(tag, ()), default=0) > len(data):
            raise _Damaged("that breaks off")
    if len(found) % 2 or any(len(values) != 1 for values in found.values()):
        raise _Damaged("with half a size")
    width, height, tile_width, tile_height = (found.get(tag, (0,))[0] for tag in TIFF_SIDES)
    is_larger = tile_width * tile_height > width * height
    return (tile_height, tile_width) if is_larger else (height, width)


def _bmp(data: bytes) -> tuple[int, int]:
    (length,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if length == 12 else "<ii", data, 18)
    return abs(height), width  # negative: top row first


def _pnm(data: bytes) -> tuple[int, int]:
    found = _PNM.match(data)
    if not found:
        raise _Damaged("with a damaged header")
    return int(found[2]), int(found[1])


# The first bytes of each kind, and the function that reads (height, width).
KINDS: dict[str, tuple[bytes, Callable[[bytes], tuple[int, int]]]] = {
    "PNG": (rb"\x89PNG\r\n\x1a\n", _png),
    "JPEG": (rb"\xff\xd8\xff", _jpeg),
    "WebP": (rb"RIFF.{4}WEBP", _webp),
    "TIFF": (rb"II\*\0|MM\0\*", _tiff),
    "BMP": (rb"BM", _bmp),
    "PNM": (rb"P[1-6]", _pnm),
}
