"""ERFNet (Romera et al. 2018) with one decoder per group of heads, as Neven et al. 2019 use it.

Module names follow the published checkpoints, so that their weights load key by key. The profile
`fast` is ours: the same blocks, fewer of them, and one decoder that stays at a quarter of the
resolution, to which the encoder's finer features come by shortcuts. A temporal network, ours too,
sees earlier frames through a `TemporalModule` between encoder and decoders.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from instaseg_ros.methods import Head
from instaseg_ros.temporal import NEXT_STATE, TemporalModule

BN_EPS = 1e-3
STRIDE = 8  # height and width of the input are multiples of this


class Profile(NamedTuple):
    """How much network there is.

    blocks: residual blocks of the encoder at a quarter of the resolution.
    dilations: of those at an eighth, one block each.
    shared_decoder: all heads come out of one `FastDecoder`, instead of `Decoder`s of their own.
    """

    blocks: int
    dilations: tuple[int, ...]
    shared_decoder: bool


PROFILES = {
    "published": Profile(5, (2, 4, 8, 16) * 2, shared_decoder=False),
    "fast": Profile(2, (2, 4, 8, 16, 2, 4), shared_decoder=True),  # 57 % of the multiplications
}


class Features(NamedTuple):
    """What an encoder sees: at its end (B, 128, H/8, W/8), and on the way there, fine (B, 64, H/4,
    W/4) and finest (B, 16, H/2, W/2)."""

    coarse: Tensor
    fine: Tensor
    finest: Tensor


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
    """Doubles the resolution with a transposed convolution."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(c_in, c_out, 3, stride=2, padding=1, output_padding=1)
        self.bn = nn.BatchNorm2d(c_out, eps=BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)))


class Encoder(nn.Module):
    """(B, 3, H, W) to `Features`."""

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
        self.n_fine = 1 + profile.blocks  # so many layers are at a quarter of the resolution
        # Only ERFNet's encoder pre-training uses it; kept so that published weights load whole.
        self.output_conv = nn.Conv2d(128, n_outputs, 1)

    def forward(self, x: Tensor) -> Features:
        x = finest = self.initial_block(x)
        for layer in self.layers[: self.n_fine]:
            x = layer(x)
        fine = x
        for layer in self.layers[self.n_fine :]:
            x = layer(x)
        return Features(x, fine, finest)


class Decoder(nn.Module):
    """`Features`, of which it uses the coarse ones, to (B, n_outputs, H, W)."""

    def __init__(self, n_outputs: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                Upsampler(128, 64),
                NonBottleneck1d(64, 0.0, 1),
                NonBottleneck1d(64, 0.0, 1),
                Upsampler(64, 16),
                NonBottleneck1d(16, 0.0, 1),
                NonBottleneck1d(16, 0.0, 1),
            ]
        )
        self.shortcuts = nn.ModuleList()
        self.output_conv = nn.ConvTranspose2d(16, n_outputs, 2, stride=2)

    def forward(self, features: Features) -> Tensor:
        x = features.coarse
        for layer in self.layers:
            x = layer(x)
        return self.output_conv(x)

    def last_layer(self, channels: slice) -> tuple[Tensor, Tensor]:
        """Views of what makes these output channels: weight (16, C, 2, 2) and bias (C,)."""
        assert self.output_conv.bias is not None
        return self.output_conv.weight[:, channels], self.output_conv.bias[channels]


class FastDecoder(nn.Module):
    """`Features` to (B, n_outputs, H, W): the last layer makes 4 x 4 pixels out of one.

    What is finer than the coarse features is added to them, once they are upsampled.
    """

    UPSCALE = 4

    def __init__(self, n_outputs: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [Upsampler(128, 64), NonBottleneck1d(64, 0.0, 1), NonBottleneck1d(64, 0.0, 1)]
        )
        self.shortcuts = nn.ModuleList([nn.Conv2d(64, 64, 1), nn.Conv2d(16, 64, 2, stride=2)])
        for parameter in self.shortcuts.parameters():
            nn.init.zeros_(parameter)  # training finds out what they are good for
        self.output_conv = nn.Conv2d(64, n_outputs * self.UPSCALE**2, 1)

    def forward(self, features: Features) -> Tensor:
        upsample, *blocks = self.layers
        x = upsample(features.coarse)
        for shortcut, finer in zip(self.shortcuts, (features.fine, features.finest), strict=True):
            x = x + shortcut(finer)
        for block in blocks:
            x = block(x)
        return nn.functional.pixel_shuffle(self.output_conv(x), self.UPSCALE)

    def last_layer(self, channels: slice) -> tuple[Tensor, Tensor]:
        """Views of what makes these output channels: weight (16 C, 64, 1, 1) and bias (16 C,)."""
        assert self.output_conv.bias is not None
        pixels = self.UPSCALE**2
        rows = slice(channels.start * pixels, channels.stop * pixels)
        return self.output_conv.weight[rows], self.output_conv.bias[rows]


class ERFNet(nn.Module):
    """RGB in [0, 1], (B, 3, H, W) with H and W multiples of 8, to {head name: (B, C, H, W)}.

    Heads that name the same decoder share its last convolution, in the order given.
    profile: one of `PROFILES`. temporal: with a `TemporalModule`.
    """

    def __init__(
        self, heads: Sequence[Head], profile: str = "published", temporal: bool = False
    ) -> None:
        super().__init__()
        self.heads = tuple(heads)
        shape = PROFILES[profile]
        n_decoders = 1 + max(head.decoder for head in heads)
        self.groups = [[h for h in heads if h.decoder == d] for d in range(n_decoders)]
        if shape.shared_decoder:
            self.groups = [list(heads)]
        decoder = FastDecoder if shape.shared_decoder else Decoder
        self.encoder = Encoder(sum(head.channels for head in heads), shape)
        self.decoders = nn.ModuleList(decoder(sum(h.channels for h in g)) for g in self.groups)
        self.temporal = TemporalModule() if temporal else None

    def forward(self, x: Tensor, state: Tensor | None = None, frames: int = 1) -> dict[str, Tensor]:
        """A temporal network also gives `next_state` (N, 64, H/8, W/8): what it remembers.

        x: N clips of `frames` frames each, B = N * frames images: first the frames of the first
            clip, in order of time, then those of the second, ...
        state: the `next_state` of the frame before the first of each clip; None, or zeros: there
            was none. Frame by frame the outputs are those of the whole clip.
        """
        return self.split_heads(self.decoder_outputs(x, state, frames))

    def decoder_outputs(
        self, x: Tensor, state: Tensor | None = None, frames: int = 1
    ) -> list[Tensor]:
        """(B, channels of its heads, H, W) of each decoder; of a temporal network, its state."""
        return self.decode_features(self.encoder(x), state, frames)

    def decode_features(
        self, features: Features, state: Tensor | None = None, frames: int = 1
    ) -> list[Tensor]:
        """`decoder_outputs` from the encoder's features."""
        memory = []
        if self.temporal is not None:
            remembered, next_state = self.temporal(features.coarse, state, frames)
            features = features._replace(coarse=remembered)
            memory.append(next_state)
        return [*(decoder(features) for decoder in self.decoders), *memory]

    def split_heads(self, outputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """`decoder_outputs` by name: heads as views of their channels."""
        heads: dict[str, Tensor] = {}
        if self.temporal is not None:
            *outputs, heads[NEXT_STATE] = outputs
        for group, output in zip(self.groups, outputs, strict=True):
            parts = output.split([head.channels for head in group], 1)
            heads.update(zip((head.name for head in group), parts, strict=True))
        return heads

    def head_parameters(self, name: str, channel: int | None = None) -> tuple[Tensor, Tensor]:
        """Views of the weight and the bias that make one head, or one channel of it, of its
        decoder's last layer."""
        for decoder, group in zip(self._decoders(), self.groups, strict=True):
            start = 0
            for head in group:
                if head.name == name:
                    first, count = (0, head.channels) if channel is None else (channel, 1)
                    return decoder.last_layer(slice(start + first, start + first + count))
                start += head.channels
        raise KeyError(name)

    def _decoders(self) -> list[Decoder | FastDecoder]:
        return list(self.decoders)  # type: ignore[arg-type]

    @torch.no_grad()
    def start_from(self, other: ERFNet) -> None:
        """Take the weights of every block that the other network has in the same place.

        Places are counted from the start of each stage of the encoder and of the decoders, the
        last decoder first, so that a smaller profile starts from a larger one's first blocks.
        """
        pairs: list[tuple[nn.Module, nn.Module]] = []
        for own, theirs in zip(_stages(self.encoder), _stages(other.encoder), strict=True):
            pairs += zip(own, theirs, strict=False)
        decoders = self._decoders()[::-1], other._decoders()[::-1]
        for one, two in zip(*decoders, strict=False):
            pairs += zip(one.layers, two.layers, strict=False)
            pairs += zip(one.shortcuts, two.shortcuts, strict=False)
            pairs.append((one.output_conv, two.output_conv))
        if self.temporal is not None and other.temporal is not None:
            pairs.append((self.temporal, other.temporal))
        for target, source in pairs:
            new, old = source.state_dict(), target.state_dict()
            if {k: v.shape for k, v in new.items()} == {k: v.shape for k, v in old.items()}:
                target.load_state_dict(new)


def _stages(encoder: Encoder) -> list[list[nn.Module]]:
    """The encoder's blocks by resolution, each stage from its downsampler on."""
    stages: list[list[nn.Module]] = [[encoder.initial_block], [encoder.output_conv]]
    for layer in encoder.layers:
        if isinstance(layer, Downsampler):
            stages.append([])
        stages[-1].append(layer)
    return stages
