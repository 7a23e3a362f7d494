"""Videos, image folders and single images as sources of frames."""

from __future__ import annotations

import struct
from fractions import Fraction

import cv2
import numpy as np
import pytest
from written_recordings import HEIGHT, WIDTH, noise_image, stamp_ns, write_bag

from instaseg_ros.config import InputConfig
from instaseg_ros.errors import ImageError, InputError, TruncatedInputError
from instaseg_ros.recordings.sources import open_source


def write_images(folder, names):
    folder.mkdir(exist_ok=True)
    for i, name in enumerate(names):
        cv2.imwrite(str(folder / name), noise_image(i)[..., ::-1])
    return folder


def write_video(path, count):
    video = cv2.VideoWriter(
        str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (8 * WIDTH, 8 * HEIGHT)
    )
    for i in range(count):
        video.write(np.full((8 * HEIGHT, 8 * WIDTH, 3), (0, 0, 8 * i), np.uint8))
    video.release()
    return path


def write_timed_video(path, times_ms):
    """Through PyAV, as OpenCV writes steady rates only."""
    av = pytest.importorskip("av", reason="the extra `video` is not installed")
    millisecond = Fraction(1, 1000)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=30)
        stream.options = {"deadline": "realtime", "cpu-used": "8"}
        stream.width, stream.height = WIDTH, HEIGHT
        stream.codec_context.time_base = millisecond
        for i, time_ms in enumerate(times_ms):
            frame = av.VideoFrame.from_ndarray(noise_image(i), format="rgb24")
            frame.pts, frame.time_base = time_ms, millisecond
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_image_folder_is_in_order_of_name(tmp_path):
    folder = write_images(tmp_path / "images", ["b.png", "a.PNG", "c.bmp"])
    (folder / "notes.txt").touch()
    source = open_source(folder)
    frames = list(source)
    assert source.total == len(frames) == 3
    assert [frame.name for frame in frames] == ["a", "b", "c"]
    assert [frame.stamp_ns for frame in frames] == [0, 100_000_000, 200_000_000]
    for frame, i in zip(frames, [1, 0, 2], strict=True):
        np.testing.assert_array_equal(frame.image, noise_image(i))


def test_single_image(tmp_path):
    folder = write_images(tmp_path / "images", ["a.png"])
    [frame] = open_source(folder / "a.png")
    assert frame.frame_id == "a"
    np.testing.assert_array_equal(frame.image, noise_image(0))


def test_damaged_image_can_be_skipped(tmp_path):
    folder = write_images(tmp_path / "images", ["a.png", "b.png", "c.png"])
    (folder / "b.png").write_bytes(b"no image")
    frames = iter(open_source(folder))
    assert next(frames).name == "a"
    with pytest.raises(ImageError, match=r"b\.png: expected an image .*begin with b'no image'"):
        next(frames)
    assert next(frames).name == "c"


def test_images_are_read_in_natural_order_without_hidden_files(tmp_path):
    names = ["10.png", "2.png", "1.png", "frame_9_b.png", "frame_010_a.png", "002.png"]
    folder = write_images(tmp_path / "images", names)
    (folder / "._2.png").write_bytes(b"\x00\x05\x16\x07Mac OS X")
    (folder / ".hidden.png").write_bytes(b"")
    assert [frame.name for frame in open_source(folder)] == [
        "1", "002", "2", "10", "frame_9_b", "frame_010_a",
    ]  # fmt: skip


def test_a_folder_is_one_camera(tmp_path, monkeypatch):
    """So that what is remembered from frame to frame is not forgotten at each file."""
    folder = write_images(tmp_path / "front", ["a.png", "b.png"])
    assert [frame.frame_id for frame in open_source(folder)] == ["front", "front"]
    assert [frame.frame_id for frame in open_source(folder / "b.png")] == ["b"]
    monkeypatch.chdir(folder)
    assert [frame.frame_id for frame in open_source(".")] == ["front", "front"]


def test_images_of_a_folder_are_bounded_and_scaled_as_configured(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    ramp = np.arange(0, 4096, 16, dtype=np.uint16).reshape(16, 16)  # a camera of 12 bits
    cv2.imwrite(str(folder / "a.png"), ramp)
    cv2.imwrite(str(folder / "b.png"), np.zeros((16, 17), np.uint8))
    cv2.imwrite(str(folder / "c.tiff"), np.zeros((16, 16), np.float32))
    frames = iter(open_source(folder, config=InputConfig(max_pixels=256, white_level=4095)))
    image = next(frames).image
    assert (image.min(), image.max()) == (0, 254)
    with pytest.raises(ImageError, match=r"b\.png: expected an image of 1 to 256 pixels.*17 x 16"):
        next(frames)
    with pytest.raises(ImageError, match=r"c\.tiff: .* 8 or 16 bits a sample, got float32"):
        next(frames)
    assert next(iter(open_source(folder))).image.max() == 15  # without: the high byte


def test_video_without_times_is_dated_by_its_frame_rate(tmp_path):
    source = open_source(write_video(tmp_path / "a.avi", 6))
    frames = list(source)
    assert source.total == len(frames) == 6
    assert [frame.stamp_ns for frame in frames] == [i * 40_000_000 for i in range(6)]
    assert [round(float(frame.image[..., 0].mean()) / 8) for frame in frames] == list(range(6))
    assert len(list(source)) == 6  # again


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".mkv"])
def test_video_is_dated_by_its_container(tmp_path, suffix):
    """Of a variable rate, whose frames OpenCV estimates to be 60 in .webm and .mkv."""
    times_ms = [0, 300, 400, 900, 1000, 2000]
    source = open_source(write_timed_video(tmp_path / f"a{suffix}", times_ms))
    assert [frame.stamp_ns // 1_000_000 for frame in source] == times_ms
    assert source.total == (6 if suffix == ".mp4" else None)


def test_cut_video_without_a_count_says_where(tmp_path):
    data = write_timed_video(tmp_path / "a.webm", range(0, 4000, 40)).read_bytes()
    (tmp_path / "cut.webm").write_bytes(data[: len(data) // 2])
    frames = []
    with pytest.raises(TruncatedInputError, match=r"breaks off after \d+ frames.* expected 4\.0 s"):
        frames.extend(open_source(tmp_path / "cut.webm"))
    assert 20 < len(frames) < 80


def test_video_is_turned_as_its_container_says(tmp_path):
    """Recordings of telephones held upright: a matrix in the header turns them by 90 degrees."""
    path = write_timed_video(tmp_path / "a.mp4", [0, 40])
    unit, quarter = ([1 << 16, 0, 0, 0, 1 << 16], [0, 1 << 16, 0, 0xFFFF0000, 0])
    data = path.read_bytes()
    header = data.index(b"tkhd")
    assert data[header:].count(struct.pack(">5I", *unit)) == 1
    turned = data[header:].replace(struct.pack(">5I", *unit), struct.pack(">5I", *quarter))
    path.write_bytes(data[:header] + turned)
    assert [frame.image.shape for frame in open_source(path)] == [(WIDTH, HEIGHT, 3)] * 2


def test_video_is_bounded(tmp_path):
    path = write_video(tmp_path / "a.avi", 2)
    with pytest.raises(InputError, match=r"a\.avi: expected an image of 1 to 1000 pixels"):
        open_source(path, config=InputConfig(max_pixels=1000))


def test_cut_video_says_where(tmp_path):
    data = write_video(tmp_path / "a.avi", 60).read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[: len(data) // 2])
    frames = []
    with pytest.raises(TruncatedInputError, match=r"breaks off after \d+ frames, .* expected 60"):
        frames.extend(open_source(tmp_path / "cut.avi"))
    assert 20 < len(frames) < 40


def test_folder_with_a_recording_in_it_is_a_recording(tmp_path):
    (tmp_path / "bag").mkdir()
    write_bag(tmp_path / "bag" / "bag_0.mcap", 2)
    assert [frame.stamp_ns for frame in open_source(tmp_path / "bag")] == [stamp_ns(0), stamp_ns(1)]


def test_unusable_inputs_say_what_is_accepted(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        open_source(tmp_path / "absent")
    with pytest.raises(InputError, match=r"images \(\.png.*found none; it is not a rosbag2"):
        open_source(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match=r"rosbag2 directory, \.mcap, \.db3, a video"):
        open_source(tmp_path / "notes.txt")
    (tmp_path / "noise.mp4").write_bytes(b"no video")
    with pytest.raises(InputError, match="cannot be read: it is damaged"):
        open_source(tmp_path / "noise.mp4")
    with pytest.raises(InputError, match="--topic is for recordings"):
        open_source(write_images(tmp_path / "images", ["a.png"]), topic="/image")
