"""Arranges the network as OpenVINO runs it fastest: the same sums, in convolutions.

OpenVINO's convolutions pass their results on unchanged, channels-last and in the precision they
compute in. Between other operations it converts layouts, and bfloat16 to float32 all the way from
an output back to the nearest convolution, which in a residual network may be the first one. So the
network here begins and ends with convolutions, and nothing is converted in between.
"""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from instaseg_ros.model.batchnorm import FoldedDownsampler, fold
from instaseg_ros.model.erfnet import ERFNet, LiteEncoder
from instaseg_ros.model.lite import PIXEL_MEAN, PIXEL_SCALE, InvertedResidual, Stem
from instaseg_ros.numba_cache import kernel
from instaseg_ros.runtimes.rearranged import convolution, packed
from instaseg_ros.threads import each, shares

PAIR = 2  # neighbouring pixels form one of six channels: more work per step
SHARES = 3  # parts of the block that expands at half resolution
BAND_ROWS = 64  # of packed outputs that one thread unpacks at a time, at most


class PackedNetwork(nn.Module):
    """Pairs of pixels (B, 6, H, W/2), in [0, 255], to packed outputs of the decoders.

    Packed: (B, 4 C, H/2, W/2), see `rearranged.packed` and `unpack`. The output `dense` is as it
    is, and a temporal network's state goes in and out unchanged.
    """

    def __init__(self, network: ERFNet) -> None:
        super().__init__()
        self.network = fold(network)
        encoder = self.network.encoder
        if isinstance(encoder, LiteEncoder):
            trunk = encoder.trunk
            trunk.stem = _PairsStem(trunk.stem)  # type: ignore[assignment]
            trunk.blocks[1] = _InShares(trunk.blocks[1])
        else:
            assert isinstance(encoder.initial_block, FoldedDownsampler)
            encoder.initial_block = _PairsDownsampler(encoder.initial_block)  # type: ignore[assignment]
        for decoder in self.network.decoders:
            assert isinstance(decoder.output_conv, nn.ConvTranspose2d)
            decoder.output_conv = packed(decoder.output_conv)

    def forward(self, pairs: Tensor, state: Tensor | None = None) -> tuple[Tensor, ...]:
        return tuple(self.network.decoder_outputs(pairs, state))


class _PairsDownsampler(nn.Module):
    """The `FoldedDownsampler` of the image, from pairs of its pixels.

    max(a, b) = a + relu(b - a), so pooling becomes convolutions too: first within the pairs of both
    rows, then between the rows. Their weights are -1, 0 and 1 and pixels are integers up to 255,
    exact in bfloat16: nothing is rounded. In the pooled channels the large convolution is zero, and
    vice versa: their sum is the concatenation.
    """

    def __init__(self, block: FoldedDownsampler) -> None:
        super().__init__()
        conv = block.conv
        assert conv.bias is not None
        n, colours = conv.out_channels, conv.in_channels
        left, right = slice(colours), slice(colours, None)  # pixel of a pair
        one = torch.eye(colours)

        weight = torch.zeros(
            n + colours, PAIR * colours, 3, 2
        )  # over the previous pair and this one
        weight[:n, right, :, 0], weight[:n, left, :, 1], weight[:n, right, :, 1] = (
            conv.weight.detach() / 255
        ).unbind(3)
        bias = torch.cat([conv.bias.detach(), block.shift.flatten()])
        self.conv = convolution(weight, (2, 1), bias)

        rows = torch.zeros(2, 2, colours, PAIR * colours, 2, 1)  # of each row: left, right - left
        for row in range(2):
            rows[row, 0, :, left, row, 0] = rows[row, 1, :, right, row, 0] = one
            rows[row, 1, :, left, row, 0] = -one
        self.in_pairs = convolution(rows.flatten(0, 2), (2, 1))
        upper = torch.cat([one, one, 0 * one, 0 * one], 1)  # left + relu(right - left)
        lower = upper.roll(2 * colours, 1)
        between = torch.cat([upper, lower - upper])
        self.in_rows = convolution(between[..., None, None])
        scale = torch.diag(block.scale.flatten()) / 255
        pooled = torch.cat([torch.zeros(n, PAIR * colours), torch.cat([scale, scale], 1)])
        self.pooled = convolution(pooled[..., None, None])

    def forward(self, pairs: Tensor) -> Tensor:
        largest = torch.relu(self.in_rows(torch.relu(self.in_pairs(pairs))))
        before = nn.functional.pad(pairs, (1, 0, 1, 0))
        return torch.relu(self.conv(before) + self.pooled(largest))


class _PairsStem(nn.Module):
    """The folded `Stem`, from pairs of pixels.

    Pixels minus their mean are integers up to 128, exact in bfloat16, and the padding is 0.
    """

    def __init__(self, stem: Stem) -> None:
        super().__init__()
        conv = stem.conv
        assert conv.bias is not None
        colours = conv.in_channels
        left, right = slice(colours), slice(colours, None)  # pixel of a pair
        weight = torch.zeros(
            conv.out_channels, PAIR * colours, 3, 2
        )  # over this pair and the next one
        weight[:, left, :, 0], weight[:, right, :, 0], weight[:, left, :, 1] = (
            conv.weight.detach() / PIXEL_SCALE
        ).unbind(3)
        self.conv = convolution(weight, (2, 1), conv.bias.detach())

    def forward(self, pairs: Tensor) -> Tensor:
        centred = nn.functional.pad(pairs - PIXEL_MEAN, (0, 1, 0, 1))
        return nn.functional.relu6(self.conv(centred))


class _InShares(nn.Module):
    """A folded `InvertedResidual` without a residual, a share of its expanded channels at a time.

    At half resolution no cache holds all of them between one convolution and the next.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        assert isinstance(block, InvertedResidual) and block.expands and not block.residual
        bias = block.project_conv.bias
        self.shares = nn.ModuleList()
        for channels in torch.arange(block.depthwise_conv.out_channels).chunk(SHARES):
            share = copy.deepcopy(block)
            for conv in (share.expand_conv, share.depthwise_conv):
                assert isinstance(conv, nn.Conv2d) and conv.bias is not None
                conv.weight = nn.Parameter(conv.weight.detach()[channels])
                conv.bias = nn.Parameter(conv.bias.detach()[channels])
                conv.out_channels = len(channels)
            share.depthwise_conv.in_channels = share.depthwise_conv.groups = len(channels)
            share.project_conv.weight = nn.Parameter(
                block.project_conv.weight.detach()[:, channels]
            )
            share.project_conv.in_channels = len(channels)
            share.project_conv.bias, bias = bias, None  # only for the first
            self.shares.append(share)

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.shares[0](x)
        for share in self.shares[1:]:
            total = total + share(x)
        return total


def unpack(packed: NDArray[Any], outputs: NDArray[np.float32]) -> None:
    """Unpack outputs.

    packed: (B, H/2, W/2, 4 C), float32, or bfloat16 as any type of two bytes, since NumPy lacks it.
    outputs: (B, C, H, W), written.
    """
    half = packed.itemsize == 2
    pairs = packed.view(np.uint32 if half else np.uint64)  # neighbours in a row
    spread = spread_bfloat16 if half else spread_float32

    def spread_band(band: tuple[int, tuple[int, int]]) -> None:
        image, rows = band
        spread(pairs[image], *rows, outputs[image].view(np.uint64))

    bands = itertools.product(range(len(packed)), shares(packed.shape[1], BAND_ROWS))
    each(spread_band, list(bands))


@kernel("void(uint64[:,:,::1], int64, int64, uint64[:,:,::1])")
def spread_float32(pairs, first, end, out):  # type: ignore[no-untyped-def]
    """Unpack the rows first to end of pairs (H/2, W/2, 2 C) into out (C, H, W/2)."""
    for y in range(first, end):
        for k in range(pairs.shape[2]):
            row = out[k // 2, 2 * y + k % 2]
            for x in range(row.shape[0]):
                row[x] = pairs[y, x, k]


@kernel("void(uint32[:,:,::1], int64, int64, uint64[:,:,::1])")
def spread_bfloat16(pairs, first, end, out):  # type: ignore[no-untyped-def]
    """`spread_float32` for bfloat16, which is the upper half of float32."""
    for y in range(first, end):
        for k in range(pairs.shape[2]):
            row = out[k // 2, 2 * y + k % 2]
            for x in range(row.shape[0]):
                pair = np.uint64(pairs[y, x, k])
                right, left = pair >> np.uint64(16), pair & np.uint64(0xFFFF)
                row[x] = (right << np.uint64(48)) | (left << np.uint64(16))
