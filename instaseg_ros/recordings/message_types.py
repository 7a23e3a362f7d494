"""Defines message types for bags without ROS: those that `rosbags` lacks, and constructors."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.errors import MissingExtraError

try:
    from rosbags.interfaces import Nodetype
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore
except ModuleNotFoundError as error:
    raise MissingExtraError("rosbags", "pip", "reading and writing bags") from error

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore

VISION_MSGS = {
    "Point2D": "float64 x\nfloat64 y",
    "Pose2D": "vision_msgs/Point2D position\nfloat64 theta",
    "BoundingBox2D": "vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y",
    "BoundingBox3D": "geometry_msgs/Pose center\ngeometry_msgs/Vector3 size",
    "ObjectHypothesis": "string class_id\nfloat64 score",
    "ObjectHypothesisWithPose": "vision_msgs/ObjectHypothesis hypothesis\n"
    "geometry_msgs/PoseWithCovariance pose",
    "Detection2D": "std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n"
    "vision_msgs/BoundingBox2D bbox\nstring id",
    "Detection3D": "std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n"
    "vision_msgs/BoundingBox3D bbox\nstring id",
    "Detection2DArray": "std_msgs/Header header\nvision_msgs/Detection2D[] detections",
    "Detection3DArray": "std_msgs/Header header\nvision_msgs/Detection3D[] detections",
    "VisionClass": "uint16 class_id\nstring class_name",
    "LabelInfo": "std_msgs/Header header\nvision_msgs/VisionClass[] class_map\nfloat32 threshold",
}
# The fields of a drawing over an image and their types, as in foxglove_msgs since March 2026 (MIT
# licence, Copyright Foxglove Technologies Inc). Readers go by names, and by what is in the file.
FOXGLOVE_MSGS = {
    "Color": "float64 r\nfloat64 g\nfloat64 b\nfloat64 a",
    "Point2": "float64 x\nfloat64 y",
    "KeyValuePair": "string key\nstring value",
    "CircleAnnotation": "builtin_interfaces/Time timestamp\nfoxglove_msgs/Point2 position\n"
    "float64 diameter\nfloat64 thickness\nfoxglove_msgs/Color fill_color\n"
    "foxglove_msgs/Color outline_color\nfoxglove_msgs/KeyValuePair[] metadata",
    "PointsAnnotation": "builtin_interfaces/Time timestamp\nuint8 UNKNOWN=0\nuint8 POINTS=1\n"
    "uint8 LINE_LOOP=2\nuint8 LINE_STRIP=3\nuint8 LINE_LIST=4\nuint8 type\n"
    "foxglove_msgs/Point2[] points\nfoxglove_msgs/Color outline_color\n"
    "foxglove_msgs/Color[] outline_colors\nfoxglove_msgs/Color fill_color\n"
    "float64 thickness\nfoxglove_msgs/KeyValuePair[] metadata",
    "TextAnnotation": "builtin_interfaces/Time timestamp\nfoxglove_msgs/Point2 position\n"
    "string text\nfloat64 font_size\nfoxglove_msgs/Color text_color\n"
    "foxglove_msgs/Color background_color\nfoxglove_msgs/KeyValuePair[] metadata",
    "ImageAnnotations": "builtin_interfaces/Time timestamp\n"
    "foxglove_msgs/CircleAnnotation[] circles\nfoxglove_msgs/PointsAnnotation[] points\n"
    "foxglove_msgs/TextAnnotation[] texts\nfoxglove_msgs/KeyValuePair[] metadata",
}
DEFINED_HERE = {"vision_msgs": VISION_MSGS, "foxglove_msgs": FOXGLOVE_MSGS}
COMMON = (
    "builtin_interfaces/msg/Time",
    "geometry_msgs/msg/Point",
    "geometry_msgs/msg/Pose",
    "geometry_msgs/msg/PoseWithCovariance",
    "geometry_msgs/msg/Quaternion",
    "geometry_msgs/msg/Vector3",
    "sensor_msgs/msg/CameraInfo",
    "sensor_msgs/msg/CompressedImage",
    "sensor_msgs/msg/Image",
    "sensor_msgs/msg/PointCloud2",
    "sensor_msgs/msg/PointField",
    "std_msgs/msg/ColorRGBA",
    "std_msgs/msg/Header",
    "visualization_msgs/msg/Marker",
    "visualization_msgs/msg/MarkerArray",
)


@cache
def typestore() -> Typestore:
    """The types of ROS 2 Jazzy and vision_msgs 4.1, which are the same in every distribution since
    Humble as far as they are read and written here, and what of foxglove_msgs is written."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types: dict[str, Any] = {}
    for package, texts in DEFINED_HERE.items():
        for name, text in texts.items():
            types.update(get_types_from_msg(text, f"{package}/msg/{name}"))
    store.register(types)
    return store


def full_type(name: str) -> str:
    """`sensor_msgs/Image`, as in recordings of 2019, -> `sensor_msgs/msg/Image`."""
    package, slash, rest = name.partition("/")
    return f"{package}/msg/{rest}" if slash and "/" not in rest else name


@cache
def message_classes() -> SimpleNamespace:
    """Constructors by class name (`Image`, `Detection2D`, ...) that fill omitted fields with zeros
    (a rotation: with the identity) like rclpy's, and `bytes(array)` for uint8[] fields."""
    defined = (f"{package}/msg/{n}" for package, texts in DEFINED_HERE.items() for n in texts)
    names = [*COMMON, *defined]
    made = {name.rpartition("/")[2]: _constructor(name) for name in names}
    return SimpleNamespace(**made, bytes=_bytes)


def make_header(stamp_ns: int, frame_id: str) -> Any:
    """A std_msgs/Header with a stamp in nanoseconds."""
    msgs = message_classes()
    seconds, nanoseconds = split_stamp(stamp_ns)
    return msgs.Header(stamp=msgs.Time(sec=seconds, nanosec=nanoseconds), frame_id=frame_id)


def split_stamp(stamp_ns: int) -> tuple[int, int]:
    """Seconds and nanoseconds of a builtin_interfaces/Time; the nearest possible one if the seconds
    do not fit into 32 bits, which out-of-range nanoseconds can cause."""
    earliest_ns, latest_ns = -(1 << 31) * 1_000_000_000, (1 << 31) * 1_000_000_000 - 1
    return divmod(min(max(stamp_ns, earliest_ns), latest_ns), 1_000_000_000)


def stamp_ns(header: Any) -> int:
    """Nanoseconds of a std_msgs/Header's stamp."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def _bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    return array.reshape(-1).view(np.uint8)


@cache
def _constructor(name: str) -> Callable[..., Any]:
    store = typestore()
    zeros = {field: _zero(kind) for field, kind in store.fielddefs[name][1]}
    if name == "geometry_msgs/msg/Quaternion":
        zeros["w"] = lambda: 1.0  # its definition's default: no rotation
    cls = store.types[name]

    def construct(**fields: Any) -> Any:
        for field in zeros.keys() - fields.keys():
            fields[field] = zeros[field]()
        return cls(**fields)

    return construct


def _zero(kind: Any) -> Callable[[], Any]:
    """A function that makes a field's zero value; `kind` is rosbags' description of its type."""
    node, detail = kind
    if node == Nodetype.NAME:
        return _constructor(detail)
    if node == Nodetype.BASE:
        base = detail[0]
        return {"string": str, "bool": bool}.get(base, float if base.startswith("float") else int)
    (inner, inner_detail), length = detail
    count = length if node == Nodetype.ARRAY else 0
    if inner == Nodetype.BASE and inner_detail[0] != "string":
        return lambda: np.zeros(count, inner_detail[0])
    make = _zero((inner, inner_detail))
    return lambda: [make() for _ in range(count)]
