"""Converts results to ROS messages, for the node and for bags.

Each function takes `msgs`, a namespace of message classes with keyword constructors whose omitted
fields get their type's default (rclpy's classes, or `message_types.message_classes()` without ROS),
and the camera image's `header`, which every message carries unchanged. Besides the classes used
below, `msgs` has `bytes(array)`: the fastest value of a `uint8[]` field from a C-contiguous array.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from instaseg_ros.config import file
from instaseg_ros.frames import Frame, Instances, Locations
from instaseg_ros.rays import directions
from instaseg_ros.visualization import COLORS, color
from instaseg_ros.visualization.names import ink_on

NODE_NAME = file.NODE_NAME
# As compressed_image_transport writes it, from Humble on: behind the last space it names the
# encoding of colour images only.
COMPRESSED_FORMAT = "mono16; png compressed "


class Topic(NamedTuple):
    """Message type of an output, whether late subscribers get the last message, and whether a
    recording that `instaseg` writes has it."""

    type: str
    latched: bool = False
    recorded: bool = True


# Under the node's own name: `~/labels` is /instaseg_node/labels, in a recording too.
TOPICS = {
    "labels": Topic("sensor_msgs/msg/Image"),
    "labels/compressed": Topic("sensor_msgs/msg/CompressedImage", recorded=False),
    "detections": Topic("vision_msgs/msg/Detection2DArray"),
    "label_info": Topic("vision_msgs/msg/LabelInfo", latched=True),
    "overlay": Topic("sensor_msgs/msg/Image"),
    "markers": Topic("visualization_msgs/msg/MarkerArray"),
}
# Besides these, where there is depth.
DEPTH_TOPICS = {
    "detections_3d": Topic("vision_msgs/msg/Detection3DArray"),
    "points": Topic("sensor_msgs/msg/PointCloud2"),
}
# Besides these, what the network thinks, as pictures of `view.panels`: a node has those of its
# method.
DEBUG_TOPICS = {
    f"debug/{panel}": Topic("sensor_msgs/msg/Image", recorded=False)
    for panel in ("seed", "offset", "votes", "bandwidth", "embedding", "clusters")
}
# In a recording only, as no robot must have foxglove_msgs for the node.
RECORDED_TOPICS = {"annotations": Topic("foxglove_msgs/msg/ImageAnnotations")}
UNKNOWN_TURN = math.pi**2 / 3  # rad^2, variance of an angle of which nothing is known
POINT = np.dtype(
    {
        "names": ["x", "y", "z", "rgb", "instance"],
        "formats": ["<f4", "<f4", "<f4", "<u4", "<u4"],
    }
)
FLOAT32, UINT32 = 7, 6  # of sensor_msgs/PointField
LINE_LOOP = 2  # of foxglove_msgs/PointsAnnotation


def below(camera: str, topic: str) -> str:
    """A camera's topic: below its name, if it has one."""
    return f"{camera}/{topic}" if camera else topic


def labels_message(msgs: Any, header: Any, labels: NDArray[np.uint16]) -> Any:
    """sensor_msgs/Image `mono16`: pixel = instance id, 0 = background."""
    little = np.ascontiguousarray(labels, "<u2")
    return _image(msgs, header, "mono16", little, labels.shape[1] * 2)


def compressed_labels_message(msgs: Any, header: Any, labels: NDArray[np.uint16]) -> Any:
    """sensor_msgs/CompressedImage: the same as a PNG, in the layout of image_transport.

    Only without settings do all versions of OpenCV choose one filter for all rows and look for runs
    only; that is fastest, and flat images become smaller than by looking for repetitions.
    """
    _, png = cv2.imencode(".png", np.ascontiguousarray(labels, np.uint16))
    return msgs.CompressedImage(header=header, format=COMPRESSED_FORMAT, data=msgs.bytes(png))


def overlay_message(msgs: Any, header: Any, picture: NDArray[np.uint8]) -> Any:
    """sensor_msgs/Image `rgb8` from a (H, W, 3) uint8 RGB picture."""
    packed = np.ascontiguousarray(picture)
    return _image(msgs, header, "rgb8", packed, picture.shape[1] * 3)


def detections_message(
    msgs: Any, header: Any, instances: Instances, class_names: Sequence[str]
) -> Any:
    """vision_msgs/Detection2DArray, highest score first: `id` is the decimal label value, the only
    result has class name and score, the box is in pixels."""
    best_first = np.argsort(-instances.scores, kind="stable")
    detections = [
        msgs.Detection2D(
            header=header,
            results=[
                msgs.ObjectHypothesisWithPose(
                    hypothesis=msgs.ObjectHypothesis(class_id=class_names[class_id], score=score)
                )
            ],
            bbox=msgs.BoundingBox2D(
                center=msgs.Pose2D(
                    position=msgs.Point2D(x=(left + right) / 2, y=(top + bottom) / 2)
                ),
                size_x=right - left,
                size_y=bottom - top,
            ),
            id=str(label),
        )
        for label, class_id, score, (left, top, right, bottom) in zip(
            instances.ids[best_first].tolist(),
            instances.class_ids[best_first].tolist(),
            instances.scores[best_first].tolist(),
            instances.boxes_xyxy[best_first].tolist(),
            strict=True,
        )
    ]
    return msgs.Detection2DArray(header=header, detections=detections)


def detections_3d_message(
    msgs: Any, header: Any, instances: Instances, locations: Locations, class_names: Sequence[str]
) -> Any:
    """vision_msgs/Detection3DArray of the located instances, highest score first: `id`, class name
    and score are those in Detection2DArray, the result's pose is the centroid of what is visible
    with its covariance, and the box is around what is visible.

    Both are turned like the camera: nothing is known of the object's own axes.
    """
    best_first = np.argsort(-instances.scores[locations.rows], kind="stable")
    detections = []
    for place in best_first.tolist():
        row = int(locations.rows[place])
        covariance = np.zeros((6, 6))
        covariance[:3, :3] = locations.covariances[place]
        covariance[3:, 3:] = UNKNOWN_TURN * np.eye(3)
        hypothesis = msgs.ObjectHypothesis(
            class_id=class_names[instances.class_ids[row]], score=float(instances.scores[row])
        )
        centroid = msgs.PoseWithCovariance(
            pose=msgs.Pose(position=_point(msgs, locations.centroids[place])),
            covariance=covariance.reshape(-1),
        )
        x, y, z = locations.box_sizes[place].tolist()
        box = msgs.BoundingBox3D(
            center=msgs.Pose(position=_point(msgs, locations.box_centers[place])),
            size=msgs.Vector3(x=x, y=y, z=z),
        )
        detections.append(
            msgs.Detection3D(
                header=header,
                results=[msgs.ObjectHypothesisWithPose(hypothesis=hypothesis, pose=centroid)],
                bbox=box,
                id=str(int(locations.ids[place])),
            )
        )
    return msgs.Detection3DArray(header=header, detections=detections)


def points_message(
    msgs: Any, header: Any, points: NDArray[np.float32], ids: NDArray[np.uint16]
) -> Any:
    """sensor_msgs/PointCloud2, unordered: points (N, 3) in metres, the instance of each by its id
    (N,), and that one's colour as RViz reads it."""
    made = np.empty(len(points), POINT)
    made["x"], made["y"], made["z"] = points.T
    made["instance"] = ids
    red, green, blue = COLORS[ids].T.astype(np.uint32)
    made["rgb"] = red << 16 | green << 8 | blue
    kinds = [FLOAT32] * 4 + [UINT32]  # RViz expects the bytes of rgb in a float
    names = zip(POINT.names or (), kinds, strict=True)
    return msgs.PointCloud2(
        header=header,
        height=1,
        width=len(made),
        fields=[
            msgs.PointField(name=name, offset=4 * i, datatype=kind, count=1)
            for i, (name, kind) in enumerate(names)
        ],
        is_bigendian=False,
        point_step=POINT.itemsize,
        row_step=POINT.itemsize * len(made),
        data=msgs.bytes(made.view(np.uint8)),
        is_dense=True,
    )


def label_info_message(msgs: Any, header: Any, class_names: Sequence[str]) -> Any:
    """vision_msgs/LabelInfo: class names by index. The score threshold is 0, as no instance is left
    out for its score (`decode.seed_threshold` applies to the seed's score, which is only a factor).
    """
    class_map = [
        msgs.VisionClass(class_id=i, class_name=name) for i, name in enumerate(class_names)
    ]
    return msgs.LabelInfo(header=header, class_map=class_map, threshold=0.0)


def markers_message(
    msgs: Any,
    header: Any,
    instances: Instances,
    class_names: Sequence[str],
    frame: Frame | None = None,
    locations: Locations | None = None,
) -> Any:
    """visualization_msgs/MarkerArray: outline (namespace `outline`) and name (`name`) of each
    instance, after a marker that deletes the previous image's.

    Drawn in the camera's optical frame, where the intrinsics of `frame` place each pixel; without
    them, a horizontal field of view of 53 degrees is assumed. Located instances stand at their
    distance, which is added to the name, with the box around what is visible (`box`); others on the
    image plane at 1 m, hence in the right direction.
    """
    height, width = instances.labels.shape
    intrinsics = np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]], float)
    distortion = None
    if frame is not None and frame.intrinsics is not None:
        intrinsics, distortion = frame.intrinsics, frame.distortion
    pixel_m = float(1 / intrinsics[0, 0])

    def points(pixels: NDArray[np.float64], away_m: float) -> list[Any]:
        rays = directions(pixels, intrinsics, distortion) * away_m
        return [msgs.Point(x=x, y=y, z=away_m) for x, y in rays.tolist()]

    markers = [msgs.Marker(header=header, action=3)]  # DELETEALL
    places = {} if locations is None else {int(row): k for k, row in enumerate(locations.rows)}
    for i, label in enumerate(instances.ids.tolist()):
        place = places.get(i)
        away_m, name = 1.0, f"{class_names[instances.class_ids[i]]} {label}"
        if locations is not None and place is not None:
            away_m = float(locations.distances_m[place])
            name += f", {away_m:.1f} m"
            markers.append(_box_marker(msgs, header, label, locations, place))
        tint = [channel / 255 for channel in color(label)]
        look = {
            "header": header,
            "id": label,
            "color": msgs.ColorRGBA(r=tint[0], g=tint[1], b=tint[2], a=1.0),
        }
        segments = _outline(instances.labels, label, instances.boxes_xyxy[i])
        markers.append(
            msgs.Marker(
                **look,
                ns="outline",
                type=5,  # LINE_LIST
                scale=msgs.Vector3(x=2 * pixel_m * away_m),
                points=points(segments, away_m),
            )
        )
        left, top, right, _ = instances.boxes_xyxy[i].tolist()
        above = np.array([[(left + right) / 2, top - 10]])
        markers.append(
            msgs.Marker(
                **look,
                ns="name",
                type=9,  # TEXT_VIEW_FACING
                pose=msgs.Pose(position=points(above, away_m)[0]),
                scale=msgs.Vector3(z=16 * pixel_m * away_m),
                text=name,
            )
        )
    return msgs.MarkerArray(markers=markers)


def annotations_message(
    msgs: Any, header: Any, instances: Instances, class_names: Sequence[str]
) -> Any:
    """foxglove_msgs/ImageAnnotations, for Foxglove to draw over the camera's image: the box, the
    outlines and the name of each instance, with id and score, which are also the box's metadata.

    Coordinates are pixels from the image's upper left corner, where its first pixel begins.
    """
    stamp, font_px = header.stamp, max(12.0, instances.labels.shape[0] / 40)
    loops, texts = [], []
    for i, label in enumerate(instances.ids.tolist()):
        name, score = class_names[instances.class_ids[i]], f"{instances.scores[i]:.2f}"
        left, top, right, bottom = instances.boxes_xyxy[i].tolist()
        ink = _foxglove_color(msgs, color(label))
        box = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
        about = {"class": name, "id": str(label), "score": score}
        contours = _contours(instances.labels, label, instances.boxes_xyxy[i])
        loops.append(_loop(msgs, stamp, box, ink, 1.0, about))
        loops += [_loop(msgs, stamp, contour + 0.5, ink, 2.0) for contour in contours]
        texts.append(
            msgs.TextAnnotation(
                timestamp=stamp,
                position=msgs.Point2(x=left, y=top),
                text=" ".join(about.values()),
                font_size=font_px,
                text_color=_foxglove_color(msgs, ink_on(color(label))),
                background_color=ink,
            )
        )
    return msgs.ImageAnnotations(timestamp=stamp, points=loops, texts=texts)


def _loop(
    msgs: Any,
    stamp: Any,
    corners: NDArray[np.floating],
    ink: Any,
    thickness_px: float,
    about: Mapping[str, str] = MappingProxyType({}),
) -> Any:
    return msgs.PointsAnnotation(
        timestamp=stamp,
        type=LINE_LOOP,
        points=[msgs.Point2(x=x, y=y) for x, y in corners.tolist()],
        outline_color=ink,
        thickness=thickness_px,
        metadata=[msgs.KeyValuePair(key=key, value=value) for key, value in about.items()],
    )


def _foxglove_color(msgs: Any, rgb: tuple[int, int, int]) -> Any:
    red, green, blue = (channel / 255 for channel in rgb)
    return msgs.Color(r=red, g=green, b=blue, a=1.0)


def _box_marker(msgs: Any, header: Any, label: int, locations: Locations, place: int) -> Any:
    red, green, blue = (channel / 255 for channel in color(label))
    # RViz warns of cubes without a thickness.
    x, y, z = np.maximum(locations.box_sizes[place], 0.01).tolist()
    return msgs.Marker(
        header=header,
        ns="box",
        id=label,
        type=1,  # CUBE
        pose=msgs.Pose(position=_point(msgs, locations.box_centers[place])),
        scale=msgs.Vector3(x=x, y=y, z=z),
        color=msgs.ColorRGBA(r=red, g=green, b=blue, a=0.3),
    )


def _point(msgs: Any, xyz: NDArray[np.float64]) -> Any:
    x, y, z = xyz.tolist()
    return msgs.Point(x=x, y=y, z=z)


def _image(msgs: Any, header: Any, encoding: str, pixels: NDArray[Any], step: int) -> Any:
    return msgs.Image(
        header=header,
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=step,
        data=msgs.bytes(pixels),
    )


def _outline(
    labels: NDArray[np.uint16], label: int, box_xyxy: NDArray[np.float32]
) -> NDArray[np.float64]:
    """(2 S, 2) start and end pixel of each line around the instance and all its parts."""
    lines = [
        np.stack([corners, np.roll(corners, -1, axis=0)], 1).reshape(-1, 2)
        for corners in _contours(labels, label, box_xyxy)
    ]
    return np.concatenate([*lines, np.empty((0, 2))])


def _contours(
    labels: NDArray[np.uint16], label: int, box_xyxy: NDArray[np.float32]
) -> list[NDArray[np.float64]]:
    """(S, 2) x and y of the outermost pixels around each part of the instance."""
    height, width = labels.shape
    left, top = (max(0, int(side)) for side in np.floor(box_xyxy[:2]))
    right, bottom = min(width, int(box_xyxy[2]) + 1), min(height, int(box_xyxy[3]) + 1)
    mask = (labels[top:bottom, left:right] == label).view(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    corner = np.array([left, top], float)
    return [cv2.approxPolyDP(contour, 1.0, True)[:, 0] + corner for contour in contours]
