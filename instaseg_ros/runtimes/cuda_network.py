"""Arranges the network for a GPU: pixels in, raw outputs out, with nothing to do around it.

Memory, not arithmetic, is the bottleneck here, so every pass over memory counts: for a cast, a
bias, a ReLU or a sum. And matrix units process channels in groups of eight.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from instaseg_ros.model.batchnorm import FoldedDownsampler
from instaseg_ros.model.erfnet import ERFNet, LiteEncoder, NonBottleneck1d
from instaseg_ros.model.lite import PIXEL_MEAN, PIXEL_SCALE, InvertedResidual, Stem
from instaseg_ros.runtimes.rearranged import abreast, convolution, packed

log = logging.getLogger(__name__)

UNIT = 8  # channels that matrix units process at once
SIX = 6.0  # upper limit of `lite`'s ReLU
TIMED = 5  # repetitions of a timing
RUNS = 20  # of a convolution in a row, as a single one would measure its launch


class PixelsToOutputs(nn.Module):
    """(B, H, W, 3) uint8 RGB to the outputs of each decoder, (B, C, H, W) float32, and `dense` if
    the network has it.

    For a temporal network, the state is a second input and the next state the last output.
    network: folded, channels-last, in the type it computes in.
    """

    def __init__(self, network: ERFNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, state: Tensor | None = None) -> tuple[Tensor, ...]:
        # (B, H, W, 3) viewed as (B, 3, H, W) is already channels-last.
        dtype = next(self.network.parameters()).dtype
        pixels = images.permute(0, 3, 1, 2).to(dtype) / 255
        return tuple(map(_contiguous, self.network.decoder_outputs(pixels, state)))


class Rearranged(nn.Module):
    """`PixelsToOutputs` with fewer passes over memory, and channels in groups of eight.

    Exact up to rounding. Rearrange in float32 and convert afterwards, so that products are rounded
    once. network: folded. side_by_side: merge all decoders into one, with half as many but wider
    convolutions.
    """

    def __init__(self, network: ERFNet, side_by_side: bool = False) -> None:
        super().__init__()
        self.network = network = copy.deepcopy(network)
        decoders = network._decoders()
        self.channels = [decoder.output_conv.out_channels for decoder in decoders]
        if side_by_side:
            decoders = [abreast(decoders)]
            network.decoders = nn.ModuleList(decoders)
        for decoder in decoders:
            decoder.output_conv = _PackedOutput(decoder.output_conv)  # type: ignore[assignment]
        if network.dense is not None:
            network.dense = _WholeUnits(network.dense)  # type: ignore[assignment]
        encoder = network.encoder
        if isinstance(encoder, LiteEncoder):
            encoder.trunk.stem = _ImageStem(encoder.trunk.stem)  # type: ignore[assignment]
        else:
            assert isinstance(encoder.initial_block, FoldedDownsampler)
            encoder.initial_block = _ImageDownsampler(encoder.initial_block)  # type: ignore[assignment]
        _rearrange(network)

    def forward(self, images: Tensor, state: Tensor | None = None) -> tuple[Tensor, ...]:
        outputs = self.network.decoder_outputs(images, state)
        if len(self.network.decoders) < len(self.channels):
            outputs = [*outputs[0].split(self.channels, 1), *outputs[1:]]
        # A packed output is (B, C, H/2, 2, W/2, 2): cast and unpack it in one pass.
        flat = (_contiguous(output) for output in outputs)
        return tuple(o.flatten(4).flatten(2, 3) if o.ndim == 6 else o for o in flat)


# Whether the fused kernel may be used, by kind of convolution.
Verdicts = dict[Any, bool]


def fuse(module: Rearranged, verdicts: Verdicts) -> Rearranged:
    """Fuse convolutions with bias, ReLU and sum into one kernel, where the device has such a kernel
    that is correct and no slower than the parts.

    verdicts: filled at the first run of each kind, which must not be captured.
    """
    for part in module.modules():
        if isinstance(part, _ReluConv):
            part.verdicts = verdicts
    return module


def device_ms(work: Callable[[], object], runs: int = 1) -> float:
    """Milliseconds that `runs` runs take on the current device, the minimum of TIMED timings."""
    times = []
    for _ in range(TIMED):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(runs):
            work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return min(times)


def _contiguous(output: Tensor) -> Tensor:
    return output.to(torch.float32, memory_format=torch.contiguous_format)


class _ReluConv(nn.Module):
    """relu(conv(x) + z), or without z; at most `ceiling`.

    verdicts: see `fuse`; None: always in parts.
    """

    def __init__(self, conv: nn.Module, ceiling: float | None = None) -> None:
        super().__init__()
        assert isinstance(conv, nn.Conv2d) and not isinstance(conv.padding, str)
        self.conv = conv
        self.ceiling = ceiling
        self.verdicts: Verdicts | None = None

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        if self.verdicts is None:
            return self._in_parts(x, z)
        c = self.conv
        geometry = tuple(c.weight.shape), c.stride, c.padding, c.dilation, c.groups
        kind = (*geometry, x.shape, x.dtype, x.device, z is not None)
        if kind not in self.verdicts:
            self.verdicts[kind] = self._fused_is_good(x, z)
        return self._fused(x, z) if self.verdicts[kind] else self._in_parts(x, z)

    def _in_parts(self, x: Tensor, z: Tensor | None) -> Tensor:
        y: Tensor = self.conv(x)
        return (y if z is None else y.add_(z)).clamp_(0, self.ceiling)

    def _fused(self, x: Tensor, z: Tensor | None) -> Tensor:
        c = self.conv
        assert c.bias is not None and not isinstance(c.padding, str)
        if z is None and _is_product(c):
            y = torch._addmm_activation(c.bias, _rows(x), c.weight.flatten(1).t())
            y = _image(y, x)
        else:
            # Not cudnn_convolution_relu: it passes cuDNN the uninitialised output as z with factor
            # 0, and 0 times a stray NaN is NaN.
            alpha = 1.0
            if z is None:
                if c.out_channels != c.in_channels or max(c.stride) > 1:
                    raise ValueError("no tensor at hand has the shape of its output")
                z, alpha = x, 0.0
            y = torch.cudnn_convolution_add_relu(
                x, c.weight, z, alpha, c.bias, c.stride, c.padding, c.dilation, c.groups
            )
        return y if self.ceiling is None else y.clamp_(max=self.ceiling)

    def _fused_is_good(self, x: Tensor, z: Tensor | None) -> bool:
        expected = self._in_parts(x, z)
        try:
            got = self._fused(x, z)
            difference = float((got - expected).abs().max() / expected.abs().max().clamp(min=1e-6))
            # A few roundings; in float32 also the error of a transformed convolution.
            if not difference <= max(8 * torch.finfo(x.dtype).eps, 1e-3):
                raise ValueError(f"it differs by {difference:.2g} of the largest output")
            if x.is_cuda:  # some of cuDNN's fused kernels are many times slower than the parts
                whole_ms = device_ms(lambda: self._fused(x, z), RUNS)
                parts_ms = device_ms(lambda: self._in_parts(x, z), RUNS)
                if whole_ms > parts_ms:
                    raise ValueError(f"{whole_ms / RUNS:.3f} ms, not {parts_ms / RUNS:.3f} ms")
        except Exception as error:  # from cuDNN or cuBLAS
            reason = (str(error) or repr(error)).splitlines()[0]
            log.info("%s in %s runs in parts: %s", self.conv, x.dtype, reason)
            return False
        return True


class _Pointwise(nn.Module):
    """A 1 x 1 convolution as a matrix product, to which cuBLAS adds the bias."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        rows = nn.functional.linear(_rows(x), self.conv.weight.flatten(1), self.conv.bias)
        return _image(rows, x)


def _is_product(conv: nn.Conv2d) -> bool:
    return max(*conv.kernel_size, *conv.stride, conv.groups) == 1


def _rows(x: Tensor) -> Tensor:
    """(B, C, H, W), channels-last, as (B H W, C)."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def _image(rows: Tensor, like: Tensor) -> Tensor:
    """(B H W, C) as (B, C, H, W), channels-last."""
    return rows.unflatten(0, (len(like), *like.shape[2:])).permute(0, 3, 1, 2)


class _ResidualBlock(nn.Module):
    """A folded `NonBottleneck1d`."""

    def __init__(self, block: NonBottleneck1d) -> None:
        super().__init__()
        convs = block.conv3x1_1, block.conv1x3_1, block.conv3x1_2
        self.convs = nn.ModuleList(map(_ReluConv, convs))
        self.last = _ReluConv(block.conv1x3_2)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for conv in self.convs:
            y = conv(y)
        return self.last(y, x)


class _Downsampler(nn.Module):
    """A `FoldedDownsampler` whose halves are summed instead of concatenated.

    In the pooled channels the convolution is zero, and vice versa: the sum is the convolution's
    last step and has as many channels as the next layer expects.
    c_in: channels of the input; the block uses the first ones. share: size of a unit of this input,
    in units of the block's input.
    """

    def __init__(self, block: FoldedDownsampler, c_in: int = 0, share: float = 1.0) -> None:
        super().__init__()
        conv = block.conv
        assert conv.bias is not None
        n, k = conv.out_channels, conv.in_channels
        weight = torch.zeros(n + k, c_in or k, *conv.weight.shape[2:])
        weight[:n, :k] = conv.weight.detach() * share
        bias = torch.cat([conv.bias.detach(), block.shift.flatten()])
        self.conv = _ReluConv(convolution(weight, (2, 2), bias, padding=1))
        self.pool = block.pool
        scale = torch.zeros(n + k, c_in or k, 1, 1)
        scale[n:, :k, 0, 0] = torch.diag(block.scale.flatten()) * share
        self.scale = convolution(scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x, self.scale(self.pool(x)))


class _InvertedResidual(nn.Module):
    """A folded `InvertedResidual`.

    With a bias b, relu6(y + b) = clamp(y, -b, 6 - b) + b: the projection absorbs the last sum, so
    that one pass over memory remains of three.
    """

    lowest: Tensor
    highest: Tensor

    def __init__(self, block: InvertedResidual) -> None:
        super().__init__()
        self.expand = _ReluConv(block.expand_conv, SIX) if block.expands else nn.Identity()
        self.pad = block.pad
        depthwise, project = block.depthwise_conv, copy.deepcopy(block.project_conv)
        assert depthwise.bias is not None and project.bias is not None
        bias = depthwise.bias.detach()
        self.depthwise = copy.deepcopy(depthwise)
        self.depthwise.bias = None
        self.register_buffer("lowest", -bias[:, None, None])
        self.register_buffer("highest", SIX - bias[:, None, None])
        sums = project.bias.detach() + project.weight.detach().flatten(1) @ bias
        project.bias = nn.Parameter(sums, requires_grad=False)
        self.project = _Pointwise(project)
        self.residual = block.residual

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(self.pad(self.expand(x))).clamp_(self.lowest, self.highest)
        y = self.project(y)
        return y.add_(x) if self.residual else y


class _ImageDownsampler(nn.Module):
    """The folded first `Downsampler`, from images (B, H, W, 3) uint8."""

    def __init__(self, block: FoldedDownsampler) -> None:
        super().__init__()
        self.block = _Downsampler(block, UNIT, 1 / 255)

    def forward(self, images: Tensor) -> Tensor:
        return self.block(_channels_last(images, self.block.scale.weight.dtype, 0))


class _ImageStem(nn.Module):
    """The folded `Stem`, from images (B, H, W, 3) uint8.

    Pixels minus their mean are integers up to 128, exact in bfloat16, and the padding is 0.
    """

    def __init__(self, stem: Stem) -> None:
        super().__init__()
        conv = stem.conv
        assert conv.bias is not None and stem.pad.sides == (0, 1, 0, 1)
        weight = torch.zeros(conv.out_channels, UNIT, *conv.weight.shape[2:])
        weight[:, : conv.in_channels] = conv.weight.detach() / PIXEL_SCALE
        self.conv = _ReluConv(convolution(weight, (2, 2), conv.bias.detach()), SIX)

    def forward(self, images: Tensor) -> Tensor:
        height, width, colours = images.shape[1:]
        pixels = _channels_last(images, self.conv.conv.weight.dtype, 1)
        pixels[:, :colours, :height, :width] -= PIXEL_MEAN
        return self.conv(pixels)


def _channels_last(images: Tensor, dtype: torch.dtype, border: int) -> Tensor:
    """Convert (B, H, W, 3) to (B, UNIT, H + border, W + border); zero where there is no pixel."""
    batch, height, width, colours = images.shape
    shape = batch, height + border, width + border, UNIT
    pixels = torch.zeros(shape, dtype=dtype, device=images.device)
    pixels[:, :height, :width, :colours] = images
    return pixels.permute(0, 3, 1, 2)


class _WholeUnits(nn.Module):
    """A 1 x 1 convolution that computes a multiple of UNIT channels, and gives those asked for."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.channels = conv.out_channels
        padding = -self.channels % UNIT
        assert conv.bias is not None
        weight = nn.functional.pad(conv.weight, (0, 0, 0, 0, 0, 0, 0, padding))
        bias = nn.functional.pad(conv.bias, (0, padding))
        self.conv = _Pointwise(convolution(weight.detach(), bias=bias.detach()))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)[:, : self.channels]


class _PackedOutput(nn.Module):
    """The last, transposed convolution: (B, 16, h, w) to (B, C, h, 2, w, 2), not contiguous."""

    def __init__(self, conv: nn.ConvTranspose2d) -> None:
        super().__init__()
        self.channels = conv.out_channels
        self.conv = _WholeUnits(packed(conv))

    def forward(self, x: Tensor) -> Tensor:
        squares = self.conv(x).unflatten(1, (self.channels, 2, 2))
        return squares.permute(0, 1, 4, 2, 5, 3)


BLOCKS = {
    NonBottleneck1d: _ResidualBlock,
    FoldedDownsampler: _Downsampler,
    InvertedResidual: _InvertedResidual,
}


def _rearrange(module: nn.Module) -> None:
    """Replace the network's blocks, and the remaining 1 x 1 convolutions, inside a module."""
    for name, child in list(module.named_children()):
        if type(child) in BLOCKS:
            setattr(module, name, BLOCKS[type(child)](child))
        elif isinstance(child, nn.Conv2d) and _is_product(child):
            setattr(module, name, _Pointwise(child))
        elif type(child).__module__ != __name__:
            _rearrange(child)
