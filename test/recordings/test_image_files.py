"""Image files: what is no whole image of a bounded size is refused before it is decoded."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest
from image_samples import BOMBS, FILES, HEIGHT, WIDTH

from instaseg_ros.datasets.reading import subfolders
from instaseg_ros.errors import ImageError, InputError
from instaseg_ros.recordings.image_files import MAX_PIXELS, decode, images_in
from instaseg_ros.recordings.image_headers import KINDS, read_header


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
