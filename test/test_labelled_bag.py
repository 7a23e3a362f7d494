"""Recordings with truth as a dataset: any frame, by its stamp."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import recordings
from recordings import HEIGHT, WIDTH, image, instances, stamp_ns, write_bag, write_street_bag

from instaseg_ros import outputs
from instaseg_ros.bag_storage import open_recording
from instaseg_ros.bags import DETECTIONS, IMAGE, BagWriter
from instaseg_ros.datasets import open_dataset
from instaseg_ros.datasets.bag import LabelledBag
from instaseg_ros.datasets.synthetic_street import SyntheticStreet, export
from instaseg_ros.errors import InputError, TruncatedInputError


def test_any_frame_is_read_alone_and_in_any_process(tmp_path: Path) -> None:
    path = write_street_bag(tmp_path / "street.mcap", 40)
    opened = open_dataset(path, "all")
    assert isinstance(opened, LabelledBag) and len(opened) == 40
    for dataset in (opened, pickle.loads(pickle.dumps(opened))):
        assert dataset.class_names == ("car", "person") and dataset.files(3) == (path,)
        for i in (33, 0, 39):
            sample = dataset[i]
            assert sample.frame.stamp_ns == stamp_ns(i) and sample.frame.frame_id == "camera_front"
            np.testing.assert_array_equal(sample.frame.image, image(i))
            np.testing.assert_array_equal(sample.labels, instances(i).labels)
            assert sample.ids.tolist() == [7, 300] and sample.class_ids.tolist() == [1, 0]


@pytest.mark.parametrize("jpeg_quality", [None, 90])
def test_exported_street_comes_back(tmp_path: Path, jpeg_quality: int | None) -> None:
    street = SyntheticStreet((64, 128), sequences=1, frames_per_sequence=3, seed=3)
    export.write_bag(street, tmp_path / "bag.mcap", jpeg_quality=jpeg_quality)
    for dataset in (open_dataset(tmp_path / "bag.mcap", "all"), open_dataset(tmp_path, "all")):
        for i in range(3):
            read, made = dataset[i], street[i]
            np.testing.assert_array_equal(read.labels, made.labels)
            np.testing.assert_array_equal(read.ids, made.ids)
            names = [street.class_names[k] for k in made.class_ids]
            assert [dataset.class_names[k] for k in read.class_ids] == names


def test_messages_are_found_by_the_time_they_were_received(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag.mcap", 250)
    span = stamp_ns(100), stamp_ns(103)
    found = [raw.received_ns for raw in open_recording(path).messages(["/image"], *span)]
    assert found == [stamp_ns(i) for i in (100, 101, 102)]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 9 // 10])  # has no index; is read from its start
    with pytest.raises(TruncatedInputError, match="breaks off after 3 messages"):
        found = []
        found.extend(r.received_ns for r in open_recording(path).messages(["/image"], *span))
    assert found == [stamp_ns(i) for i in (100, 101, 102)]


def write_partly(path: Path, labelled: dict[int, np.ndarray], frames: int = 5) -> Path:
    """Images of every stamp, and the truth of some: the detections received 30 ms later."""
    writer = BagWriter(path)
    topics = {
        "/image": IMAGE,
        "/ground_truth/labels": IMAGE,
        "/ground_truth/detections": DETECTIONS,
    }
    for topic, kind in topics.items():
        writer.add_topic(topic, kind)
    for i in range(frames):
        picture = outputs.overlay_message(writer.msgs, recordings.header(i), image(i))
        writer.write("/image", picture, stamp_ns(i))
        if i in labelled:
            labels = outputs.labels_message(writer.msgs, recordings.header(i), labelled[i])
            writer.write("/ground_truth/labels", labels, stamp_ns(i))
            truth = outputs.detections_message(
                writer.msgs, recordings.header(i), instances(i), recordings.CLASS_NAMES
            )
            writer.write("/ground_truth/detections", truth, stamp_ns(i) + 30_000_000)
    writer.close()
    return path


def test_frames_without_truth_are_left_out(tmp_path: Path) -> None:
    path = write_partly(tmp_path / "a.mcap", {i: instances(i).labels for i in (1, 4)})
    dataset = LabelledBag(path)
    assert [dataset[i].frame.stamp_ns for i in range(len(dataset))] == [stamp_ns(1), stamp_ns(4)]
    with pytest.raises(InputError, match="expected an image, labels and detections of one stamp"):
        LabelledBag(write_partly(tmp_path / "b.mcap", {}))
    with pytest.raises(InputError, match=r"carries no truth: expected a topic \.\.\./ground_truth"):
        LabelledBag(write_bag(tmp_path / "c.mcap", 2))


def test_broken_truth_is_named(tmp_path: Path) -> None:
    stray = instances(0).labels.copy()
    stray[0] = 9
    small = cv2.resize(instances(1).labels, (WIDTH // 2, HEIGHT // 2), interpolation=0)
    dataset = LabelledBag(write_partly(tmp_path / "a.mcap", {0: stray, 1: small}))
    with pytest.raises(InputError, match=r"a\.mcap, frame of 12\.000 s: .* \[9\] without one"):
        dataset[0]
    with pytest.raises(InputError, match=r"frame of 12\.050 s: .*found \(24, 32\) pixels"):
        dataset[1]
    path = write_street_bag(tmp_path / "cut.mcap", 40)
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(TruncatedInputError, match=r"cut\.mcap breaks off"):
        LabelledBag(path)
