"""Keeps what runtimes need per image size, for the most recent sizes within a memory limit."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from instaseg_ros.clustering.ellipses.gpu import SIZES

T = TypeVar("T")

MOST_PIXELS = 16_000_000  # of all sizes kept; OpenVINO takes some 120 bytes for each


class Recent(Generic[T]):
    """Results of `make` for a shape (H, W) or (B, H, W, ...), kept for the `most` last shapes, or
    fewer if they have more than MOST_PIXELS together, so that one large image does not hold its
    memory forever. The result for the last shape is always kept."""

    def __init__(self, make: Callable[[Any], T], most: int = SIZES) -> None:
        self._make = make
        self._most = most
        self._kept: dict[tuple[int, ...], T] = {}  # most recent shape last

    def __call__(self, shape: tuple[int, ...]) -> T:
        if shape in self._kept:
            found = self._kept.pop(shape)
        else:
            self._make_room(math.prod(shape[:3]))
            found = self._make(shape)
        self._kept[shape] = found
        return found

    def __len__(self) -> int:
        return len(self._kept)

    def _make_room(self, pixels: int) -> None:
        kept = sum(math.prod(shape[:3]) for shape in self._kept)
        while self._kept and (len(self._kept) >= self._most or kept + pixels > MOST_PIXELS):
            oldest = next(iter(self._kept))
            kept -= math.prod(oldest[:3])
            del self._kept[oldest]
