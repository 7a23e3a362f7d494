"""A real network with hand-set weights that finds red, green and blue shapes, and scenes of them.

ERFNet's pooling branches carry the image's colours down to 1/8 resolution, its residual blocks are
left at zero (the identity), and its decoders interpolate one colour each back up as a seed map.
Offsets are zero and the bandwidth is constant, so each shape smaller than RADIUS_PX is one
instance, whose class is its colour.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from instaseg_ros.checkpoint import Checkpoint, save_checkpoint
from instaseg_ros.methods.spatial_embedding import BANDWIDTH_GAIN, STEP_X, SpatialEmbedding
from instaseg_ros.model.erfnet import ERFNet

CLASS_NAMES = ("red", "green", "blue")
RADIUS_PX = 60
SHARPNESS = 40.0  # seed logit = SHARPNESS * (colour - 0.5)
ENCODER_COLOURS = slice(125, 128)  # three poolings append their input behind the convolution's


def coloured_shapes_network() -> ERFNet:
    """The network described above; float32."""
    network = ERFNet(SpatialEmbedding(len(CLASS_NAMES)).heads).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, (torch.nn.Conv2d, torch.nn.ConvTranspose2d)):
                module.weight.zero_()
                module.bias.zero_()
        bilinear = torch.tensor([0.5, 1.0, 0.5])
        seeds = network.decoders[1]
        ups = [layer for layer in seeds.layers if hasattr(layer, "conv")]
        for i, source in enumerate(range(*ENCODER_COLOURS.indices(128))):
            ups[0].conv.weight[source, i] = torch.outer(bilinear, bilinear)
            ups[1].conv.weight[i, i] = torch.outer(bilinear, bilinear)
            seeds.output_conv.weight[i, i] = SHARPNESS
            seeds.output_conv.bias[i] = -0.5 * SHARPNESS
        # phi = exp(-s d^2) is 0.5 at the radius: s = ln 2 / d^2, the raw output is ln(s) / gain.
        scale = math.log(2) / (RADIUS_PX * STEP_X) ** 2
        network.head_parameters("bandwidth")[1].fill_(math.log(scale) / BANDWIDTH_GAIN)
    return network


def save_coloured_shapes_checkpoint(path: Path) -> None:
    """Write the network as a checkpoint."""
    save_checkpoint(Checkpoint(coloured_shapes_network().state_dict(), CLASS_NAMES), path)


def scene(height: int = 192, width: int = 320, seed: int = 0) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB: a grey street with one 32-pixel square of each class, far apart."""
    rng = np.random.default_rng(seed)
    image = rng.integers(20, 60, (height, width, 3), dtype=np.uint8)
    columns = rng.permutation(3)
    for class_id, column in enumerate(columns):
        x = int(column * (width // 3) + rng.integers(8, width // 3 - 40))
        y = int(rng.integers(8, height - 40))
        square = np.full(3, 20, np.uint8)
        square[class_id] = 250
        image[y : y + 32, x : x + 32] = square
    return image
