"""Every encoding against a picture made by hand: bytes laid out from the encoding's definition."""

from __future__ import annotations

import struct
import sys
from array import array
from types import ModuleType, SimpleNamespace

import cv2
import numpy as np
import pytest

from instaseg_ros.config import InputConfig
from instaseg_ros.errors import ImageError
from instaseg_ros.frames import Distortion
from instaseg_ros.recordings import image_messages

HEIGHT, WIDTH = 6, 8
# Four flat quarters: red, green / blue, grey. Flat, so that chroma subsampling loses nothing.
RGB = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
RGB[:, :4], RGB[:, 4:] = (200, 30, 60), (20, 150, 90)


def message(encoding, rows, height=HEIGHT, width=WIDTH, padding=0, big=0, kind=bytes):
    """An image message from its (rows, row bytes) array, each row padded by `padding` bytes."""
    rows = np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), -1)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    data = array("B", padded.tobytes()) if kind is array else kind(padded.tobytes())
    return SimpleNamespace(
        encoding=encoding, height=height, width=width, step=padded.shape[1], is_bigendian=big,
        data=data,
    )  # fmt: skip


def grey(rgb):
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)


def with_alpha(pixels):
    return np.dstack([pixels, np.full((HEIGHT, WIDTH), 9, np.uint8)])


GREY3 = np.repeat(grey(RGB)[..., None], 3, 2)
EIGHT_BIT = {
    "rgb8": (RGB, RGB),
    "bgr8": (RGB[..., ::-1], RGB),
    "rgba8": (with_alpha(RGB), RGB),
    "bgra8": (with_alpha(RGB[..., ::-1]), RGB),
    "mono8": (grey(RGB), GREY3),
    "8UC1": (grey(RGB), GREY3),
    "8UC3": (RGB[..., ::-1], RGB),
    "8UC4": (with_alpha(RGB[..., ::-1]), RGB),
}
SIXTEEN_BIT = {
    "rgb16": "rgb8",
    "bgr16": "bgr8",
    "rgba16": "rgba8",
    "bgra16": "bgra8",
    "mono16": "mono8",
    "16UC1": "8UC1",
    "16UC3": "8UC3",
}


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("encoding", EIGHT_BIT)
def test_eight_bit_encodings(encoding, padding):
    pixels, expected = EIGHT_BIT[encoding]
    rgb = image_messages.image_to_rgb(message(encoding, pixels, padding=padding))
    assert rgb.dtype == np.uint8
    assert rgb.flags.c_contiguous
    np.testing.assert_array_equal(rgb, expected)


@pytest.mark.parametrize("big", [0, 1])
@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize("encoding", SIXTEEN_BIT)
def test_sixteen_bit_encodings_keep_the_high_byte(encoding, padding, big):
    pixels, expected = EIGHT_BIT[SIXTEEN_BIT[encoding]]
    wide = (pixels.astype(np.uint16) * 256 + 255).astype(">u2" if big else "<u2")
    rgb = image_messages.image_to_rgb(message(encoding, wide, padding=padding, big=big))
    np.testing.assert_array_equal(rgb, expected)


@pytest.mark.parametrize("kind", [bytes, bytearray, array])
def test_rgb8_without_padding_is_a_view(kind):
    msg = message("rgb8", RGB, kind=kind)
    assert np.shares_memory(image_messages.image_to_rgb(msg), np.frombuffer(msg.data, np.uint8))


@pytest.mark.parametrize("big", [0, 1])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_pattern_names_the_first_two_rows(pattern, bits, big):
    color = {"r": 210, "g": 100, "b": 20}
    tile = np.array([color[letter] for letter in pattern], np.uint16).reshape(2, 2)
    mosaic = np.tile(tile, (HEIGHT // 2, WIDTH // 2))
    if bits == 16:
        mosaic = (mosaic * 256 + 3).astype(">u2" if big else "<u2")
    else:
        mosaic = mosaic.astype(np.uint8)
    rgb = image_messages.image_to_rgb(message(f"bayer_{pattern}{bits}", mosaic, padding=4, big=big))
    np.testing.assert_array_equal(rgb, np.broadcast_to((210, 100, 20), (HEIGHT, WIDTH, 3)))


def yuv_planes():
    """Y, U, V (H, W) of RGB, video-range BT.601, written out from the standard."""
    r, g, b = (RGB[..., i].astype(float) for i in range(3))
    y = 16 + (65.738 * r + 129.057 * g + 25.064 * b) / 256
    u = 128 + (-37.945 * r - 74.494 * g + 112.439 * b) / 256
    v = 128 + (112.439 * r - 94.154 * g - 18.285 * b) / 256
    return [np.rint(plane).astype(np.uint8) for plane in (y, u, v)]


def yuv_rows(encoding):
    """Rows of bytes of the YUV layouts, from their definitions."""
    y, u, v = yuv_planes()
    chroma = np.where(np.arange(WIDTH) % 2 == 0, u, v)  # U of the pair's first, V of its second
    if encoding in ("yuv422", "uyvy"):
        return np.dstack([chroma, y])
    if encoding in ("yuv422_yuy2", "yuyv"):
        return np.dstack([y, chroma])
    if encoding == "nv24":
        return np.vstack([y, np.dstack([u, v]).reshape(2 * HEIGHT, WIDTH)])
    pairs = (u, v) if encoding == "nv12" else (v, u)
    quarter = np.dstack([plane[::2, ::2] for plane in pairs]).reshape(HEIGHT // 2, WIDTH)
    return np.vstack([y, quarter])


@pytest.mark.parametrize("padding", [0, 8])
@pytest.mark.parametrize(
    "encoding", ["yuv422", "uyvy", "yuv422_yuy2", "yuyv", "nv12", "nv21", "nv24"]
)
def test_yuv_encodings(encoding, padding):
    if encoding == "nv24" and padding:
        y_rows, pairs = np.split(yuv_rows(encoding), [HEIGHT])
        pairs = np.pad(pairs.reshape(HEIGHT, 2 * WIDTH), ((0, 0), (0, 2 * padding)))
        y_rows = np.pad(y_rows, ((0, 0), (0, padding)))
        msg = message(encoding, np.vstack([y_rows, pairs.reshape(2 * HEIGHT, -1)]))
    else:
        msg = message(encoding, yuv_rows(encoding), padding=padding)
    rgb = image_messages.image_to_rgb(msg)
    assert np.abs(rgb.astype(int) - RGB).max() <= 2


def test_last_row_may_lack_its_padding():
    msg = message("bgr8", RGB[..., ::-1], padding=5)
    msg.data = msg.data[:-5]
    np.testing.assert_array_equal(image_messages.image_to_rgb(msg), RGB)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"data": b"123"}, "rgb8.*expected 144 bytes, got 3"),
        ({"data": b""}, "expected 144 bytes, got 0"),
        ({"step": 8}, "step of at least 24 bytes, got 8"),
        ({"height": 0}, "at least one pixel"),
        ({"encoding": "yuv422", "width": 7}, "even width, got 7"),
        ({"encoding": "nv12", "height": 5}, "even sides, got 8 x 5"),
        ({"encoding": "rgb888"}, "got 'rgb888'; configure the driver"),
    ],
)
def test_refusals_name_what_was_expected(changes, expected):
    msg = message("rgb8", RGB)
    for name, value in changes.items():
        setattr(msg, name, value)
    with pytest.raises(ImageError, match=expected):
        image_messages.image_to_rgb(msg)


def test_cv_bridge_is_asked_for_other_encodings(monkeypatch):
    """A stand-in for cv_bridge, which no test environment has."""
    module = ModuleType("cv_bridge")
    module.CvBridge = lambda: SimpleNamespace(imgmsg_to_cv2=lambda msg, wanted: RGB)
    monkeypatch.setitem(sys.modules, "cv_bridge", module)
    np.testing.assert_array_equal(image_messages.image_to_rgb(message("rgb888", RGB)), RGB)


def compressed(form, suffix, pixels):
    ok, data = cv2.imencode(suffix, pixels)
    assert ok
    return SimpleNamespace(format=form, data=data.tobytes())


@pytest.mark.parametrize("form", ["png", "rgb8; png compressed bgr8", "bgr8;png compressed "])
def test_png_decodes_to_rgb(form):
    rgb = image_messages.compressed_to_rgb(compressed(form, ".png", RGB[..., ::-1]))
    np.testing.assert_array_equal(rgb, RGB)


def test_jpeg_decodes_to_rgb():
    rgb = image_messages.compressed_to_rgb(
        compressed("jpeg", ".jpg", np.tile(RGB[..., ::-1], (8, 8, 1)))
    )
    assert np.abs(rgb[:6, 9:11].astype(int) - RGB[:, 1:3]).max() < 8


def test_format_that_says_rgb_was_encoded_as_if_bgr():
    msg = compressed("rgb8; png compressed rgb8", ".png", RGB)
    np.testing.assert_array_equal(image_messages.compressed_to_rgb(msg), RGB)


FORMATS_OF_ONE_CHANNEL = {  # format: whether the one channel is the sensor's mosaic
    "bayer_rggb8; jpeg compressed ": True,  # image_transport up to Humble
    "bayer_rggb8; jpeg compressed mono8": False,  # from Jazzy on, which demosaics to grey
    "bayer_rggb8; png compressed ": True,
    "bayer_rggb8; jpeg compressed bayer_rggb8": True,
    "bayer_rggb16; png compressed ": True,
    "bayer_rggb8;tiff compressed": True,
    "mono8; png compressed ": False,
    "jpeg": False,
    "png": False,
}


@pytest.mark.parametrize("form", FORMATS_OF_ONE_CHANNEL)
def test_compressed_bayer_is_demosaiced_where_it_is_still_a_mosaic(form):
    mosaic = np.tile(np.array([[210, 100], [100, 20]], np.uint16), (16, 16))
    pixels = mosaic * 256 if "16" in form else mosaic.astype(np.uint8)
    suffix = next(s for s in (".png", ".tiff", ".jpg") if s[1:] in form or s == ".jpg")
    rgb = image_messages.compressed_to_rgb(compressed(form, suffix, pixels))
    if FORMATS_OF_ONE_CHANNEL[form]:
        assert np.abs(rgb.astype(int) - (210, 100, 20)).max() <= 12  # JPEG's loss
    else:
        assert np.ptp(rgb.astype(int), axis=2).max() == 0


@pytest.mark.parametrize(
    ("form", "is_rgb"),
    [
        ("rgb8; tiff compressed ", True),  # which image_transport writes as it comes
        ("bgr8; tiff compressed ", False),
        ("rgba8; png compressed ", True),
        ("bayer_rggb8; jpeg compressed bgr8", False),
        ("rgb8; png compressed bgr8", False),
        ("tiff", False),
    ],
)
def test_the_order_of_colours_is_the_original_s_where_the_format_names_no_other(form, is_rgb):
    suffix = ".tiff" if "tiff" in form else ".png"
    rgb = image_messages.compressed_to_rgb(
        compressed(form, suffix, RGB if is_rgb else RGB[..., ::-1])
    )
    np.testing.assert_array_equal(rgb, RGB)


@pytest.mark.parametrize("big", [0, 1])
@pytest.mark.parametrize("encoding", ["mono16", "16UC1", "rgb16", "bayer_rggb16"])
def test_twelve_bits_in_sixteen_are_scaled_to_the_white_level(encoding, big):
    width = WIDTH * (3 if encoding == "rgb16" else 1)
    for sample, scaled, high_byte in ((4095, 255, 15), (60000, 255, 234), (2048, 128, 8)):
        samples = np.full((HEIGHT, width), sample, ">u2" if big else "<u2")
        msg = message(encoding, samples, big=big)
        assert (image_messages.image_to_rgb(msg, InputConfig(white_level=4095)) == scaled).all()
        assert (image_messages.image_to_rgb(msg) == high_byte).all()


def test_white_level_holds_for_compressed_images_and_not_for_eight_bits():
    config = InputConfig(white_level=4095)
    twelve = np.full((HEIGHT, WIDTH), 4095, np.uint16)
    for form in ("mono16; png compressed ", "bayer_rggb16; png compressed "):
        rgb = image_messages.compressed_to_rgb(compressed(form, ".png", twelve), config)
        assert (rgb == 255).all()
    rgb = image_messages.compressed_to_rgb(compressed("png", ".png", RGB[..., ::-1]), config)
    np.testing.assert_array_equal(rgb, RGB)
    np.testing.assert_array_equal(image_messages.image_to_rgb(message("rgb8", RGB), config), RGB)


@pytest.mark.parametrize("encoding", ["rgb8", "nv12", "mono16", "rgb888"])
def test_raw_images_are_bounded(encoding):
    msg = message(encoding, np.zeros((2 * HEIGHT, 6 * WIDTH), np.uint8))
    images_of = InputConfig(max_pixels=HEIGHT * WIDTH - 1)
    with pytest.raises(ImageError, match=f"of 1 to {HEIGHT * WIDTH - 1} pixels, got 8 x 6"):
        image_messages.image_to_rgb(msg, images_of)


def test_compressed_images_are_bounded_and_whole():
    msg = compressed("jpeg", ".jpg", np.tile(RGB, (8, 8, 1)))
    with pytest.raises(ImageError, match=r"'jpeg': expected an image of 1 to 99 pixels.*64 x 48"):
        image_messages.compressed_to_rgb(msg, InputConfig(max_pixels=99))
    msg.data = msg.data[: len(msg.data) // 2]
    with pytest.raises(ImageError, match=r"found a JPEG that breaks off"):
        image_messages.compressed_to_rgb(msg)


def test_grey_16_bit_png_keeps_the_high_byte():
    msg = compressed("mono16; png compressed", ".png", grey(RGB).astype(np.uint16) * 256 + 255)
    np.testing.assert_array_equal(image_messages.compressed_to_rgb(msg), GREY3)


@pytest.mark.parametrize("form", ["32FC1; compressedDepth png", "jpeg"])
def test_undecodable_compressed_images_are_refused(form):
    with pytest.raises(ImageError, match="compressed image"):
        image_messages.compressed_to_rgb(SimpleNamespace(format=form, data=b"not an image"))


LABELS = (np.arange(HEIGHT * WIDTH, dtype=np.uint16) * 1300).reshape(HEIGHT, WIDTH)


@pytest.mark.parametrize("big", [0, 1])
@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize("encoding", ["mono16", "16UC1"])
def test_label_image(encoding, padding, big):
    msg = message(encoding, LABELS.astype(">u2" if big else "<u2"), padding=padding, big=big)
    labels = image_messages.image_to_labels(msg)
    assert labels.dtype == np.dtype("=u2")
    np.testing.assert_array_equal(labels, LABELS)


def test_label_png_is_exact_and_jpeg_refused():
    labels = image_messages.compressed_to_labels(
        compressed("mono16; png compressed", ".png", LABELS)
    )
    np.testing.assert_array_equal(labels, LABELS)
    with pytest.raises(ImageError, match="lossless PNG, got format 'jpeg'"):
        image_messages.compressed_to_labels(SimpleNamespace(format="jpeg", data=b""))
    for suffix, values, said in (
        (".tiff", np.full((4, 4), 70000.7, np.float32), "got TIFF"),
        (".jpg", LABELS.astype(np.uint8), "got JPEG"),
        (".png", RGB, r"one channel of 8 or 16 bits, got uint8 of \(6, 8, 3\)"),
    ):
        with pytest.raises(ImageError, match=said):
            image_messages.compressed_to_labels(
                compressed("mono16; png compressed ", suffix, values)
            )
    with pytest.raises(ImageError, match="mono8 or 8UC1, got 'rgb8'"):
        image_messages.image_to_labels(message("rgb8", RGB))


@pytest.mark.parametrize("big", [0, 1])
def test_depth_in_metres_and_millimetres(big):
    order = ">" if big else "<"
    metres = np.linspace(0.5, 80, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    metres[0, :2] = np.nan, np.inf
    depth = image_messages.image_to_depth(message("32FC1", metres.astype(order + "f4"), big=big))
    np.testing.assert_array_equal(depth[0, :2], 0)
    np.testing.assert_array_equal(depth[1:], metres[1:])
    msg = message("16UC1", LABELS.astype(order + "u2"), padding=2, big=big)
    np.testing.assert_allclose(image_messages.image_to_depth(msg), LABELS / 1000, rtol=1e-6)
    np.testing.assert_allclose(
        image_messages.compressed_to_depth(compressed("16UC1; png compressed", ".png", LABELS)),
        LABELS / 1000,
        rtol=1e-6,
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0, -2])
def test_depth_that_says_nothing_is_unknown(value):
    metres = np.full((HEIGHT, WIDTH), 3, np.float32)
    metres[1, 2] = value
    depth = image_messages.image_to_depth(message("32FC1", metres.astype("<f4")))
    assert depth[1, 2] == 0 and (depth == 3).sum() == HEIGHT * WIDTH - 1


def compressed_depth(samples, form, a=0.0, b=0.0):
    """A message of compressed_depth_image_transport: an enum, two floats and a PNG."""
    png = cv2.imencode(".png", samples)[1].tobytes()
    return SimpleNamespace(format=form, data=struct.pack("<iff", 0, a, b) + png)


@pytest.mark.parametrize("form", ["16UC1; compressedDepth", "16UC1; compressedDepth png"])
def test_compressed_depth_in_millimetres(form):
    depth = image_messages.compressed_to_depth(compressed_depth(LABELS, form))
    np.testing.assert_allclose(depth, LABELS / 1000, rtol=1e-6)


def test_compressed_depth_in_metres_is_kept_as_inverse_depth():
    metres = np.linspace(0.5, 9.9, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    a = 100 * 101.0  # for the transport's depth_quantization of 100 and depth_max of 10
    b = 1 - a / 10
    inverse = (a / metres + b).astype(np.uint16)
    inverse[2, 3] = 0  # unknown
    depth = image_messages.compressed_to_depth(
        compressed_depth(inverse, "32FC1; compressedDepth png", a, b)
    )
    assert depth.dtype == np.float32 and depth[2, 3] == 0
    metres[2, 3] = 0
    np.testing.assert_allclose(depth, metres, rtol=2e-2)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"format": "16UC1; compressedDepth rvl"}, "compressedDepth.format to png"),
        ({"data": b"123"}, "header of 12 bytes and a PNG, got 3"),
        ({"data": bytes(12) + b"\x89PNG\r\n\x1a\n"}, "breaks off"),
        ({"data": bytes(12) + compressed("", ".png", RGB).data}, r"uint8 of \(6, 8, 3\)"),
        ({"format": "jpeg"}, "expected lossless PNG, got format 'jpeg'"),
    ],
)
def test_other_compressed_depth_is_refused(changes, expected):
    msg = compressed_depth(LABELS, "16UC1; compressedDepth png")
    for name, value in changes.items():
        setattr(msg, name, value)
    with pytest.raises(ImageError, match=expected):
        image_messages.compressed_to_depth(msg)


def test_depth_images_are_bounded():
    metres = np.ones((HEIGHT, WIDTH), "<f4")
    for use, msg in (
        (image_messages.image_to_depth, message("32FC1", metres)),
        (image_messages.compressed_to_depth, compressed_depth(LABELS, "16UC1; compressedDepth")),
    ):
        with pytest.raises(ImageError, match="got 8 x 6"):
            use(msg, HEIGHT * WIDTH - 1)
    with pytest.raises(ImageError, match="32FC1 or 16UC1 or mono16, got 'rgb8'"):
        image_messages.image_to_depth(message("rgb8", RGB))


def camera_info(k, size=(480, 640), roi=(0, 0, 0, 0), p=None):
    """roi: x, y, height, width, as in the message zeros for all of the image."""
    x, y, height, width = roi
    region = SimpleNamespace(x_offset=x, y_offset=y, height=height, width=width)
    return SimpleNamespace(
        height=size[0], width=size[1], k=k, p=p, roi=region,
        distortion_model="plumb_bob", d=[],
    )  # fmt: skip


K = np.array([500.0, 0, 320, 0, 400, 240, 0, 0, 1])


@pytest.mark.parametrize(
    ("info", "size", "expected"),
    [
        (camera_info(K), (480, 640), K),
        (camera_info(K), (240, 320), [250, 0, 160, 0, 200, 120, 0, 0, 1]),  # binned or scaled
        (camera_info(K, roi=(20, 40, 100, 200)), (100, 200), [500, 0, 300, 0, 400, 200, 0, 0, 1]),
        (camera_info(K, roi=(20, 40, 100, 200)), (50, 100), [250, 0, 150, 0, 200, 100, 0, 0, 1]),
        (camera_info(np.zeros(9)), (480, 640), None),  # not calibrated
        (camera_info(K * np.nan), (480, 640), None),
        (camera_info(K, size=(0, 0)), (480, 640), None),
    ],
)
def test_camera_matrix_in_pixels_of_the_image(info, size, expected):
    matrix = image_messages.camera_matrix(info, size)
    if expected is None:
        assert matrix is None
    else:
        np.testing.assert_allclose(matrix, np.reshape(expected, (3, 3)))
        np.testing.assert_array_equal(info.k, K)  # the message is untouched


def test_the_matrix_of_a_rectified_image_is_in_p():
    p = np.array([450.0, 0, 310, -54, 0, 380, 235, 0, 0, 0, 1, 0])  # of a stereo pair's right one
    info = camera_info(K, p=p)
    np.testing.assert_array_equal(image_messages.camera_matrix(info, (480, 640)), K.reshape(3, 3))
    matrix = image_messages.camera_matrix(info, (240, 320), rectified=True)
    np.testing.assert_allclose(matrix, [[225, 0, 155], [0, 190, 117.5], [0, 0, 1]])
    assert info.p[0] == 450 and info.p[3] == -54  # the message is untouched
    assert image_messages.camera_matrix(camera_info(K, p=np.zeros(12)), (480, 640), True) is None


@pytest.mark.parametrize(
    ("model", "coefficients", "known"),
    [
        ("plumb_bob", [-0.3, 0.1, 0, 0, 0], True),
        ("plumb_bob", [-0.3, 0.1, 0, 0], True),
        ("rational_polynomial", [0.1] * 8, True),
        ("equidistant", [0.1] * 4, True),
        ("plumb_bob", [0.0] * 5, False),
        ("plumb_bob", [], False),
        ("plumb_bob", [0.1] * 3, False),
        ("plumb_bob", [0.1, np.nan, 0, 0, 0], False),
        ("", [0.1] * 5, False),
        ("thin_prism", [0.1] * 5, False),
    ],
)
def test_lens_distortion_is_taken_from_images_that_are_not_rectified(model, coefficients, known):
    info = camera_info(K)
    info.distortion_model, info.d = model, coefficients
    lens = image_messages.lens_distortion(info)
    assert lens == (Distortion(model, tuple(coefficients)) if known else None)
    assert image_messages.lens_distortion(info, rectified=True) is None
