"""Results as messages, here with the classes of recordings."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
from example_results import CLASS_NAMES, HEADER, INSTANCES, message_of_each_output

from instaseg_ros.frames import Instances
from instaseg_ros.recordings import result_messages
from instaseg_ros.recordings.image_messages import compressed_to_labels, image_to_labels
from instaseg_ros.recordings.message_types import message_classes

SLOWER = [cv2.IMWRITE_PNG_COMPRESSION, 3]  # compressed_image_transport's setting


def test_every_topic_has_its_type_and_header():
    made = message_of_each_output(message_classes(), HEADER)
    assert made.keys() == result_messages.TOPICS.keys()
    for name, message in made.items():
        assert message.__msgtype__ == result_messages.TOPICS[name].type
        carriers = message.markers if name == "markers" else [message]
        assert all(carrier.header is HEADER for carrier in carriers)


def test_label_image_is_little_endian_mono16():
    big_endian = np.asfortranarray(INSTANCES.labels.astype(">u2"))
    for labels in (INSTANCES.labels, big_endian):
        message = result_messages.labels_message(message_classes(), HEADER, labels)
        assert (message.encoding, message.step, message.is_bigendian) == ("mono16", 128, 0)
        np.testing.assert_array_equal(image_to_labels(message), INSTANCES.labels)


def test_compressed_labels_are_laid_out_as_by_image_transport():
    message = message_of_each_output(message_classes(), HEADER)["labels/compressed"]
    assert message.format == "mono16; png compressed "  # its reader takes the first word
    np.testing.assert_array_equal(compressed_to_labels(message), INSTANCES.labels)


def test_compressed_labels_are_the_labels():
    usual = np.zeros((200, 300), np.uint16)
    cv2.circle(usual, (100, 90), 70, 40_000, -1)
    chance = np.random.default_rng(0).integers(0, 2**16, (5, 7), np.uint16)
    for labels in (usual, usual.T, usual.astype(">u2"), chance, chance[:1, :1]):
        message = result_messages.compressed_labels_message(message_classes(), HEADER, labels)
        read = cv2.imdecode(np.asarray(message.data), cv2.IMREAD_UNCHANGED)
        assert read.dtype == np.uint16
        np.testing.assert_array_equal(read, labels)
        if labels is usual:
            assert len(message.data) < len(cv2.imencode(".png", usual, SLOWER)[1])


def test_detections_name_label_class_and_box():
    first, second = message_of_each_output(message_classes(), HEADER)["detections"].detections
    assert (first.id, second.id) == ("300", "7")
    assert first.results[0].hypothesis.class_id == "car"
    assert second.results[0].hypothesis.score == pytest.approx(0.5)
    assert (first.bbox.center.position.x, first.bbox.center.position.y) == (15, 15)
    assert (first.bbox.size_x, first.bbox.size_y) == (20, 10)


def test_the_surest_detection_comes_first():
    rising = dataclasses.replace(INSTANCES, scores=INSTANCES.scores[::-1].copy())
    made = result_messages.detections_message(
        message_classes(), HEADER, rising, CLASS_NAMES
    ).detections
    assert [detection.id for detection in made] == ["7", "300"]
    assert made[0].results[0].hypothesis.score == INSTANCES.scores.max()
    assert (made[0].bbox.center.position.x, made[0].bbox.size_x) != (15, 20)


def test_no_score_is_below_what_label_info_says():
    made = message_of_each_output(message_classes(), HEADER)
    assert [one.class_name for one in made["label_info"].class_map] == list(CLASS_NAMES)
    assert made["label_info"].threshold == 0
    # As a seed of 0.8 has whose pixels hardly agree: the threshold of seeds is none of scores.
    low = dataclasses.replace(INSTANCES, scores=np.array([0.9, 0.01], np.float32))
    made = result_messages.detections_message(
        message_classes(), HEADER, low, CLASS_NAMES
    ).detections
    assert len(made) == 2


def test_markers_project_back_onto_the_outline():
    intrinsics = np.array([[500.0, 0, 30], [0, 400, 20], [0, 0, 1]])
    message = result_messages.markers_message(
        message_classes(), HEADER, INSTANCES, CLASS_NAMES, intrinsics
    )
    delete_all, outline, name, *_ = message.markers
    assert (delete_all.action, outline.ns, outline.id, name.ns) == (3, "outline", 300, "name")
    assert name.text == "car 300"
    rays = np.array([[p.x, p.y, p.z] for p in outline.points])
    pixels = np.rint(rays @ intrinsics.T).astype(int)[:, :2]  # z is 1 m
    corners = {(5, 10), (24, 10), (24, 19), (5, 19)}
    assert set(map(tuple, pixels.tolist())) == corners
    assert len(pixels) == 8  # four lines of two ends


def test_pieces_of_an_instance_are_outlined_each():
    labels = INSTANCES.labels.copy()
    labels[:, 12] = 0  # split by an occluder
    split = Instances(labels, *(getattr(INSTANCES, name) for name in list(INSTANCES.__slots__)[1:]))
    message = result_messages.markers_message(message_classes(), HEADER, split, CLASS_NAMES)
    assert len(message.markers[1].points) == 16
