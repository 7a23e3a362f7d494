"""Image files: what is no whole image of a bounded size is refused before it is decoded."""

from __future__ import annotations

import os
import resource
import struct
import zlib

import cv2
import numpy as np
import pytest

from instaseg_ros.datasets.reading import subfolders
from instaseg_ros.errors import ImageError, InputError
from instaseg_ros.image_files import MAX_PIXELS, decode, images_in
from instaseg_ros.image_headers import KINDS, read_header

HEIGHT, WIDTH = 37, 53
FUZZ_INPUTS = int(os.environ.get("INSTASEG_FUZZ_INPUTS", "600"))


def files() -> dict[str, bytes]:
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


FILES = files()


def test_folders_are_read_in_natural_order_without_hidden_files(tmp_path):
    for name in ("10.png", "9.png", ".9.png", "._10.png", "9.txt", "x9.JPG", "x10.jpg", "x09.bmp"):
        (tmp_path / name).touch()
    assert [file.name for file in images_in(tmp_path)] == [
        "9.png", "10.png", "x9.JPG", "x09.bmp", "x10.jpg",
    ]  # fmt: skip
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / "train").mkdir()
    assert subfolders(tmp_path) == ["train"]
    with pytest.raises(InputError, match=r"train: expected images .* found none"):
        images_in(tmp_path / "train")
    with pytest.raises(InputError, match="absent: expected a folder of images"):
        images_in(tmp_path / "absent")


@pytest.mark.parametrize("name", FILES)
def test_whole_images_are_read_as_opencv_reads_them(name):
    data = FILES[name]
    assert read_header(data)[1:] == (HEIGHT, WIDTH)
    for buffer in (data, bytearray(data), np.frombuffer(data, np.uint8), memoryview(data)):
        expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(decode(buffer), expected)


@pytest.mark.parametrize("name", FILES)
def test_cut_images_are_refused_at_every_length(name):
    data = FILES[name]
    # What is no pixel: white space, and the place of a further directory.
    end = len(data) - {"text.pgm": 2, "color.tiff": 4, "deep.tiff": 4}.get(name, 0)
    for length in {*range(40), *range(40, end, 97), *range(end - 12, end)}:
        with pytest.raises(ImageError, match="expected an image"):
            decode(data[:length])


def test_bytes_after_the_end_do_no_harm():
    """Padding of drivers, and the video that telephones append to a JPEG."""
    for name, data in FILES.items():
        if name.endswith((".jpg", ".png")):
            assert decode(data + b"\xff\xda\xff\x00" * 9).shape[:2] == (HEIGHT, WIDTH)


def test_a_jpeg_with_a_thumbnail_that_is_cut_is_refused():
    thumbnail = FILES["color.jpg"]
    exif = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    whole = thumbnail[:2] + exif + thumbnail[2:]
    assert decode(whole).shape[:2] == (HEIGHT, WIDTH)
    for length in (len(exif) + 2, len(exif) + 300, len(whole) - 3):
        with pytest.raises(ImageError, match="JPEG that breaks off"):
            decode(whole[:length])


def bombs() -> dict[str, bytes]:
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


BOMBS = bombs()


@pytest.mark.parametrize("name", BOMBS)
def test_absurd_sizes_are_refused_before_decoding(name, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    header = read_header(BOMBS[name])
    assert header.height * header.width > MAX_PIXELS
    with pytest.raises(ImageError, match=rf"to {MAX_PIXELS} pixels, got {header.width} x "):
        decode(BOMBS[name])


@pytest.mark.parametrize(
    "data",
    [
        b"GIF89a" + bytes(99),
        b"\x76\x2f\x31\x01" + bytes(99),  # OpenEXR
        b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(99),  # JPEG 2000
        b"II+\0" + bytes(99),  # BigTIFF
        b"P7\nWIDTH 70000\nHEIGHT 70000\n",
        b"#?RADIANCE\n",
        bytes(99),
    ],
)
def test_other_formats_are_refused(data):
    with pytest.raises(ImageError, match=f"expected an image \\({', '.join(KINDS)}\\)"):
        decode(data)


def test_a_jpeg_of_thousands_of_scans_is_refused():
    """Each takes time for all pixels, with hardly a byte."""
    data = FILES["progressive.jpg"]
    scan = data.index(b"\xff\xda")
    many = data[:scan] + b"\xff\xda\x00\x08\x01\x01\x00\x00\x00\x00\x00" * 5000 + data[scan:]
    with pytest.raises(ImageError, match="JPEG of more than 100 scans"):
        decode(many)


def test_a_png_chunk_longer_than_the_file_is_refused_before_decoding(monkeypatch):
    """OpenCV takes that much memory first."""
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    data = bytearray(FILES["color.png"])
    at = data.index(b"IDAT") - 4
    data[at : at + 4] = struct.pack(">I", 3_700_000_000)
    with pytest.raises(ImageError, match="PNG that breaks off"):
        decode(bytes(data))


def test_a_tiff_with_longer_strips_than_the_file_is_refused_before_decoding(monkeypatch):
    """Some versions of libtiff take that much memory first."""
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    data = bytearray(FILES["deep.tiff"])
    directory = struct.unpack_from("<I", data, 4)[0]
    lengths = data.index(struct.pack("<HHI", 279, 4, 1), directory)
    for number, value in ((1, 894_437_568), (1 << 30, 8), (2, len(data) - 2)):
        data[lengths + 4 : lengths + 12] = struct.pack("<II", number, value)
        with pytest.raises(ImageError, match="TIFF that breaks off"):
            decode(bytes(data))


def test_a_tiff_with_half_a_size_of_tiles_is_refused():
    """OpenCV takes the other half from the rows of a strip."""
    for missing, tag in ((279, 322), (279, 323), (257, 322)):
        data = FILES["color.tiff"].replace(
            struct.pack("<HH", missing, 4), struct.pack("<HH", tag, 4)
        )
        data = data.replace(struct.pack("<HH", missing, 3), struct.pack("<HH", tag, 3))
        assert data != FILES["color.tiff"]
        with pytest.raises(ImageError, match="expected an image"):
            decode(data)


def test_damaged_images_are_refused_or_bounded():
    """Whatever is done to a file, nothing but ImageError comes out, no large image, and memory is
    not taken for one."""
    random = np.random.default_rng(int(os.environ.get("INSTASEG_FUZZ_SEED", "0")))
    seeds = [*FILES.values(), *BOMBS.values()]
    most = 4 * HEIGHT * WIDTH
    refused, before_kb = 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(FUZZ_INPUTS):
        data = bytearray(seeds[random.integers(len(seeds))])
        for _ in range(random.integers(1, 5)):
            # Nearer to the start, where the headers are.
            at = int(len(data) * random.random() ** 4)
            kind = random.integers(4)
            if kind == 0:
                data[at] = random.integers(256)
            elif kind == 1:
                data[at : at + 4] = struct.pack(">I", random.integers(1 << 32))
            elif kind == 2:
                del data[at : at + int(random.integers(1, 9))]
            else:
                data[at:at] = seeds[random.integers(len(seeds))][: random.integers(64)]
            data = data or bytearray(1)
        try:
            image = decode(bytes(data), max_pixels=most)
        except ImageError:
            refused += 1
        else:
            assert image.shape[0] * image.shape[1] <= most
    assert 0 < refused < FUZZ_INPUTS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 200_000
