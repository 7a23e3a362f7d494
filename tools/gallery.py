#!/usr/bin/env python3
"""Makes the pictures of docs/gallery.md and of the weights' cards; each stands there with its
command.

    gallery.py rig OUT.mcap                      a synthetic street through three cameras
    gallery.py boxes IN.mcap LABELLED.mcap OUT   3D boxes in the image, and seen from above
    gallery.py sheet OUT IN[#FRAME][@TOPIC] ...  frames of pictures, videos and recordings as one
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from instaseg_ros.frames import Frame
from instaseg_ros.recordings import result_messages
from instaseg_ros.recordings.bags import BagWriter, deserialize
from instaseg_ros.recordings.image_messages import image_to_labels
from instaseg_ros.recordings.message_types import make_header, stamp_ns
from instaseg_ros.recordings.sources import open_source
from instaseg_ros.recordings.storage import open_recording
from instaseg_ros.synthetic_street import Camera, make_scene, render
from instaseg_ros.visualization import color, contact_sheet

Picture = NDArray[np.uint8]  # (H, W, 3) RGB
TOPICS = result_messages.TOPICS | result_messages.DEPTH_TOPICS

RIG = {"left": -0.95, "front": 0.0, "right": 0.95}  # radians to the right
RIG_SEED, RIG_FRAMES, RIG_SIZE = (2, 0, 0, 98), 8, (320, 480)  # the demo's street
ABOVE_M, ASIDE_M = 50.0, 20.0  # of the view from above: ahead, and to each side
LEAST_NAMED_PX = 60  # height of a box that says its distance
INK, PAPER, GRID = (40, 44, 50), (255, 255, 255), (225, 228, 232)
# Corners of a box (as signs) that an edge joins.
CORNERS = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
EDGES = [(i, j) for i in range(8) for j in range(i) if (CORNERS[i] != CORNERS[j]).sum() == 1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True)
    rig = verbs.add_parser("rig")
    rig.add_argument("out", type=Path)
    rig.set_defaults(run=lambda args: write_rig(args.out))
    boxes = verbs.add_parser("boxes")
    boxes.add_argument("recording", type=Path)
    boxes.add_argument("labelled", type=Path)
    boxes.add_argument("out", type=Path)
    boxes.add_argument("--frame", type=int, default=0)
    boxes.set_defaults(run=run_boxes)
    sheet = verbs.add_parser("sheet")
    sheet.add_argument("out", type=Path)
    sheet.add_argument("inputs", nargs="+", metavar="IN[#FRAME][@TOPIC]")
    sheet.add_argument("--columns", type=int, default=1)
    sheet.add_argument("--crop", type=int, nargs=4, metavar=("LEFT", "TOP", "WIDTH", "HEIGHT"))
    sheet.set_defaults(run=run_sheet)
    for verb in (boxes, sheet):
        verb.add_argument("--width", type=int, default=1000, help="of the picture, pixels")
        verb.add_argument("--quality", type=int, default=60, help="of a WebP, 0 to 100")
    args = parser.parse_args()
    args.run(args)


def write_rig(out: Path) -> None:
    """A recording with left/image, front/image and right/image."""
    writer = BagWriter(out, overwrite=True)
    scene = make_scene(RIG_SEED, RIG_FRAMES / 10)
    camera = Camera.of_size(*RIG_SIZE)
    for name in RIG:
        writer.add_topic(f"/{name}/image", "sensor_msgs/msg/Image")
    for step in range(RIG_FRAMES):
        stamp = step * 100_000_000
        for name, turn in RIG.items():
            turned = replace(scene, ego={**scene.ego, "yaw": scene.ego["yaw"] + turn})
            view = render(turned, step / 10, camera, grain_seed=len(name))
            header = make_header(stamp, f"{name}_optical_frame")
            message = result_messages.overlay_message(writer.msgs, header, view.image)
            writer.write(f"/{name}/image", message, stamp)
    writer.close()


def run_boxes(args: argparse.Namespace) -> None:
    frame = next(islice(open_source(args.recording, depth="/depth"), args.frame, None))
    said = messages_at(args.labelled, frame.stamp_ns, ("detections_3d", "labels"))
    found = said["detections_3d"].detections
    image = with_boxes(frame, found)
    above = from_above(frame, image_to_labels(said["labels"]), found)
    save(args.out, np.hstack([image, above]), args.width, args.quality)


def messages_at(path: Path, moment_ns: int, names: Sequence[str]) -> dict[str, Any]:
    """The node's messages with this stamp, by the output's name."""
    topics = {f"/{result_messages.NODE_NAME}/{name}": name for name in names}
    found = {}
    for raw in open_recording(path).messages(list(topics)):
        name = topics[raw.topic]
        message = deserialize(raw, TOPICS[name].type)
        if stamp_ns(message.header) == moment_ns:
            found[name] = message
    return found


def with_boxes(frame: Frame, detections: Sequence[Any]) -> Picture:
    picture, matrix = frame.image.copy(), np.asarray(frame.intrinsics)
    texts = []
    for detection in sorted(detections, key=lambda d: -d.bbox.center.position.z):
        corners = center_of(detection) + CORNERS * size_of(detection) / 2
        corners[:, 2] = np.maximum(corners[:, 2], 0.5)
        shown = corners @ matrix.T
        pixels = (shown[:, :2] / shown[:, 2:]).astype(int)
        ink = color(int(detection.id))
        for i, j in EDGES:
            cv2.line(picture, pixels[i].tolist(), pixels[j].tolist(), ink, 2, cv2.LINE_AA)
        if np.ptp(pixels[:, 1]) > LEAST_NAMED_PX:
            texts.append((f"{detection.bbox.center.position.z:.0f} m", pixels.min(0), ink))
    for text, (left, top), ink in texts:
        write(picture, text, (int(left), int(top) - 5), ink)
    return picture


def from_above(frame: Frame, labels: NDArray[np.uint16], detections: Sequence[Any]) -> Picture:
    """As high as the image: what the camera sees of the objects, the camera below in the middle."""
    height = len(labels)
    scale = height / ABOVE_M
    picture = np.full((height, round(2 * ASIDE_M * scale), 3), PAPER, np.uint8)

    def pixel(x: float, z: float) -> tuple[int, int]:
        return round((x + ASIDE_M) * scale), round(height - z * scale)

    for metres in range(10, round(ABOVE_M), 10):
        cv2.line(picture, pixel(-ASIDE_M, metres), pixel(ASIDE_M, metres), GRID)
        write(picture, f"{metres} m", (4, pixel(0, metres)[1] - 4), INK)
    matrix, depth = np.asarray(frame.intrinsics), np.asarray(frame.depth)
    ids = [int(detection.id) for detection in detections]
    for row, column in np.argwhere(np.isin(labels, ids) & (depth > 0)):
        z = depth[row, column]
        across, down = pixel((column - matrix[0, 2]) / matrix[0, 0] * z, z)
        if 0 <= across < picture.shape[1] and 0 <= down < height:
            picture[down, across] = color(int(labels[row, column]))
    for detection in detections:
        (x, _, z), (wide, _, deep) = center_of(detection), size_of(detection)
        ink = color(int(detection.id))
        near, far = pixel(x - wide / 2, z - deep / 2), pixel(x + wide / 2, z + deep / 2)
        cv2.rectangle(picture, near, far, ink, 2, cv2.LINE_AA)
        write(picture, detection.results[0].hypothesis.class_id, (near[0], far[1] - 4), ink)
    return picture


def center_of(detection: Any) -> NDArray[np.float64]:
    place = detection.bbox.center.position
    return np.array([place.x, place.y, place.z])


def size_of(detection: Any) -> NDArray[np.float64]:
    size = detection.bbox.size
    return np.array([size.x, size.y, size.z])


def write(picture: Picture, text: str, place: tuple[int, int], ink: tuple[int, ...]) -> None:
    for thickness, shade in ((3, PAPER), (1, tuple(v // 2 for v in ink))):
        cv2.putText(picture, text, place, 0, 0.45, shade, thickness, cv2.LINE_AA)


def run_sheet(args: argparse.Namespace) -> None:
    pictures = [picture_of(one) for one in args.inputs]
    if args.crop:
        left, top, width, height = args.crop
        pictures = [one[top : top + height, left : left + width] for one in pictures]
    framed = [np.pad(one, ((2, 2), (2, 2), (0, 0)), constant_values=255) for one in pictures]
    save(args.out, contact_sheet(framed, args.columns), args.width, args.quality)


def picture_of(said: str) -> Picture:
    """said: PATH, PATH#FRAME, PATH@TOPIC or PATH#FRAME@TOPIC."""
    found = re.fullmatch(r"([^#@]+)(?:#(\d+))?(?:@(.+))?", said)
    if found is None:
        raise SystemExit(f"expected IN[#FRAME][@TOPIC], got {said!r}")
    path, number, topic = found.groups()
    frames: Iterator[Frame] = iter(open_source(path, topic))
    return next(islice(frames, int(number or 0), None)).image


def save(out: Path, picture: Picture, width: int, quality: int) -> None:
    height = round(picture.shape[0] * width / picture.shape[1])
    small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(out), small[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, quality])
    print(f"{out}: {width} x {height}, {out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
