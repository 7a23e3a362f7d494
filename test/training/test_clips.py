"""Clips of recorded sequences, as methods with a memory learn from: what they show, and where there
are none."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from dataset_layouts import street_samples, write_kitti_mots
from disc_images import QUICK, write_discs

from instaseg_ros.checkpoint import load_checkpoint
from instaseg_ros.config import Config, TrainConfig, merge
from instaseg_ros.datasets import Dataset, Sample, open_dataset, spread
from instaseg_ros.datasets.bag import LabelledBag
from instaseg_ros.errors import ConfigError, InputError
from instaseg_ros.frames import Frame
from instaseg_ros.methods.depth import EgoMotion
from instaseg_ros.synthetic_street import SyntheticStreet, export
from instaseg_ros.training.augment import random_view
from instaseg_ros.training.objects import object_index
from instaseg_ros.training.source import open_splits
from instaseg_ros.training.trainer import train
from instaseg_ros.training.views import ObjectViews, clip_starts

CLIPS = {**QUICK, "method.name": "spatio_temporal", "method.profile": "fast"}
CLIPS |= {"train.batch_size": 1, "train.clip_frames": 3, "train.validation_frames": 3}


@pytest.fixture
def drives(tmp_path: Path) -> Path:
    """KITTI MOTS: two sequences for training, of 5 and of 2 frames, and one to validate on."""
    frames = street_samples(5)
    for sequence, count in (("0000", 5), ("0001", 2), ("0002", 4)):
        write_kitti_mots(tmp_path, frames[:count], sequence, "instances")
    return tmp_path


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    street = SyntheticStreet((96, 160), sequences=1, frames_per_sequence=12, seed=3, depth=False)
    export.write_bag(street, tmp_path / "drive.mcap")
    return tmp_path / "drive.mcap"


def views(dataset: Dataset, tmp_path: Path, **options: object) -> ObjectViews:
    config = dataclasses.replace(TrainConfig(), **options)  # type: ignore[arg-type]
    return ObjectViews(dataset, object_index(dataset, tmp_path / "objects.npz"), config)


def test_a_clip_ends_with_its_frame_and_stays_in_its_sequence(drives: Path) -> None:
    dataset = open_dataset(drives, "train")
    assert len(dataset) == 7
    assert clip_starts(dataset, 1).tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert clip_starts(dataset, 2).tolist() == [0, 0, 1, 2, 3, 5, 5]
    assert clip_starts(dataset, 3).tolist() == [0, 0, 0, 1, 2, -1, -1]


def test_the_frames_of_a_clip_are_seen_through_one_window(drives: Path, tmp_path: Path) -> None:
    dataset = open_dataset(drives, "train")
    clips = views(dataset, tmp_path, clip_frames=3, crop_height=48, crop_width=64, min_object_px=1)
    still = dataset[0]

    class Still:
        """Every frame looks like the first."""

        def __getitem__(self, index: int) -> Sample:
            stamp_ns = dataset[index].frame.stamp_ns
            return dataclasses.replace(still, frame=Frame(still.frame.image, stamp_ns))

    clips.dataset = Still()  # type: ignore[assignment]
    for index in range(10):
        first, *others = clips[index]
        assert first.frame.image.shape == (48, 64, 3)
        for one in others:
            np.testing.assert_array_equal(one.labels, first.labels)
            np.testing.assert_array_equal(one.frame.image, first.frame.image)
        stamps = np.array([first.frame.stamp_ns, *(one.frame.stamp_ns for one in others)])
        assert (np.diff(stamps) == 100_000_000).all()
    assert not np.array_equal(clips[0][0].labels, clips[1][0].labels)
    again = views(dataset, tmp_path, clip_frames=1, crop_height=48, crop_width=64, min_object_px=1)
    assert len(again[0]) == 1


@pytest.mark.parametrize("turn", [False, True])
def test_intrinsics_follow_the_window(turn: bool) -> None:
    """A pixel's line of sight leads to it in the view as well, mirrored and turned or not."""
    matrix = np.array([[90.0, 0, 50], [0, 80, 40], [0, 0, 1]])
    labels = np.zeros((96, 128), np.uint16)
    labels[52:57, 70:75] = 1  # around row 54, column 72
    sample = Sample(
        Frame(np.zeros((96, 128, 3), np.uint8), intrinsics=matrix),
        *(labels, np.array([1], np.uint16), np.array([0])),
    )
    sight = np.linalg.inv(matrix) @ [72, 54, 1]
    config = dataclasses.replace(TrainConfig().augment, turn=turn)
    compared = 0
    for seed in range(20):
        view = random_view(sample, (72.5, 54.5), (64, 64), config, np.random.default_rng(seed))
        assert view.frame.intrinsics is not None
        where = view.frame.intrinsics @ sight
        rows, columns = np.nonzero(view.labels)
        if min(rows.min(), columns.min()) > 0 and max(rows.max(), columns.max()) < 63:
            compared += 1
            assert where[:2] == pytest.approx([columns.mean(), rows.mean()], abs=1.0)
        # Turned by a quarter, x takes the place of y, which its motion must survive.
        k = torch.from_numpy(view.frame.intrinsics).float().expand(1, 2, 3, 3)
        assert torch.isfinite(EgoMotion()(torch.zeros(1, 2, 3, 64, 64), k)).all()
    assert compared > 10, "the object lies at the border of nearly every view"


def test_the_last_frames_of_a_recording_are_held_out(recording: Path, tmp_path: Path) -> None:
    train_part, held_out = open_splits(str(recording))
    assert (len(train_part), len(held_out)) == (11, 1)
    whole = LabelledBag(recording)
    assert held_out[0].frame.stamp_ns == whole[11].frame.stamp_ns
    assert clip_starts(train_part, 4)[-1] == 7


def test_a_recording_knows_its_camera(recording: Path) -> None:
    street = SyntheticStreet((96, 160), sequences=1, frames_per_sequence=12, seed=3, depth=False)
    for index in (0, 11):
        np.testing.assert_allclose(
            LabelledBag(recording)[index].frame.intrinsics, street[index].frame.intrinsics
        )


def test_clips_of_a_recording_are_learned_with_depth(recording: Path, tmp_path: Path) -> None:
    weights = train(merge(Config(), {**CLIPS, "train.dataset": str(recording)}), tmp_path / "run")
    assert load_checkpoint(weights).method_name == "spatio_temporal"
    header, *rows = (tmp_path / "run" / "log.csv").read_text().splitlines()
    photometric = [float(row.split(",")[header.split(",").index("photometric")]) for row in rows]
    assert len(photometric) == 4 and min(photometric) > 0


def test_clips_are_refused_where_there_are_none(drives: Path, tmp_path: Path) -> None:
    def refused(match: str, **options: object) -> None:
        values = {**CLIPS, **{f"train.{name}": value for name, value in options.items()}}
        with pytest.raises(ConfigError, match=match):
            train(merge(Config(), values), tmp_path / "run")

    with pytest.raises(ConfigError, match="expected 1 for method spatial_embedding, got 3"):
        train(merge(Config(), {**CLIPS, "method.name": "spatial_embedding"}), tmp_path)
    images = write_discs(tmp_path / "discs", 10)
    refused("expected 1 for a dataset of single images", dataset=str(images))
    refused("no sequence of 6 frames", dataset=str(drives), clip_frames=6, weight_depth=0)
    refused("depth learns from camera intrinsics", dataset=str(drives))
    with pytest.raises(InputError, match="no object of at least 100000 pixels"):
        views(open_dataset(drives, "train"), tmp_path, min_object_px=100_000)


def test_a_recording_without_poses_cannot_give_the_known_motion(
    recording: Path, tmp_path: Path
) -> None:
    options = {**CLIPS, "train.dataset": str(recording), "train.ego_motion": "known"}
    with pytest.raises(ConfigError, match=r"camera poses \(train.ego_motion: known\)"):
        train(merge(Config(), options), tmp_path / "run")


@pytest.mark.parametrize(
    ("count", "frames", "clip", "expected"),
    [
        (4, 9, 3, [0, 1, 2, 3]),
        (10, 5, 1, [0, 2, 4, 6, 8]),
        (20, 6, 3, [0, 1, 2, 9, 10, 11]),
        (5, 2, 3, [0, 1, 2]),
        (2, 1, 3, [0, 1]),
        (10, 4, 1, [0, 2, 5, 7]),
        (3, 9, 1, [0, 1, 2]),
        (0, 9, 1, []),
    ],
)
def test_indices_are_spread(count: int, frames: int, clip: int, expected: list[int]) -> None:
    assert spread(count, frames, clip) == expected
