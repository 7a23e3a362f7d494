"""Folds BatchNorm into the convolutions, for the network that runtimes execute.

At inference a BatchNorm is a scale and a shift per channel, y = a x + b. After a convolution, both
go into its weight and bias, and the BatchNorm disappears. In a `Downsampler` it follows a
convolution and a pooling side by side: the convolution absorbs its channels' share, the pooled
channels keep theirs.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from instaseg_ros.model.erfnet import Downsampler, ERFNet, NonBottleneck1d, Upsampler
from instaseg_ros.model.lite import InvertedResidual, Stem


class FoldedDownsampler(nn.Module):
    """`Downsampler` whose convolution has absorbed its share of the BatchNorm.

    scale, shift: (C, 1, 1), the rest, for the C pooled channels.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, block: Downsampler) -> None:
        super().__init__()
        n = block.conv.out_channels
        scale, shift = scale_and_shift(block.bn)
        self.conv = copy.deepcopy(block.conv)
        assert self.conv.bias is not None
        with torch.no_grad():
            self.conv.weight.mul_(scale[:n, None, None, None])
            self.conv.bias.mul_(scale[:n]).add_(shift[:n])
        self.pool = copy.deepcopy(block.pool)
        # It cannot go into the next convolution, as a ReLU stands between, nor before the pooling,
        # as a negative scale would turn the maximum into a minimum.
        self.register_buffer("scale", scale[n:, None, None].clone())
        self.register_buffer("shift", shift[n:, None, None].clone())

    def forward(self, x: Tensor) -> Tensor:
        # Not addcmul: its first operand, the shift, would determine the memory layout.
        pooled = self.pool(x) * self.scale + self.shift
        return torch.relu(torch.cat([self.conv(x), pooled], 1))


def scale_and_shift(bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """(C,) each: the BatchNorm's factor and summand at inference."""
    assert bn.running_mean is not None and bn.running_var is not None
    scale = bn.weight.detach() * torch.rsqrt(bn.running_var + bn.eps)
    return scale, bn.bias.detach() - bn.running_mean * scale


def fold(network: ERFNet) -> ERFNet:
    """A copy of the network, for inference only, with the same outputs but without BatchNorm.

    Fold in float32 and convert afterwards, so that the products are rounded once.
    """
    folded = copy.deepcopy(network).eval().requires_grad_(False)
    for parent in list(folded.modules()):
        if isinstance(parent, NonBottleneck1d):
            parent.conv1x3_1 = fuse_conv_bn_eval(parent.conv1x3_1, parent.bn1)
            parent.conv1x3_2 = fuse_conv_bn_eval(parent.conv1x3_2, parent.bn2)
            parent.bn1 = parent.bn2 = nn.Identity()  # type: ignore[assignment]
            parent.dropout = nn.Identity()  # type: ignore[assignment]
        elif isinstance(parent, Upsampler):
            parent.conv = fuse_conv_bn_eval(parent.conv, parent.bn, transpose=True)
            parent.bn = nn.Identity()  # type: ignore[assignment]
        elif isinstance(parent, Stem):
            parent.conv = fuse_conv_bn_eval(parent.conv, parent.bn)
            parent.bn = nn.Identity()  # type: ignore[assignment]
        elif isinstance(parent, InvertedResidual):
            for conv, bn in (
                ("expand_conv", "bn0"),
                ("depthwise_conv", "bn1"),
                ("project_conv", "bn2"),
            ):
                if isinstance(norm := getattr(parent, bn), nn.BatchNorm2d):
                    setattr(parent, conv, fuse_conv_bn_eval(getattr(parent, conv), norm))
                    setattr(parent, bn, nn.Identity())
        for name, child in list(parent.named_children()):
            if isinstance(child, Downsampler):
                setattr(parent, name, FoldedDownsampler(child))
    return folded
