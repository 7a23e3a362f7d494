"""What a network's outputs are, and the stride that they and its features hold to."""

from __future__ import annotations

from typing import NamedTuple

STRIDE = 8  # of the encoder's features, in pixels


class Head(NamedTuple):
    """One named group of output channels and the network decoder it comes from."""

    name: str
    channels: int
    decoder: int
