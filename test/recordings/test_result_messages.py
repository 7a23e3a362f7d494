"""Results as messages, here with the classes of recordings."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
from example_results import (
    CLASS_NAMES,
    HEADER,
    INSTANCES,
    INTRINSICS,
    message_of_each_depth_output,
    message_of_each_output,
)

from instaseg_ros.frames import Distortion, Frame, Instances
from instaseg_ros.localization import locate
from instaseg_ros.rays import sight
from instaseg_ros.recordings import result_messages
from instaseg_ros.recordings.image_messages import compressed_to_labels, image_to_labels
from instaseg_ros.recordings.message_types import message_classes
from instaseg_ros.visualization import color

SLOWER = [cv2.IMWRITE_PNG_COMPRESSION, 3]  # compressed_image_transport's setting


def of_matrix(intrinsics, distortion=None) -> Frame:
    pixels = np.zeros((*INSTANCES.labels.shape, 3), np.uint8)
    return Frame(pixels, intrinsics=intrinsics, distortion=distortion)


FRAME = of_matrix(INTRINSICS)


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
        message_classes(), HEADER, INSTANCES, CLASS_NAMES, of_matrix(intrinsics)
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


def test_depth_outputs_have_their_types_and_the_header():
    made = message_of_each_depth_output(message_classes(), HEADER)
    assert made.keys() == {*result_messages.DEPTH_TOPICS, "markers"}
    for name, topic in result_messages.DEPTH_TOPICS.items():
        assert made[name].__msgtype__ == topic.type
        assert made[name].header is HEADER
    assert all(marker.header is HEADER for marker in made["markers"].markers)


def test_detections_in_space_are_those_in_the_image():
    flat = message_of_each_output(message_classes(), HEADER)["detections"].detections
    deep = message_of_each_depth_output(message_classes(), HEADER)["detections_3d"].detections
    assert [one.id for one in deep] == [one.id for one in flat] == ["300", "7"]
    for one, other in zip(deep, flat, strict=True):
        assert one.header is HEADER
        assert one.results[0].hypothesis == other.results[0].hypothesis
    near, far = deep
    middle = near.results[0].pose.pose
    assert (middle.position.x, middle.position.y) == pytest.approx(
        ((14.5 - 32) / 50 * 4, (14.5 - 24) / 50 * 4)
    )
    assert middle.position.z == pytest.approx(4)
    assert (middle.orientation.x, middle.orientation.w) == (0, 1)
    covariance = np.reshape(near.results[0].pose.covariance, (6, 6))
    assert covariance[0, 0] == pytest.approx((20 / 50 * 4) ** 2 / 12, rel=0.01)
    assert covariance[2, 2] == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(np.diag(covariance)[3:], np.pi**2 / 3)
    assert far.bbox.center.position.z == pytest.approx(8)
    assert far.bbox.size.x == pytest.approx(15 / 50 * 8, rel=0.1)
    assert far.bbox.size.y == pytest.approx(15 / 50 * 8, rel=0.1)
    assert far.bbox.center.orientation.w == 1


def test_points_carry_place_colour_and_instance():
    cloud = message_of_each_depth_output(message_classes(), HEADER)["points"]
    assert [field.name for field in cloud.fields] == ["x", "y", "z", "rgb", "instance"]
    assert [field.offset for field in cloud.fields] == [0, 4, 8, 12, 16]
    assert (cloud.height, cloud.width) == (1, 20 * 10 + 15 * 15)
    assert (cloud.point_step, cloud.row_step) == (20, 20 * cloud.width)
    read = np.frombuffer(bytes(cloud.data), result_messages.POINT)
    xyz = np.stack([read[axis] for axis in "xyz"], 1) @ INTRINSICS.T
    x, y = np.rint(xyz[:, :2] / xyz[:, 2:]).astype(int).T
    np.testing.assert_array_equal(read["instance"], INSTANCES.labels[y, x])
    assert set(read["z"][read["instance"] == 300].tolist()) == {4}
    red, green, blue = color(7)
    assert set(read["rgb"][read["instance"] == 7].tolist()) == {red << 16 | green << 8 | blue}


def test_markers_of_located_objects_stand_at_their_distance():
    labels = INSTANCES.labels
    depth = np.where(labels == 300, np.float32(4), np.float32(0))
    located = locate(INSTANCES, depth, sight(FRAME))
    made = result_messages.markers_message(
        message_classes(), HEADER, INSTANCES, CLASS_NAMES, FRAME, located
    )
    kinds = [(marker.ns, marker.id) for marker in made.markers[1:]]
    assert kinds == [("box", 300), ("outline", 300), ("name", 300), ("outline", 7), ("name", 7)]
    _, box, outline, name, in_direction, unknown = made.markers
    assert {p.z for p in outline.points} == {4}
    assert name.text == "car 300, 4.0 m" and name.pose.position.z == pytest.approx(4)
    assert box.type == 1 and box.pose.position.z == pytest.approx(4)
    assert box.scale.x == pytest.approx(20 / 50 * 4, rel=0.1) and box.scale.z == 0.01
    assert 0 < box.color.a < 1
    assert {p.z for p in in_direction.points} == {1} and unknown.text == "person 7"
    assert outline.scale.x == pytest.approx(4 * in_direction.scale.x)


def test_markers_of_a_distorted_image_stand_in_the_right_direction():
    lens = Distortion("plumb_bob", (-0.3, 0.1, 0.0, 0.0, 0.0))
    message = result_messages.markers_message(
        message_classes(), HEADER, INSTANCES, CLASS_NAMES, of_matrix(INTRINSICS, lens)
    )
    points = np.array([[p.x, p.y, p.z] for p in message.markers[1].points])
    pixels, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), INTRINSICS, lens.coefficients)
    corners = {(5, 10), (24, 10), (24, 19), (5, 19)}
    assert set(map(tuple, np.rint(pixels[:, 0]).astype(int).tolist())) == corners
    straight = result_messages.markers_message(
        message_classes(), HEADER, INSTANCES, CLASS_NAMES, FRAME
    )
    assert abs(straight.markers[1].points[0].x) < 0.97 * abs(points[0, 0])
