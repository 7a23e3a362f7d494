"""Label images as PNG: every reader gets the same values back."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from example_results import HEADER, INSTANCES, message_of_each_output
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from instaseg_ros.recordings import result_messages
from instaseg_ros.recordings.image_messages import compressed_to_labels
from instaseg_ros.recordings.label_png import encode_labels
from instaseg_ros.recordings.message_types import message_classes


def read(png: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)


@given(st_numpy.arrays(np.uint16, st_numpy.array_shapes(min_dims=2, max_dims=2, max_side=20)))
def test_any_values_come_back(labels: np.ndarray):
    decoded = read(encode_labels(labels))
    assert decoded.dtype == np.uint16
    np.testing.assert_array_equal(decoded, labels)


@given(st.integers(0, 3))
def test_any_memory_layout(turns: int):
    labels = np.rot90(np.arange(12, dtype=">u2").reshape(3, 4) * 5000, turns)
    np.testing.assert_array_equal(read(encode_labels(labels)), labels)


def test_flat_labels_take_little():
    rng = np.random.default_rng(0)
    labels = np.zeros((1024, 2048), np.uint16)
    for i in range(1, 301):
        y, x, r = rng.integers(0, 1024), rng.integers(0, 2048), rng.integers(5, 60)
        cv2.circle(labels, (int(x), int(y)), int(r), i, -1)
    png = encode_labels(labels)
    usual = cv2.imencode(".png", labels)[1]
    assert len(png) < len(usual)
    assert len(png) < labels.nbytes / 20


def test_another_reader_agrees_and_finds_every_checksum_right(tmp_path):
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "labels.png"
    path.write_bytes(encode_labels(INSTANCES.labels))
    with image.open(path) as opened:
        opened.verify()  # checks every checksum
    with image.open(path) as opened:
        np.testing.assert_array_equal(np.asarray(opened, np.uint16), INSTANCES.labels)


def test_message_is_laid_out_as_compressed_image_transport_does():
    message = message_of_each_output(message_classes(), HEADER)["labels/compressed"]
    assert message.format == "mono16; png compressed "
    # What its subscriber does (mode unchanged): the encoding is what stands before the semicolon.
    assert message.format[: message.format.find(";")] == "mono16"
    np.testing.assert_array_equal(
        cv2.imdecode(np.asarray(message.data), cv2.IMREAD_UNCHANGED), INSTANCES.labels
    )
    np.testing.assert_array_equal(compressed_to_labels(message), INSTANCES.labels)
    assert result_messages.TOPICS["labels/compressed"].type == message.__msgtype__
