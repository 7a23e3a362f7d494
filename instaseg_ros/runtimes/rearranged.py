"""Rearranges layers: the same sums in an order that some device runs faster."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import groupby, zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from instaseg_ros.model.erfnet import Decoder, NonBottleneck1d, Upsampler


def convolution(
    weight: Tensor, stride: tuple[int, int] = (1, 1), bias: Tensor | None = None, padding: int = 0
) -> nn.Conv2d:
    """A convolution with the given weight (C_out, C_in, h, w) and bias (C_out,)."""
    c_out, c_in, height, width = weight.shape
    conv = nn.Conv2d(c_in, c_out, (height, width), stride, padding, bias=bias is not None)
    conv.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    conv.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
    return conv


def packed(conv: nn.ConvTranspose2d) -> nn.Conv2d:
    """The transposed convolution with 2 x 2 kernels and stride 2, its four results side by side.

    (B, C_in, h, w) to (B, 4 C, h, w): channel 4 c + 2 y + x is channel c of pixel (x, y) of each
    2 x 2 square.
    """
    assert conv.bias is not None
    weight = conv.weight.detach().permute(1, 2, 3, 0).flatten(0, 2)  # (4 C, C_in)
    return convolution(weight[..., None, None], bias=conv.bias.detach().repeat_interleave(4))


def abreast(decoders: Sequence[Decoder]) -> Decoder:
    """Merge folded decoders into one with their channels side by side and block-diagonal weights.

    A decoder that lacks a residual block gets one that adds nothing; it changes nothing, as its
    input is not negative.
    """
    one = copy.deepcopy(decoders[0])
    stages = zip(*map(_stages, decoders), strict=True)
    layers: list[nn.Module] = []
    for number, stage in enumerate(stages):
        for blocks in zip_longest(*stage):
            some = next(block for block in blocks if block is not None)
            full = [_adds_nothing(some) if block is None else block for block in blocks]
            layers.append(_side_by_side(full, one_input=number == 0 and not layers))
    one.layers = nn.ModuleList(layers)
    outputs = _diagonal([decoder.output_conv for decoder in decoders], one_input=False)
    assert isinstance(outputs, nn.ConvTranspose2d)
    one.output_conv = outputs
    return one


def _stages(decoder: Decoder) -> list[list[nn.Module]]:
    """The decoder's layers by resolution: each stage begins with an `Upsampler`."""
    number = 0

    def stage(layer: nn.Module) -> int:
        nonlocal number
        number += isinstance(layer, Upsampler)
        return number

    return [list(layers) for _, layers in groupby(decoder.layers, stage)]


def _adds_nothing(block: nn.Module) -> nn.Module:
    assert isinstance(block, NonBottleneck1d)
    block = copy.deepcopy(block)
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    return block


def _side_by_side(blocks: Sequence[nn.Module], one_input: bool) -> nn.Module:
    """Merge blocks of one kind. one_input: all see the same channels; else each sees its own."""
    one = copy.deepcopy(blocks[0])
    for name, child in list(one.named_children()):
        if isinstance(child, nn.Conv2d | nn.ConvTranspose2d):
            setattr(one, name, _diagonal([getattr(block, name) for block in blocks], one_input))
    return one


def _diagonal(convs: Sequence[Any], one_input: bool) -> nn.Module:
    """Merge convolutions of one geometry into one over their channels side by side."""
    one = copy.deepcopy(convs[0])
    assert isinstance(one, nn.Conv2d | nn.ConvTranspose2d)
    over = 1 if isinstance(one, nn.ConvTranspose2d) else 0  # dimension of the output channels
    weights = [conv.weight.detach().transpose(0, over) for conv in convs]  # (C_out, C_in, h, w)
    if one_input:
        weight = torch.cat(weights)
    else:
        outputs, inputs = (sum(w.shape[d] for w in weights) for d in (0, 1))
        weight = weights[0].new_zeros(outputs, inputs, *weights[0].shape[2:])
        row = column = 0
        for part in weights:
            weight[row : row + len(part), column : column + part.shape[1]] = part
            row, column = row + len(part), column + part.shape[1]
    one.out_channels, one.in_channels = weight.shape[:2]
    one.weight = nn.Parameter(weight.transpose(0, over).contiguous(), requires_grad=False)
    bias = torch.cat([conv.bias.detach() for conv in convs])
    one.bias = nn.Parameter(bias, requires_grad=False)
    return one
