"""Recordings with truth as a dataset: any frame, by its stamp."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import written_recordings
from written_recordings import (
    HEIGHT,
    WIDTH,
    noise_image,
    stamp_ns,
    two_instances,
    write_bag,
    write_street_bag,
)

from instaseg_ros.datasets import open_dataset
from instaseg_ros.datasets.bag import LabelledBag
from instaseg_ros.errors import InputError, TruncatedInputError
from instaseg_ros.recordings import result_messages
from instaseg_ros.recordings.bags import DETECTIONS, IMAGE, BagWriter, read_truth
from instaseg_ros.recordings.storage import open_recording
from instaseg_ros.synthetic_street import SyntheticStreet, export

Log = pytest.LogCaptureFixture


def test_any_frame_is_read_alone_and_in_any_process(tmp_path: Path) -> None:
    path = write_street_bag(tmp_path / "street.mcap", 40)
    opened = open_dataset(path, "all")
    assert isinstance(opened, LabelledBag) and len(opened) == 40
    for dataset in (opened, pickle.loads(pickle.dumps(opened))):
        assert dataset.class_names == ("car", "person") and dataset.files(3) == (path,)
        for i in (33, 0, 39):
            sample = dataset[i]
            assert sample.frame.stamp_ns == stamp_ns(i) and sample.frame.frame_id == "camera_front"
            np.testing.assert_array_equal(sample.frame.image, noise_image(i))
            np.testing.assert_array_equal(sample.labels, two_instances(i).labels)
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
    with pytest.raises(TruncatedInputError, match="it gives 3 messages of /image"):
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
        picture = result_messages.overlay_message(
            writer.msgs, written_recordings.header(i), noise_image(i)
        )
        writer.write("/image", picture, stamp_ns(i))
        if i in labelled:
            labels = result_messages.labels_message(
                writer.msgs, written_recordings.header(i), labelled[i]
            )
            writer.write("/ground_truth/labels", labels, stamp_ns(i))
            truth = result_messages.detections_message(
                writer.msgs,
                written_recordings.header(i),
                two_instances(i),
                written_recordings.CLASS_NAMES,
            )
            writer.write("/ground_truth/detections", truth, stamp_ns(i) + 30_000_000)
    writer.close()
    return path


def test_frames_without_truth_are_left_out(tmp_path: Path) -> None:
    path = write_partly(tmp_path / "a.mcap", {i: two_instances(i).labels for i in (1, 4)})
    dataset = LabelledBag(path)
    assert [dataset[i].frame.stamp_ns for i in range(len(dataset))] == [stamp_ns(1), stamp_ns(4)]
    with pytest.raises(InputError, match="expected an image, labels and detections of one stamp"):
        LabelledBag(write_partly(tmp_path / "b.mcap", {}))
    with pytest.raises(InputError, match=r"carries no truth: expected a topic \.\.\./ground_truth"):
        LabelledBag(write_bag(tmp_path / "c.mcap", 2))


def test_truth_of_another_size_is_named(tmp_path: Path) -> None:
    small = cv2.resize(two_instances(1).labels, (WIDTH // 2, HEIGHT // 2), interpolation=0)
    dataset = LabelledBag(write_partly(tmp_path / "a.mcap", {1: small}))
    with pytest.raises(InputError, match=r"frame of 12\.050 s: .* \(48, 64\) .*found \(24, 32\)"):
        dataset[0]


def test_broken_recording_gives_the_frames_it_has(tmp_path: Path) -> None:
    path = write_street_bag(tmp_path / "cut.mcap", 40)
    path.write_bytes(path.read_bytes()[:-9000])
    dataset = LabelledBag(path)
    assert 30 < len(dataset) < 40
    np.testing.assert_array_equal(dataset[30].labels, two_instances(30).labels)
    assert "cut.mcap is not whole" in dataset.remarks[0]


def test_label_without_detection_is_ignored_ground(tmp_path: Path, caplog: Log) -> None:
    stray = two_instances(0).labels.copy()
    stray[0] = 9
    sample = LabelledBag(write_partly(tmp_path / "a.mcap", {0: stray}))[0]
    assert sample.ids.tolist() == [7, 300]
    assert sample.ignore is not None
    np.testing.assert_array_equal(sample.ignore, stray == 9)
    np.testing.assert_array_equal(sample.labels, two_instances(0).labels)
    assert "a.mcap, frame of 12.000 s: ignored labels without a detection: [9]" in caplog.text


def write_detections(path: Path, *objects: tuple[str, list[tuple[str, float]]]) -> Path:
    """Three frames whose detections have the ids and results (class, score) of `objects`."""
    writer = BagWriter(path)
    msgs = writer.msgs
    for topic, kind in (("image", IMAGE), ("labels", IMAGE), ("detections", DETECTIONS)):
        writer.add_topic(topic if topic == "image" else f"ground_truth/{topic}", kind)
    for i in range(3):
        header = written_recordings.header(i)
        detections = [
            msgs.Detection2D(
                id=name,
                results=[
                    msgs.ObjectHypothesisWithPose(
                        hypothesis=msgs.ObjectHypothesis(class_id=class_id, score=score)
                    )
                    for class_id, score in results
                ],
            )
            for name, results in objects
        ]
        array = msgs.Detection2DArray(header=header, detections=detections)
        picture = result_messages.overlay_message(msgs, header, noise_image(i))
        writer.write("image", picture, stamp_ns(i))
        labels = result_messages.labels_message(msgs, header, two_instances(i).labels)
        writer.write("ground_truth/labels", labels, stamp_ns(i))
        writer.write("ground_truth/detections", array, stamp_ns(i))
    writer.close()
    return path


CAR, PERSON = [("car", 1.0)], [("person", 0.3), ("rider", 0.7)]


@pytest.mark.parametrize(
    "odd",
    ["", "car_1", "0", "-7", "7.0", "65536", "9" * 5000, "\u0667"],
    ids=["empty", "text", "background", "negative", "float", "large", "huge", "arabic"],
)
def test_object_whose_id_is_no_label_value_is_left_out(tmp_path: Path, odd: str) -> None:
    path = write_detections(tmp_path / "a.mcap", ("300", CAR), (odd, PERSON))
    dataset = LabelledBag(path)
    assert dataset.class_names == ("car",) and len(dataset) == 3
    assert dataset.remarks == ("left out: objects whose id is not a label value: 3",)
    sample = dataset[1]
    assert sample.ids.tolist() == [300] and sample.ignore is not None
    np.testing.assert_array_equal(sample.ignore, two_instances(1).labels == 7)
    truths = list(read_truth(path))
    assert [truth.class_names for truth in truths] == [{300: "car"}] * 3


def test_object_without_a_class_is_left_out(tmp_path: Path, caplog: Log) -> None:
    path = write_detections(tmp_path / "a.mcap", ("300", []), ("7", PERSON))
    dataset = LabelledBag(path)
    assert dataset.class_names == ("rider",)  # the likeliest result
    assert dataset.remarks == ("left out: objects without a class: 3",)
    assert dataset[0].ids.tolist() == [7]
    caplog.clear()
    assert [truth.class_names for truth in read_truth(path)] == [{7: "rider"}] * 3
    assert "left out of the truth: objects without a class: 3" in caplog.text


def test_truth_without_any_class_is_refused_with_the_reason(tmp_path: Path) -> None:
    path = write_detections(tmp_path / "a.mcap", ("", CAR), ("7", []))
    expected = "objects whose id is not a label value: 3, objects without a class: 3"
    with pytest.raises(
        InputError, match=rf"a\.mcap: expected detections with a label value .*{expected}"
    ):
        LabelledBag(path)


def test_repeated_stamps_and_damaged_messages_are_counted(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path / "a.mcap")
    for topic, kind in (("/image", IMAGE), ("/ground_truth/labels", IMAGE)):
        writer.add_topic(topic, kind)
    writer.add_topic("/ground_truth/detections", DETECTIONS)
    for i in range(4):
        header, truth = written_recordings.header(0), two_instances(i)  # of a clock that stands
        messages = {
            "/image": result_messages.overlay_message(writer.msgs, header, noise_image(i)),
            "/ground_truth/labels": result_messages.labels_message(
                writer.msgs, header, truth.labels
            ),
            "/ground_truth/detections": result_messages.detections_message(
                writer.msgs, header, truth, written_recordings.CLASS_NAMES
            ),
        }
        for topic, message in messages.items():
            writer.write(topic, message, stamp_ns(i))
    writer.write_serialized("/image", b"\0\1\0\0no image", stamp_ns(5))
    writer.close()
    dataset = LabelledBag(tmp_path / "a.mcap")
    assert len(dataset) == 1
    np.testing.assert_array_equal(dataset[0].frame.image, noise_image(0))
    (said,) = dataset.remarks
    assert "messages of /image with the stamp of another: 3" in said
    assert "messages of /image that cannot be read: 1" in said
