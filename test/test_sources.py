"""Videos, image folders and single images as sources of frames."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from recordings import HEIGHT, WIDTH, image, stamp_ns, write_bag

from instaseg_ros.errors import ImageError, InputError, TruncatedInputError
from instaseg_ros.sources import open_source


def write_images(folder, names):
    folder.mkdir(exist_ok=True)
    for i, name in enumerate(names):
        cv2.imwrite(str(folder / name), image(i)[..., ::-1])
    return folder


def write_video(path, count):
    video = cv2.VideoWriter(
        str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (8 * WIDTH, 8 * HEIGHT)
    )
    for i in range(count):
        video.write(np.full((8 * HEIGHT, 8 * WIDTH, 3), (0, 0, 8 * i), np.uint8))
    video.release()
    return path


def test_image_folder_is_in_order_of_name(tmp_path):
    folder = write_images(tmp_path / "images", ["b.png", "a.PNG", "c.bmp"])
    (folder / "notes.txt").touch()
    source = open_source(folder)
    frames = list(source)
    assert source.total == len(frames) == 3
    assert [frame.frame_id for frame in frames] == ["a", "b", "c"]
    assert [frame.stamp_ns for frame in frames] == [0, 100_000_000, 200_000_000]
    for frame, i in zip(frames, [1, 0, 2], strict=True):
        np.testing.assert_array_equal(frame.image, image(i))


def test_single_image(tmp_path):
    folder = write_images(tmp_path / "images", ["a.png"])
    [frame] = open_source(folder / "a.png")
    np.testing.assert_array_equal(frame.image, image(0))


def test_damaged_image_can_be_skipped(tmp_path):
    folder = write_images(tmp_path / "images", ["a.png", "b.png", "c.png"])
    (folder / "b.png").write_bytes(b"no image")
    frames = iter(open_source(folder))
    assert next(frames).frame_id == "a"
    with pytest.raises(ImageError, match=r"b\.png cannot be decoded"):
        next(frames)
    assert next(frames).frame_id == "c"


def test_video_is_dated_by_its_frame_rate(tmp_path):
    source = open_source(write_video(tmp_path / "a.avi", 6))
    frames = list(source)
    assert source.total == len(frames) == 6
    assert [frame.stamp_ns for frame in frames] == [i * 40_000_000 for i in range(6)]
    assert [round(float(frame.image[..., 0].mean()) / 8) for frame in frames] == list(range(6))
    assert len(list(source)) == 6  # again


def test_cut_video_says_where(tmp_path):
    data = write_video(tmp_path / "a.avi", 60).read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[: len(data) // 2])
    frames = []
    with pytest.raises(TruncatedInputError, match=r"breaks off after \d+ of 60 frames"):
        frames.extend(open_source(tmp_path / "cut.avi"))
    assert 20 < len(frames) < 40


def test_folder_with_a_recording_in_it_is_a_recording(tmp_path):
    (tmp_path / "bag").mkdir()
    write_bag(tmp_path / "bag" / "bag_0.mcap", 2)
    assert [frame.stamp_ns for frame in open_source(tmp_path / "bag")] == [stamp_ns(0), stamp_ns(1)]


def test_unusable_inputs_say_what_is_accepted(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        open_source(tmp_path / "absent")
    with pytest.raises(InputError, match=r"rosbag2 directory, or images \(\.png"):
        open_source(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match=r"rosbag2 directory, \.mcap, \.db3, a video"):
        open_source(tmp_path / "notes.txt")
    (tmp_path / "noise.mp4").write_bytes(b"no video")
    with pytest.raises(InputError, match="cannot be opened"):
        open_source(tmp_path / "noise.mp4")
    with pytest.raises(InputError, match="--topic is for recordings"):
        open_source(write_images(tmp_path / "images", ["a.png"]), topic="/image")
