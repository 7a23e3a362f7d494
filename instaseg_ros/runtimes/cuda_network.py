"""The network as a GPU runs it: pixels in, raw outputs out, nothing left to do around it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from instaseg_ros.model.batchnorm import FoldedDownsampler
from instaseg_ros.model.erfnet import ERFNet, NonBottleneck1d


class PixelsToOutputs(nn.Module):
    """(B, H, W, 3) uint8 RGB to the outputs of each decoder, (B, C, H, W) float32.

    network: folded, channels-last, in the type it computes in.
    """

    def __init__(self, network: ERFNet) -> None:
        super().__init__()
        self.network = network
        self.dtype = next(network.parameters()).dtype

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        # (B, H, W, 3) seen as (B, 3, H, W) is channels-last as it stands.
        pixels = images.permute(0, 3, 1, 2).to(self.dtype) / 255
        return tuple(
            output.to(torch.float32, memory_format=torch.contiguous_format)
            for output in self.network.decoder_outputs(pixels)
        )


def fuse(network: ERFNet) -> ERFNet:
    """A copy of a folded network that leaves bias, ReLU and residual sum to cuDNN's convolutions.

    Else each of them is a pass over memory of its own, and memory is what the network waits for.
    """
    fused = copy.deepcopy(network)
    for parent in list(fused.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, NonBottleneck1d):
                setattr(parent, name, _FusedNonBottleneck1d(child))
            elif isinstance(child, FoldedDownsampler):
                setattr(parent, name, _FusedDownsampler(child))
    return fused


def _conv_relu(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """ReLU of the convolution and its bias, in one kernel."""
    assert not isinstance(conv.padding, str)
    return torch.cudnn_convolution_relu(
        x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups
    )


class _FusedNonBottleneck1d(nn.Module):
    def __init__(self, block: NonBottleneck1d) -> None:
        super().__init__()
        self.convs = nn.ModuleList([block.conv3x1_1, block.conv1x3_1, block.conv3x1_2])
        self.last = block.conv1x3_2

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for conv in self.convs:
            assert isinstance(conv, nn.Conv2d)
            y = _conv_relu(conv, y)
        c = self.last
        assert not isinstance(c.padding, str)
        return torch.cudnn_convolution_add_relu(
            y, c.weight, x, 1.0, c.bias, c.stride, c.padding, c.dilation, c.groups
        )


class _FusedDownsampler(nn.Module):
    def __init__(self, block: FoldedDownsampler) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        block = self.block
        pooled = torch.relu(block.pool(x) * block.scale + block.shift)
        return torch.cat([_conv_relu(block.conv, x), pooled], 1)
