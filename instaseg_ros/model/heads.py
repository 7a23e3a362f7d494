"""Defines a network's heads, and what its features are."""

from __future__ import annotations

from typing import NamedTuple

STRIDE = 8  # of the encoder's features, in pixels
FEATURES = 128  # channels of the encoder's features
DENSE = "dense"  # a network's further output: see `ERFNet.dense`


class Head(NamedTuple):
    """A named group of output channels and the decoder it comes from."""

    name: str
    channels: int
    decoder: int
