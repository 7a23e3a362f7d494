"""Defines a network's heads, and the stride of its features."""

from __future__ import annotations

from typing import NamedTuple

STRIDE = 8  # of the encoder's features, in pixels


class Head(NamedTuple):
    """A named group of output channels and the decoder it comes from."""

    name: str
    channels: int
    decoder: int
