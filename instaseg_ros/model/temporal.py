"""Lets a network remember earlier frames."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from instaseg_ros.model.heads import STRIDE

CHANNELS = 32  # channels of each of the two layers that a `TemporalModule` remembers
STATE, NEXT_STATE = "state", "next_state"  # a temporal network's second input and output


class TemporalModule(nn.Module):
    """Adds information from the two previous frames to features (B, 128, h, w).

    Two causal convolutions over time and space, 2 x 3 x 3 each, over few channels. A convolution
    of length 2 in time equals one in space over the channels of this frame and the last, which is
    how it is written here. Starts as the identity, so that weights for single frames stay valid.
    """

    def __init__(self) -> None:
        super().__init__()
        c = CHANNELS
        self.reduce = nn.Conv2d(128, c, 1)
        self.conv1 = nn.Conv2d(2 * c, c, 3, padding=1)
        self.conv2 = nn.Conv2d(2 * c, c, 3, padding=1)
        self.expand = nn.Conv2d(c, 128, 1)
        nn.init.zeros_(self.expand.weight)
        assert self.expand.bias is not None
        nn.init.zeros_(self.expand.bias)

    def forward(self, x: Tensor, state: Tensor | None, frames: int) -> tuple[Tensor, Tensor]:
        """The new features, and the state after each clip's last frame; see `ERFNet.forward`."""
        now = torch.relu(self.reduce(x))  # (B, c, h, w)
        if state is None:
            clips = len(x) // frames
            state = now.new_zeros(clips, 2 * CHANNELS, *now.shape[2:])
        past, past_deeper = state.to(now.dtype).split([CHANNELS, CHANNELS], 1)
        deeper = torch.relu(self.conv1(torch.cat([_delayed(now, past, frames), now], 1)))
        both = torch.cat([_delayed(deeper, past_deeper, frames), deeper], 1)
        x = x + self.expand(torch.relu(self.conv2(both)))
        last = slice(frames - 1, None, frames)
        memory = torch.cat([now, deeper], 1)
        return x, memory if frames == 1 else memory[last]


def _delayed(x: Tensor, first: Tensor, frames: int) -> Tensor:
    """Features (B * frames, C, h, w) delayed by a frame; `first` precedes a clip's first frame."""
    if frames == 1:
        return first
    clips = x.unflatten(0, (-1, frames))
    return torch.cat([first[:, None], clips[:, :-1]], 1).flatten(0, 1)


def state_shape(batch: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The shape of the state for `batch` images of `size` (height, width)."""
    return batch, 2 * CHANNELS, size[0] // STRIDE, size[1] // STRIDE
