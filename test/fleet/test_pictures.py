"""Which pictures of a recording are kept, and what is on them."""

from __future__ import annotations

import json
import re

import cv2
import numpy as np

from instaseg_ros.fleet import pictures
from instaseg_ros.fleet.pictures import EVENLY, WORST, Picture, Pictures, picture_of


def kept(errors: list[int], per_second: int) -> tuple[list[int], int]:
    """The frames of which pictures are kept, and how many were drawn."""
    chosen, drawn = Pictures(), []
    for frame, count in enumerate(errors):

        def draw(frame: int = frame) -> Picture:
            drawn.append(frame)
            return Picture(b"", f"{frame}")

        chosen.offer(frame, frame // per_second, count, draw)
    found = chosen.kept()
    assert [int(one.outlines) for one in found.values()] == list(found)
    return list(found), len(drawn)


def test_frames_spread_over_a_recording_are_kept_however_long_it_is() -> None:
    for count in (1, 5, 2 * EVENLY, 2 * EVENLY + 1, 1000, 4321):
        found, drawn = kept([0] * count, 10)
        steps = set(np.diff(found).tolist())
        assert len(steps) <= 1 and found[0] == 0
        assert min(count, EVENLY) <= len(found) <= 2 * EVENLY
        assert count - found[-1] <= max(steps, default=1)
        assert drawn <= 2 * EVENLY * (1 + int(np.log2(count) + 1))


def test_the_worst_frame_of_each_of_the_worst_seconds_is_kept() -> None:
    errors = np.random.default_rng(0).permutation(1000)
    found, _ = kept(errors.tolist(), 10)
    seconds = errors.reshape(-1, 10)
    worst = np.argsort(-seconds.max(1))[:WORST]
    wanted = set((10 * worst + seconds[worst].argmax(1)).tolist())
    assert wanted <= set(found) and len(found) <= WORST + 2 * EVENLY
    assert all(frame in wanted or frame % 32 == 0 for frame in found)


def test_the_first_of_equals_is_kept() -> None:
    found, _ = kept([*[0] * 41, 3, 0, 3], 100)
    assert 41 in found and 43 not in found


def rasterized(path: str, size: tuple[int, int]) -> np.ndarray:
    """The pixels inside a path of these pictures, whose holes are even and odd."""
    inside = np.zeros(size[::-1], np.uint8)
    for part in re.findall(r"M(-?\d+) (-?\d+)(?:l([^z]*)|h0)z", path):
        moves = np.array(part[2].split(), int).reshape(-1, 2)
        points = np.cumsum([[int(part[0]), int(part[1])], *moves.tolist()], axis=0)
        one = np.zeros_like(inside)
        cv2.fillPoly(one, [points.astype(np.int32)], 1)
        inside ^= one
    return inside > 0


def test_outlines_are_those_of_the_objects() -> None:
    image = np.full((720, 1280, 3), (200, 60, 20), np.uint8)
    labels = np.zeros((720, 1280), np.uint16)
    cv2.circle(labels, (300, 300), 120, 7, -1)
    cv2.rectangle(labels, (700, 100), (1000, 600), 65535, -1)
    cv2.rectangle(labels, (800, 200), (900, 500), 0, -1)  # a hole
    labels[5, 5] = 9  # too small for the picture
    labels[700:703, 100:103] = 11
    objects = [{"id": one, "class": "car", "partner": None} for one in (7, 9, 11, 65535, 3)]
    picture = picture_of(image, (labels, objects), (np.zeros_like(labels), []))
    shown = cv2.imdecode(np.frombuffer(picture.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert shown.shape == (360, 640, 3)
    assert np.abs(shown.mean((0, 1)) - (20, 60, 200)).max() < 4  # BGR
    told = json.loads(picture.outlines)
    assert told["size"] == [640, 360] and told["predicted"] == []
    assert [one["id"] for one in told["truth"]] == [65535, 7, 11]  # the largest first
    assert told["truth"][0]["class"] == "car"
    for one in told["truth"][:2]:
        mask = labels[::2, ::2] == one["id"]
        drawn = rasterized(one["path"], (640, 360))
        assert (mask & drawn).sum() / (mask | drawn).sum() > 0.97


def test_a_small_picture_is_not_scaled_and_the_number_of_outlines_is_bounded() -> None:
    labels = np.arange(1, 40 * 30 + 1, dtype=np.uint16).reshape(30, 40)
    objects = [{"id": int(one)} for one in labels.ravel()]
    picture = picture_of(np.zeros((30, 40, 3), np.uint8), (labels, objects), (labels, objects))
    told = json.loads(picture.outlines)
    assert told["size"] == [40, 30] and len(told["truth"]) == pictures.OUTLINED
