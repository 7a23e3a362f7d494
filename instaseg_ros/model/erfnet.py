"""ERFNet (Romera et al. 2018) with one decoder per group of heads, as Neven et al. 2019 use it.

Module names follow the published checkpoints, so that their weights load key by key. Two profiles
are ours: `fast` lacks the residual blocks that a trained network needs least; the encoder of `lite`
is pretrained on ImageNet (see `instaseg_ros.model.lite`). A temporal network, also ours, sees
earlier frames through a `TemporalModule` between encoder and decoders.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from instaseg_ros.model.heads import DENSE, FEATURES, STRIDE, Head
from instaseg_ros.model.lite import FINE_CHANNELS, TopDown, Trunk
from instaseg_ros.model.temporal import NEXT_STATE, TemporalModule

BN_EPS = 1e-3


class Profile(NamedTuple):
    """The network's numbers of residual blocks.

    blocks: in the encoder, at a quarter of the resolution.
    dilations: one for each block of the encoder at an eighth of the resolution.
    decoders: for each decoder, blocks at a quarter and at half of the resolution; further decoders
        have as many as the last one listed.
    lite: the encoder is a `LiteEncoder`, which has no blocks at a quarter.
    """

    blocks: int
    dilations: tuple[int, ...]
    decoders: tuple[tuple[int, int], ...]
    lite: bool = False

    @property
    def stride(self) -> int:
        """Height and width of the network's input are multiples of this."""
        return 32 if self.lite else STRIDE


PROFILES = {
    "published": Profile(5, (2, 4, 8, 16) * 2, ((2, 2),)),
    "fast": Profile(2, (2, 8, 2, 4), ((1, 2), (0, 1))),
    "lite": Profile(0, (1,), ((1, 2), (0, 1)), lite=True),
}


class Features(NamedTuple):
    """An encoder's output. deep: (B, 128, H/8, W/8). fine: (B, 24, H/4, W/4), for the decoders'
    first stage; None if the encoder has none."""

    deep: Tensor
    fine: Tensor | None = None


class Downsampler(nn.Module):
    """Halves the resolution: strided convolution beside max-pooling, concatenated."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out - c_in, 3, stride=2, padding=1)
        self.pool = nn.MaxPool2d(2, stride=2)
        self.bn = nn.BatchNorm2d(c_out, eps=BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(torch.cat([self.conv(x), self.pool(x)], 1)))


class NonBottleneck1d(nn.Module):
    """Residual block of two factorised 3x3 convolutions, the second dilated."""

    def __init__(self, channels: int, dropout: float, dilation: int) -> None:
        super().__init__()
        c, d = channels, dilation
        self.conv3x1_1 = nn.Conv2d(c, c, (3, 1), padding=(1, 0))
        self.conv1x3_1 = nn.Conv2d(c, c, (1, 3), padding=(0, 1))
        self.bn1 = nn.BatchNorm2d(c, eps=BN_EPS)
        self.conv3x1_2 = nn.Conv2d(c, c, (3, 1), padding=(d, 0), dilation=(d, 1))
        self.conv1x3_2 = nn.Conv2d(c, c, (1, 3), padding=(0, d), dilation=(1, d))
        self.bn2 = nn.BatchNorm2d(c, eps=BN_EPS)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.conv3x1_1(x))
        y = torch.relu(self.bn1(self.conv1x3_1(y)))
        y = torch.relu(self.conv3x1_2(y))
        y = self.dropout(self.bn2(self.conv1x3_2(y)))
        return torch.relu(y + x)


class Upsampler(nn.Module):
    """Doubles the resolution with a transposed convolution.

    c_fine: channels of the features that are added at that resolution; 0 for none.
    """

    def __init__(self, c_in: int, c_out: int, c_fine: int = 0) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(c_in, c_out, 3, stride=2, padding=1, output_padding=1)
        self.bn = nn.BatchNorm2d(c_out, eps=BN_EPS)
        self.shortcut = nn.Conv2d(c_fine, c_out, 1) if c_fine else None

    def forward(self, x: Tensor, fine: Tensor | None = None) -> Tensor:
        x = self.bn(self.conv(x))
        if self.shortcut is not None:
            x = x + self.shortcut(fine)
        return torch.relu(x)


class Encoder(nn.Module):
    """(B, 3, H, W) to `Features` without fine ones."""

    def __init__(self, n_outputs: int, profile: Profile) -> None:
        super().__init__()
        self.initial_block = Downsampler(3, 16)
        self.layers = nn.ModuleList(
            [
                Downsampler(16, 64),
                *(NonBottleneck1d(64, 0.03, 1) for _ in range(profile.blocks)),
                Downsampler(64, 128),
                *(NonBottleneck1d(128, 0.3, d) for d in profile.dilations),
            ]
        )
        # Only used by ERFNet's encoder pre-training; kept so that published weights load unchanged.
        self.output_conv = nn.Conv2d(128, n_outputs, 1)

    def forward(self, x: Tensor) -> Features:
        x = self.initial_block(x)
        for layer in self.layers:
            x = layer(x)
        return Features(x)


class LiteEncoder(nn.Module):
    """(B, 3, H, W), sides multiples of 32, to `Features`."""

    def __init__(self, profile: Profile) -> None:
        super().__init__()
        self.trunk = Trunk()
        self.top_down = TopDown(128)
        self.layers = nn.ModuleList(NonBottleneck1d(128, 0.3, d) for d in profile.dilations)

    def forward(self, x: Tensor) -> Features:
        fine, *coarser = self.trunk(x)
        x = torch.relu(self.top_down(coarser))
        for layer in self.layers:
            x = layer(x)
        return Features(x, fine)


class Decoder(nn.Module):
    """`Features` to (B, n_outputs, H, W).

    blocks: residual blocks at a quarter and at half of the resolution. c_fine: channels of the fine
    features; 0 for none.
    """

    def __init__(self, n_outputs: int, blocks: tuple[int, int], c_fine: int = 0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                Upsampler(128, 64, c_fine),
                *(NonBottleneck1d(64, 0.0, 1) for _ in range(blocks[0])),
                Upsampler(64, 16),
                *(NonBottleneck1d(16, 0.0, 1) for _ in range(blocks[1])),
            ]
        )
        self.output_conv = nn.ConvTranspose2d(16, n_outputs, 2, stride=2)

    def forward(self, features: Features) -> Tensor:
        first, *others = self.layers
        x = first(features.deep, features.fine)
        for layer in others:
            x = layer(x)
        return self.output_conv(x)


class ERFNet(nn.Module):
    """RGB in [0, 1], (B, 3, H, W) with H and W multiples of `stride`, to {head name: (B, C, H, W)}.

    Heads that name the same decoder share its last convolution, in the order given.
    profile: one of `PROFILES`. temporal: with a `TemporalModule`.
    n_dense: above 0, there is an output `dense` (B, n_dense, H/8, W/8) too, raw scores of the
        pixels' classes, road and sky included. The layer reads the encoder's features.
    """

    def __init__(
        self,
        heads: Sequence[Head],
        profile: str = "published",
        temporal: bool = False,
        n_dense: int = 0,
    ) -> None:
        super().__init__()
        self.heads = tuple(heads)
        shape = PROFILES[profile]
        n_decoders = 1 + max(head.decoder for head in heads)
        self.groups = [[h for h in heads if h.decoder == d] for d in range(n_decoders)]
        self.stride = shape.stride
        self.encoder: Encoder | LiteEncoder
        if shape.lite:
            self.encoder = LiteEncoder(shape)
        else:
            self.encoder = Encoder(sum(head.channels for head in heads), shape)
        blocks = [shape.decoders[min(d, len(shape.decoders) - 1)] for d in range(n_decoders)]
        self.decoders = nn.ModuleList(
            Decoder(sum(head.channels for head in group), n, FINE_CHANNELS * shape.lite)
            for group, n in zip(self.groups, blocks, strict=True)
        )
        self.temporal = TemporalModule() if temporal else None
        self.dense = nn.Conv2d(FEATURES, n_dense, 1) if n_dense else None

    def forward(self, x: Tensor, state: Tensor | None = None, frames: int = 1) -> dict[str, Tensor]:
        """Run the network; a temporal one also returns its memory `next_state` (N, 64, H/8, W/8).

        x: N clips of `frames` frames each, B = N * frames images: first the frames of the first
            clip, in order of time, then those of the second, ...
        state: the `next_state` of the frame before each clip; None or zeros if there was none.
            Running frame by frame gives the same outputs as the whole clip.
        """
        return self.split_heads(self.decoder_outputs(x, state, frames))

    def decoder_outputs(
        self, x: Tensor, state: Tensor | None = None, frames: int = 1
    ) -> list[Tensor]:
        """Each decoder's output (B, channels of its heads, H, W); then `dense`, if the network has
        it; last, a temporal one's state."""
        return self.decode_features(self.encoder(x), state, frames)

    def decode_features(
        self, features: Features, state: Tensor | None = None, frames: int = 1
    ) -> list[Tensor]:
        """`decoder_outputs` from the encoder's features."""
        further = [] if self.dense is None else [self.dense(features.deep)]
        if self.temporal is not None:
            deep, next_state = self.temporal(features.deep, state, frames)
            features = features._replace(deep=deep)
            further.append(next_state)
        return [*(decoder(features) for decoder in self.decoders), *further]

    def split_heads(self, outputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """Outputs by name, from `decoder_outputs`; heads are views of their channels."""
        heads: dict[str, Tensor] = {}
        if self.temporal is not None:
            *outputs, heads[NEXT_STATE] = outputs
        if self.dense is not None:
            *outputs, heads[DENSE] = outputs
        for group, output in zip(self.groups, outputs, strict=True):
            parts = output.split([head.channels for head in group], 1)
            heads.update(zip((head.name for head in group), parts, strict=True))
        return heads

    def head_parameters(self, name: str, channel: int | None = None) -> tuple[Tensor, Tensor]:
        """Views of the parameters of a head, or of one channel: weight (16, C, 2, 2), bias (C,)."""
        for decoder, group in zip(self._decoders(), self.groups, strict=True):
            start = 0
            for head in group:
                if head.name == name:
                    first, count = (0, head.channels) if channel is None else (channel, 1)
                    own = slice(start + first, start + first + count)
                    weight, bias = decoder.output_conv.weight, decoder.output_conv.bias
                    assert bias is not None
                    return weight[:, own], bias[own]
                start += head.channels
        raise KeyError(name)

    def _decoders(self) -> list[Decoder]:
        return list(self.decoders)  # type: ignore[arg-type]

    @torch.no_grad()
    def start_from(self, other: ERFNet) -> None:
        """Copy the weights of every block that the other network has in the same place.

        The place of a residual block is its index among the blocks of its stage and dilation, so
        that a smaller profile can start from a larger one's blocks.
        """
        sources = _places(other)
        for place, target in _places(self).items():
            if place in sources:
                new, old = sources[place].state_dict(), target.state_dict()
                if {k: v.shape for k, v in new.items()} == {k: v.shape for k, v in old.items()}:
                    target.load_state_dict(new)


def _places(network: ERFNet) -> dict[tuple[int | str, ...], nn.Module]:
    """All blocks of a network by encoder or decoder, stage (blocks of one resolution), dilation and
    index."""
    places: dict[tuple[int | str, ...], nn.Module] = {}
    for index, part in enumerate([network.encoder, *network.decoders]):
        stage, found = 0, Counter[int]()
        for block in part.modules():
            if isinstance(block, Downsampler | Upsampler):
                stage, found = stage + 1, Counter()
                places[index, stage] = block
            elif isinstance(block, Trunk | TopDown):
                places[index, type(block).__name__] = block
            elif isinstance(block, NonBottleneck1d):
                dilation = block.conv3x1_2.dilation[0]
                found[dilation] += 1
                places[index, stage, dilation, found[dilation]] = block
            elif isinstance(part, Encoder | Decoder) and block is part.output_conv:
                places[index, "output"] = block
    if network.temporal is not None:
        places["temporal",] = network.temporal
    return places
