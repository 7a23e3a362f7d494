"""Small image files of every kind, and headers that claim absurd sizes."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np

HEIGHT, WIDTH = 37, 53


def files_of_every_kind() -> dict[str, bytes]:
    """A file of each kind, in its variants."""
    noise = np.random.default_rng(1).integers(0, 256, (12, 16, 3), np.uint8)
    color = cv2.resize(noise, (WIDTH, HEIGHT))
    grey = color[..., 0]
    deep = grey.astype(np.uint16) * 256
    made = {
        "color.png": (color, []),
        "deep.png": (deep, []),
        "alpha.png": (np.dstack([color, grey]), []),
        "color.jpg": (color, []),
        "progressive.jpg": (color, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
        "restarts.jpg": (color, [cv2.IMWRITE_JPEG_RST_INTERVAL, 1]),
        "lossy.webp": (color, [cv2.IMWRITE_WEBP_QUALITY, 80]),
        "lossless.webp": (color, [cv2.IMWRITE_WEBP_QUALITY, 101]),
        "alpha.webp": (np.dstack([color, grey]), [cv2.IMWRITE_WEBP_QUALITY, 80]),
        "color.tiff": (color, []),
        "deep.tiff": (deep, []),
        "color.bmp": (color, []),
        "grey.pgm": (grey, []),
        "text.pgm": (grey, [cv2.IMWRITE_PXM_BINARY, 0]),
        "color.ppm": (color, []),
    }
    return {
        name: cv2.imencode(name[name.index(".") :], image, options)[1].tobytes()
        for name, (image, options) in made.items()
    }


FILES = files_of_every_kind()


def absurd_headers() -> dict[str, bytes]:
    """Headers of absurd sizes with hardly anything behind them."""

    def chunk(name: bytes, content: bytes) -> bytes:
        body = name + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    def png(side: int) -> bytes:
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        pixels = zlib.compress(bytes(99))
        start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
        return start + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")

    def tiff(order: str, *tags: tuple[int, int]) -> bytes:
        entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags)
        start = b"II*\0" if order == "<" else b"MM\0*"
        return start + struct.pack(f"{order}IH", 8, len(tags)) + entries + bytes(99)

    def webp(chunk_name: bytes, content: bytes) -> bytes:
        return b"RIFF" + bytes(4) + b"WEBP" + chunk_name + bytes(4) + content + bytes(99)

    jpeg = bytearray(FILES["color.jpg"])
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 65500, 65500)
    bmp = bytearray(FILES["color.bmp"])
    bmp[18:26] = struct.pack("<ii", 40000, -40000)
    return {
        "65535.png": png(65535),
        "32760.png": png(32760),
        "2e9.png": png(2_000_000_000),
        "65500.jpg": bytes(jpeg),
        "40000.bmp": bytes(bmp),
        "70000.ppm": b"P6 70000 70000 255\n" + bytes(99),
        "comment.ppm": b"P6\n# 3 3\n70000\n#4\n70000 255\n" + bytes(99),
        "intel.tiff": tiff("<", (256, 60000), (257, 60000)),
        "motorola.tiff": tiff(">", (256, 60000), (257, 60000)),
        "tile.tiff": tiff("<", (256, 16), (257, 16), (322, 32768), (323, 32768)),
        "vp8x.webp": webp(b"VP8X", bytes(4) + b"\xff\xff\xff" + b"\xff\xff\x00"),
        "vp8l.webp": webp(b"VP8L", b"\x2f\xff\xff\xff\x0f"),
        "vp8.webp": webp(b"VP8 ", bytes(3) + b"\x9d\x01\x2a" + b"\xff\x3f\xff\x3f"),
    }


BOMBS = absurd_headers()
