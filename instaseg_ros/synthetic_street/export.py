"""Writes sequences of any dataset as folders of PNG files and as bags, for other programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from instaseg_ros.errors import InputError
from instaseg_ros.files import OutputFile
from instaseg_ros.frames import Instances
from instaseg_ros.samples import Dataset, Sample


def write_png_folder(
    dataset: Dataset, out_dir: Path, frames: Sequence[int] | None = None, overwrite: bool = False
) -> None:
    """Write one folder: images/*.png, labels/*.png (16 bits), depth/*.png (16 bits, millimetres,
    0 = none or beyond 65.5 m), ignore/*.png (255 = ignored) and meta.json.

    meta.json has `class_names` and, per frame, `stamp_ns`, `ids`, `class_ids` and if known
    `intrinsics` (3, 3) and `pose` (4, 4). `frames`: indices into the dataset, all by default.
    """
    output = OutputFile(out_dir, overwrite, marker="meta.json")
    meta: dict[str, Any] = {"class_names": list(dataset.class_names), "frames": []}
    for number, sample in enumerate(_samples(dataset, frames)):
        name = f"{number:06d}.png"
        _write_png(output.part / "images" / name, sample.frame.image[..., ::-1])
        _write_png(output.part / "labels" / name, sample.labels)
        if sample.frame.depth is not None:
            millimetres = np.rint(sample.frame.depth * 1000.0)
            millimetres[millimetres > 65535] = 0
            _write_png(output.part / "depth" / name, millimetres.astype(np.uint16))
        if sample.ignore is not None:
            _write_png(output.part / "ignore" / name, sample.ignore * np.uint8(255))
        meta["frames"].append({"file": name, **_described(sample)})
    (output.part / "meta.json").write_text(json.dumps(meta) + "\n", encoding="utf-8")
    output.commit()


def write_bag(
    dataset: Dataset,
    path: Path,
    frames: Sequence[int] | None = None,
    jpeg_quality: int | None = None,
    overwrite: bool = False,
) -> None:
    """Write one `.mcap` file with `image`, `camera_info`, `depth` (32FC1) if there is depth,
    `ground_truth/labels` (mono16) and `ground_truth/detections`.

    jpeg_quality (1 to 100): write `image/compressed` as JPEG, `ground_truth/labels/compressed` as
    lossless PNG, and no depth. Raises MissingExtraError without `rosbags`.
    """
    from instaseg_ros.recordings.bags import BagWriter

    writer = BagWriter(path, overwrite)
    try:
        for number, sample in enumerate(_samples(dataset, frames)):
            messages = _messages(writer.msgs, sample, dataset.class_names, jpeg_quality)
            for topic, (msgtype, message) in messages.items():
                if number == 0:
                    writer.add_topic(topic, msgtype)
                writer.write(topic, message, sample.frame.stamp_ns)
        writer.close()
    except BaseException:
        writer.discard()
        raise


def _samples(dataset: Dataset, frames: Sequence[int] | None) -> Iterator[Sample]:
    indices = range(len(dataset)) if frames is None else frames
    if len(indices) == 0:
        raise InputError("frames: expected at least one frame to write, got none")
    for index in tqdm(indices, unit="frame", disable=None):
        yield dataset[index]


def _described(sample: Sample) -> dict[str, Any]:
    described: dict[str, Any] = {
        "stamp_ns": sample.frame.stamp_ns,
        "ids": sample.ids.tolist(),
        "class_ids": sample.class_ids.tolist(),
    }
    if sample.frame.intrinsics is not None:
        described["intrinsics"] = sample.frame.intrinsics.tolist()
    if sample.pose is not None:
        described["pose"] = sample.pose.tolist()
    return described


def _messages(
    msgs: Any, sample: Sample, class_names: Sequence[str], jpeg_quality: int | None
) -> dict[str, tuple[str, Any]]:
    """Type and message by topic."""
    from instaseg_ros.recordings import result_messages
    from instaseg_ros.recordings.message_types import make_header

    frame = sample.frame
    header = make_header(frame.stamp_ns, frame.frame_id)
    image, compressed = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
    detections = result_messages.detections_message(msgs, header, _instances(sample), class_names)
    made: dict[str, tuple[str, Any]] = {}
    if frame.intrinsics is not None:
        info = _camera_info(msgs, header, frame.image.shape, frame.intrinsics)
        made["/camera_info"] = "sensor_msgs/msg/CameraInfo", info
    made["/ground_truth/detections"] = "vision_msgs/msg/Detection2DArray", detections
    if jpeg_quality is None:
        made["/ground_truth/labels"] = (
            image,
            result_messages.labels_message(msgs, header, sample.labels),
        )
        if frame.depth is not None:
            made["/depth"] = image, _depth_message(msgs, header, frame.depth)
        made["/image"] = image, result_messages.overlay_message(msgs, header, frame.image)
        return made
    png = _encoded(".png", sample.labels, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    jpeg = _encoded(".jpg", frame.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality])
    made["/ground_truth/labels/compressed"] = (
        compressed,
        msgs.CompressedImage(header=header, format="mono16; png compressed mono16", data=png),
    )
    made["/image/compressed"] = (
        compressed,
        msgs.CompressedImage(header=header, format="rgb8; jpeg compressed bgr8", data=jpeg),
    )
    return made


def _instances(sample: Sample) -> Instances:
    """The truth in the form of a result, with score 1."""
    boxes = np.zeros((len(sample.ids), 4), np.float32)
    for i, label in enumerate(sample.ids):
        ys, xs = np.nonzero(sample.labels == label)
        boxes[i] = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
    count = len(sample.ids)
    return Instances(
        labels=sample.labels,
        ids=sample.ids,
        class_ids=sample.class_ids,
        scores=np.ones(count, np.float32),
        boxes_xyxy=boxes,
        centers_xy=(boxes[:, :2] + boxes[:, 2:]) * np.float32(0.5),
        bandwidths=np.zeros((count, 2), np.float32),
    )


def _camera_info(msgs: Any, header: Any, shape: tuple[int, ...], matrix: np.ndarray) -> Any:
    projection = np.zeros((3, 4))
    projection[:, :3] = matrix
    return msgs.CameraInfo(
        header=header,
        height=shape[0],
        width=shape[1],
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=matrix.ravel(),
        r=np.eye(3).ravel(),
        p=projection.ravel(),
    )


def _depth_message(msgs: Any, header: Any, depth: np.ndarray) -> Any:
    little = np.ascontiguousarray(depth, "<f4")
    return msgs.Image(
        header=header,
        height=depth.shape[0],
        width=depth.shape[1],
        encoding="32FC1",
        step=depth.shape[1] * 4,
        data=msgs.bytes(little),
    )


def _encoded(suffix: str, image: np.ndarray, options: list[int]) -> np.ndarray:
    done, data = cv2.imencode(suffix, image, options)
    if not done:
        raise InputError(f"OpenCV cannot encode {image.dtype} {image.shape} as {suffix}")
    return data.ravel()


def _write_png(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_encoded(".png", image, []).tobytes())
