"""Pictures of a recording's worst and of some other frames, with outlines, that are kept with its
rows."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

# Pictures of a recording: worst seconds; spread over it, up to twice as many.
WORST, EVENLY = 24, 16
WIDTH = 640  # most pixels of a picture
JPEG_QUALITY = 75
OUTLINED = 500  # most objects of one side of a picture, the largest
COARSENESS_PX = 0.7  # how far an outline may be from the object's border


class Picture(NamedTuple):
    """A frame as JPEG bytes, and its objects as JSON: `size` (width, height) in pixels of the JPEG,
    `truth` and `predicted`, each a list of objects with `path` (of SVG, in these pixels) and what
    is known of them."""

    jpeg: bytes
    outlines: str


class Pictures:
    """Chooses as the frames of a recording come, without knowing how many will.

    What is chosen again of what was chosen of its parts, now with the number `frames` of all, is
    what would have been chosen of the whole.
    """

    def __init__(self, frames: int = 0) -> None:
        self._worst: dict[int, tuple[int, int, Picture]] = {}  # (errors, -frame, picture) by second
        self._spread: dict[int, Picture] = {}
        self._step = 1
        while math.ceil(frames / self._step) > 2 * EVENLY:
            self._step *= 2

    def offer(self, frame: int, second: int, errors: int, draw: Callable[[], Picture]) -> None:
        """Keep the picture that `draw` makes if it is wanted. frame: its number in the
        recording, ascending; second: whole seconds of its stamp, of which one shows the worst
        frame."""
        spread = frame % self._step == 0
        bad = errors > self._worst.get(second, (0,))[0]
        if not (spread or bad):
            return
        picture = draw()
        if spread:
            self._spread[frame] = picture
            if len(self._spread) > 2 * EVENLY:
                self._step *= 2
                self._spread = {k: v for k, v in self._spread.items() if k % self._step == 0}
        if bad:
            self._worst[second] = errors, -frame, picture
            if len(self._worst) > WORST:
                least = min(self._worst, key=lambda one: self._worst[one][:2])
                del self._worst[least]

    def kept(self) -> dict[int, Picture]:
        """By number of the frame, ascending."""
        worst = {-place: picture for _, place, picture in self._worst.values()}
        return dict(sorted({**self._spread, **worst}.items()))


Objects = Sequence[dict[str, Any]]


def picture_of(
    image: NDArray[np.uint8],
    truth: tuple[NDArray[np.uint16], Objects],
    predicted: tuple[NDArray[np.uint16], Objects],
) -> Picture:
    """Draw a frame. image: (H, W, 3) RGB. truth, predicted: the label image (H, W), and what to
    say of each object, for JSON; its label value is under `id`."""
    height, width = image.shape[:2]
    scale = min(1.0, WIDTH / width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = image if scale == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    jpeg = cv2.imencode(".jpg", np.ascontiguousarray(small[..., ::-1]), options)[1].tobytes()
    sides = {
        name: _outlined(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST), objects)
        for name, (labels, objects) in (("truth", truth), ("predicted", predicted))
    }
    return Picture(jpeg, json.dumps({"size": size, **sides}, separators=(",", ":")))


def _outlined(labels: NDArray[Any], objects: Objects) -> list[dict[str, Any]]:
    """The objects that can be seen, each with its path."""
    pixels = np.bincount(labels.ravel(), minlength=1 << 16)
    largest = sorted(objects, key=lambda one: -int(pixels[one["id"]]))[:OUTLINED]
    return [{**one, "path": _path(labels == one["id"])} for one in largest if pixels[one["id"]]]


def _path(mask: NDArray[np.bool_]) -> str:
    """The outlines of an object as a path of SVG; (0, 0) is the middle of the first pixel."""
    outlines, _ = cv2.findContours(
        mask.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE
    )  # with holes
    parts = []
    for outline in outlines:
        points = cv2.approxPolyDP(outline, COARSENESS_PX, True)[:, 0]
        moves = np.diff(points, axis=0)
        lines = " ".join(f"{x} {y}" for x, y in moves.tolist())
        parts.append(f"M{points[0, 0]} {points[0, 1]}" + (f"l{lines}" if lines else "h0") + "z")
    return "".join(parts)
