"""Image files, compressed messages and raw ones: refused, or an image of bounded size."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from driver import mutated
from image_samples import BOMBS, FILES, HEIGHT, WIDTH

from instaseg_ros.config import InputConfig
from instaseg_ros.recordings.image_messages import (
    ENCODINGS,
    compressed_to_depth,
    compressed_to_labels,
    compressed_to_rgb,
    file_to_rgb,
    image_to_depth,
    image_to_labels,
    image_to_rgb,
)

MEMORY_MB = 200
MOST = 4 * HEIGHT * WIDTH
AS_IT_COMES, WHITE = (InputConfig(max_pixels=MOST, white_level=level) for level in (0, 4095))
USES: dict[str, list[Callable[[Any], np.ndarray]]] = {
    "F": [partial(file_to_rgb, config=config) for config in (AS_IT_COMES, WHITE)],
    "C": [partial(compressed_to_rgb, config=config) for config in (AS_IT_COMES, WHITE)],
    "R": [partial(image_to_rgb, config=config) for config in (AS_IT_COMES, WHITE)],
    "L": [compressed_to_labels, compressed_to_depth],
    "P": [compressed_to_depth],
    "T": [image_to_labels],
    "D": [image_to_depth],
}
FORMATS = ("jpeg", "png", "bayer_rggb8; png compressed ", "rgb8; jpeg compressed bgr8")
DEPTH_HEADER = struct.Struct("<iff")  # of compressed depth: format and quantisation
RAW_HEADER = struct.Struct("<IIIB")  # height, width, step, is_bigendian


def seeds() -> list[bytes]:
    """A letter of USES, a line of text (how it is encoded), and the bytes."""
    files = list(FILES.values())
    made = [b"F\n" + data for data in files]
    made += [b"C%s\n%s" % (form.encode(), data) for form in FORMATS for data in files[::4]]
    made.append(b"Lmono16; png compressed\n" + FILES["deep.png"])
    for encoding in (b"16UC1", b"32FC1"):
        header = DEPTH_HEADER.pack(0, 10100, -1009)
        made.append(b"P%s; compressedDepth png\n" % encoding + header + FILES["deep.png"])
    raw = [("R", name) for name in ENCODINGS] + [("T", name) for name in ("mono16", "8UC1")]
    step = 8 * 16
    for letter, name in (*raw, ("D", "32FC1"), ("D", "16UC1")):
        header = RAW_HEADER.pack(12, 16, step, len(made) % 2)
        pixels = bytes(range(256)) * (36 * step // 256)
        made.append(f"{letter}{name}\n".encode() + header + pixels)
    return made


def mutate(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Nearer to the start, where the headers are, as often as anywhere."""
    bomb = b"F\n" + rng.choice(list(BOMBS.values()))
    whole = rng.choice((rng.choice(seeds), rng.choice(seeds), rng.choice(seeds), bomb))
    start = whole.index(b"\n") + 1 if rng.random() < 0.8 else 1
    end = start + rng.choice((16, 64, 300, len(whole)))
    part = [whole[start:end]]
    if rng.random() < 0.1:
        part.append(rng.choice(seeds)[start:end])
    return whole[:start] + mutated(rng, part) + whole[end:]


def feed(data: bytes, folder: Path) -> None:
    letter, (text, _, content) = data[:1].decode(), data[1:].partition(b"\n")
    name = text.decode(errors="replace")
    if letter == "F":
        image: Any = folder / "image.png"
        image.write_bytes(content)
    elif letter in "CLP":
        image = SimpleNamespace(format=name, data=np.frombuffer(content, np.uint8))
    else:
        image = _raw(name, content.ljust(RAW_HEADER.size, b"\0"))
    for use in USES[letter]:
        made = use(image)
        assert 0 < made.shape[0] * made.shape[1] <= MOST
        assert letter not in "FCR" or (made.dtype == np.uint8 and made.shape[2:] == (3,))


def _raw(encoding: str, content: bytes) -> SimpleNamespace:
    height, width, step, is_bigendian = RAW_HEADER.unpack_from(content)
    pixels = np.frombuffer(content, np.uint8, offset=RAW_HEADER.size)
    return SimpleNamespace(
        height=height,
        width=width,
        step=step,
        is_bigendian=is_bigendian,
        encoding=encoding,
        data=pixels,
    )
