"""Folders of recordings, compressed files and logs of a killed recorder: every file is read once,
in its order, and what is missing is said."""

from __future__ import annotations

import logging
import shutil
import sqlite3
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
import zstandard
from rosbags.rosbag2 import StoragePlugin
from written_recordings import (
    StandInPipeline,
    assert_frames,
    noise_image,
    serialized_image,
    stamp_ns,
    until_broken,
    write_bag,
    write_with_rosbags,
)

from instaseg_ros.errors import InputError
from instaseg_ros.recordings.bags import IMAGE, BagSource
from instaseg_ros.recordings.replay import replay
from instaseg_ros.recordings.sources import open_source

SUFFIXES = {StoragePlugin.MCAP: ".mcap", StoragePlugin.SQLITE3: ".db3"}


def write_split(folder: Path, names: list[str], listed: bool = True, count: int = 2) -> Path:
    """A recording of as many files as names, `count` images each, with or without metadata.yaml."""
    folder.mkdir()
    for i, name in enumerate(names):
        storage = StoragePlugin.MCAP if ".mcap" in name.lower() else StoragePlugin.SQLITE3
        part = write_with_rosbags(folder.parent / "part", storage, count, first=i * count)
        made = part / f"part{SUFFIXES[storage]}"
        if name.endswith(".zstd"):
            (folder / name).write_bytes(zstandard.compress(made.read_bytes()))
        else:
            made.rename(folder / name)
        shutil.rmtree(part)
    if listed:
        write_metadata(folder, names, count * len(names))
    return folder


def write_metadata(folder: Path, names: list[str], count: int) -> None:
    """metadata.yaml as rosbag2 writes it, as far as it is of use."""
    topic = {"name": "/image", "type": IMAGE, "serialization_format": "cdr"}
    tree = {
        "version": 9,
        "message_count": count,
        "topics_with_message_count": [{"topic_metadata": topic, "message_count": count}],
        "relative_file_paths": names,
    }
    text = yaml.safe_dump({"rosbag2_bagfile_information": tree})
    (folder / "metadata.yaml").write_text(text)


DATED = [f"{i}_drive_2026_03_01-10_0{i // 2}_{40 - 25 * (i % 2)}.mcap" for i in range(4)]
COUNTED = [f"bag_{i}.mcap" for i in (0, 1, 2, 10)]


@pytest.mark.parametrize("names", [DATED, COUNTED, COUNTED[::-1], ["b.db3", "a.mcap"]])
@pytest.mark.parametrize("listed", [True, False])
def test_files_are_read_in_the_order_they_were_recorded(tmp_path, names, listed):
    source = BagSource(write_split(tmp_path / "bag", names, listed))
    assert source.total == 2 * len(names)
    assert_frames(source, range(2 * len(names)))
    assert_frames(source, range(2 * len(names)))  # again


def test_names_of_early_versions_carry_the_folder(tmp_path):
    folder = write_split(tmp_path / "bag", ["bag_0.db3", "bag_1.db3"])
    for early in (["bag/bag_0.db3", "bag/bag_1.db3"], ["bag\\bag_0.db3", "bag\\bag_1.db3"]):
        write_metadata(folder, early, 4)
        assert_frames(BagSource(folder), range(4))


def test_missing_file_is_said_at_once_and_at_the_end(tmp_path, caplog):
    folder = write_split(tmp_path / "bag", COUNTED)
    (folder / "bag_1.mcap").unlink()
    source = BagSource(folder)
    assert "bag_1.mcap is listed in metadata.yaml, but missing" in caplog.text
    frames, message = until_broken(source)
    assert_frames(frames, [0, 1, 4, 5, 6, 7])
    assert "gives 6 of 8 messages of /image" in message
    assert "bag_1.mcap is listed in metadata.yaml, but missing" in message
    summary = replay(source, StandInPipeline(), [])
    assert summary.labelled == 6 and summary.broken is not None


def test_fewer_messages_than_listed_are_said(tmp_path):
    folder = write_split(tmp_path / "bag", COUNTED)
    write_metadata(folder, COUNTED, 9)
    frames, message = until_broken(BagSource(folder))
    assert len(frames) == 8 and "gives 8 of 9 messages of /image" in message


def test_file_that_is_not_listed_is_not_read_and_said(tmp_path, caplog):
    folder = write_split(tmp_path / "bag", COUNTED)
    shutil.copy(folder / "bag_0.mcap", folder / "bag_0_filtered.mcap")
    (folder / "._bag_0.mcap").write_bytes(b"of a Mac")
    assert_frames(BagSource(folder), range(8))
    assert "not listed in metadata.yaml and not read: bag_0_filtered.mcap" in caplog.text


def test_broken_file_among_others_costs_no_other(tmp_path, caplog):
    folder = write_split(tmp_path / "bag", COUNTED, listed=False)
    whole = (folder / "bag_1.mcap").read_bytes()
    (folder / "bag_1.mcap").write_bytes(whole[: len(whole) // 2])
    (folder / "bag_10.mcap").write_bytes(b"")
    frames, message = until_broken(BagSource(folder))
    assert {f.stamp_ns for f in frames} >= {stamp_ns(i) for i in (0, 1, 4, 5)}
    assert "bag_10.mcap is empty (0 bytes)" in message and "bag_10.mcap" in caplog.text
    assert "bag_1.mcap is not whole" in message


@pytest.mark.parametrize(
    "text",
    [
        "rosbag2_bagfile_information:\n  version: [",
        "rosbag2_bagfile_information: " + "[" * 5_000,
        "rosbag2_bagfile_information:\n  relative_file_paths: [3]\n",
        "- a list",
        "\x00\xff",
        "",
    ],
    ids=["cut", "deep", "number", "list", "binary", "empty"],
)
def test_metadata_that_cannot_be_used_is_said_and_done_without(tmp_path, caplog, text):
    folder = write_split(tmp_path / "bag", COUNTED)
    (folder / "metadata.yaml").write_text(text, encoding="latin-1")
    assert_frames(BagSource(folder), range(8))
    assert "metadata.yaml cannot be used, the files are read by time" in caplog.text


@pytest.mark.parametrize("suffix", [".db3", ".mcap"])
@pytest.mark.parametrize("listed", [True, False])
def test_files_compressed_whole(tmp_path, monkeypatch, suffix, listed):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    names = [f"bag_{i}{suffix}.zstd" for i in range(3)]
    source = BagSource(write_split(tmp_path / "bag", names, listed))
    assert_frames(source, range(6))
    assert_frames(BagSource(tmp_path / "bag" / names[1]), [2, 3])
    assert sorted(p.name for p in (tmp_path / "bag").glob("*3*")) == sorted(
        p.name for p in (tmp_path / "bag").glob("*3*zstd")
    )
    assert list(scratch.iterdir())
    del source
    assert not list(scratch.iterdir())  # nothing stays


def test_recorder_killed_while_it_compressed(tmp_path):
    """The last file is whole, and beside it stands the beginning of its compressed copy."""
    names = ["bag_0.db3.zstd", "bag_1.db3.zstd", "bag_2.db3"]
    folder = write_split(tmp_path / "bag", names, listed=False)
    (folder / "bag_2.db3.zstd").write_bytes(zstandard.compress(b"x" * 1000)[:9])
    assert_frames(BagSource(folder), range(6))
    # Listed as compressed, and unpacked by hand since.
    write_metadata(folder, ["bag_0.db3.zstd", "bag_1.db3.zstd", "bag_2.db3"], 6)
    packed = folder / "bag_1.db3.zstd"
    (folder / "bag_1.db3").write_bytes(
        zstandard.ZstdDecompressor().stream_reader(packed.read_bytes()).read()
    )
    packed.unlink()
    assert_frames(BagSource(folder), range(6))


@pytest.mark.parametrize("suffix", [".db3", ".mcap"])
def test_compressed_file_that_is_cut_gives_what_it_has(tmp_path, suffix):
    folder = write_split(tmp_path / "bag", [f"a{suffix}"], count=60)
    packed = tmp_path / f"cut{suffix}.zstd"
    data = zstandard.compress((folder / f"a{suffix}").read_bytes())
    packed.write_bytes(data[: len(data) * 2 // 3])
    frames, message = until_broken(BagSource(packed))
    assert 10 < len(frames) < 60
    assert f"cut{suffix}.zstd is not whole" in message
    packed.write_bytes(b"no zstd at all")
    with pytest.raises(InputError, match="no message can be read"):
        BagSource(packed)


@pytest.mark.parametrize("checkpointed", [0, 3])
@pytest.mark.parametrize("mode", ["WAL", "PERSIST"])
def test_log_of_a_killed_recorder_is_read(tmp_path, checkpointed, mode):
    """As rosbag2's `resilient` writes: the last messages stand in a file beside the database."""
    live, killed = tmp_path / "live", tmp_path / "killed"
    folder = write_split(live, ["bag_0.db3"], count=max(1, checkpointed))
    database = sqlite3.connect(folder / "bag_0.db3", isolation_level=None)
    database.execute(f"PRAGMA journal_mode={mode}")
    database.execute("PRAGMA wal_autocheckpoint=0")
    for i in range(max(1, checkpointed), 6):
        values = 1, stamp_ns(i), serialized_image(i)
        database.execute("INSERT INTO messages(topic_id, timestamp, data) VALUES (?, ?, ?)", values)
    shutil.copytree(live, killed)
    database.close()
    (killed / "metadata.yaml").unlink()
    before = {p.name: p.read_bytes() for p in killed.iterdir()}
    assert_frames(BagSource(killed), range(6))
    assert_frames(BagSource(killed / "bag_0.db3"), range(6))
    assert {p.name: p.read_bytes() for p in killed.iterdir()} == before  # nothing is written there


def test_log_that_cannot_be_used_is_said(tmp_path, caplog):
    folder = write_split(tmp_path / "bag", ["a.db3", "b.db3"], listed=False)
    (folder / "a.db3-journal").write_bytes(bytes.fromhex("d9d505f920a163d7") + b"\xff" * 600)
    (folder / "b.db3-wal").write_bytes(b"no log at all")
    assert_frames(BagSource(folder), range(4))


def test_capitals_are_the_same(tmp_path):
    for name in ("a.MCAP", "b.DB3", "c.Mcap.ZSTD"):
        folder = write_split(tmp_path / name[0], [name.replace(".ZSTD", ".zstd")], listed=False)
        (made,) = folder.iterdir()
        made = made.rename(folder / name)
        for path in (folder, made):
            assert_frames(open_source(path), range(2))


def test_what_is_no_recording_is_named(tmp_path):
    (tmp_path / "old").mkdir()
    for name in ("a.bag", "b.BAG"):
        (tmp_path / "old" / name).touch()
        with pytest.raises(InputError, match="is of ROS 1: convert it"):
            open_source(tmp_path / "old" / name)
    with pytest.raises(InputError, match="its recordings are of ROS 1"):
        open_source(tmp_path / "old")
    (tmp_path / "drives").mkdir()
    for i in range(7):
        (tmp_path / "drives" / f"drive_{i}").mkdir()
        write_bag(tmp_path / "drives" / f"drive_{i}" / "x.mcap", 1)
    with pytest.raises(InputError, match=r"a folder of 7 recordings: give one .* drive_4 and 2 m"):
        open_source(tmp_path / "drives")
    (tmp_path / "lost").mkdir()
    write_metadata(tmp_path / "lost", ["a.mcap"], 3)
    with pytest.raises(InputError, match=r"expected \.mcap or \.db3 files in it, found none"):
        open_source(tmp_path / "lost")


def test_images_beside_a_recording_are_images(tmp_path):
    write_split(tmp_path / "bag", ["a.mcap"])
    for i in range(2):
        cv2.imwrite(str(tmp_path / f"{i}.png"), noise_image(i)[..., ::-1])
    np.testing.assert_array_equal(
        [f.image for f in open_source(tmp_path)], [noise_image(0), noise_image(1)]
    )


def test_unpacking_is_said(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    BagSource(write_split(tmp_path / "bag", ["a.mcap.zstd"]))
    assert "a.mcap.zstd: unpacking into" in caplog.text
