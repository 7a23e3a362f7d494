"""What a network remembers of earlier frames: the module that does, and who keeps it meanwhile."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from instaseg_ros.errors import ImageError
from instaseg_ros.types import Frame

CHANNELS = 32  # of each of the two layers that a `TemporalModule` remembers
STRIDE = 8  # of its features, in pixels
STATE, NEXT_STATE = "state", "next_state"  # names of a temporal network's second input and output
LONGEST_GAP_NS = 1_000_000_000  # ours: what moves has left its own place after a second


class TemporalModule(nn.Module):
    """Adds to features (B, 128, h, w) what the two frames before say about them.

    Two causal convolutions over time and space, 2 x 3 x 3 each, over few channels. A convolution
    that is 2 long in time is one in space over this frame's channels beside the last one's, which
    is how it is written here. Starts as the identity, so that weights of single frames stay good.
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
        """New features and the state after the last frame of each clip; see `ERFNet.forward`."""
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
    """Features (B * frames, C, h, w) of one frame earlier; `first` before the first of a clip."""
    if frames == 1:
        return first
    clips = x.unflatten(0, (-1, frames))
    return torch.cat([first[:, None], clips[:, :-1]], 1).flatten(0, 1)


def state_shape(batch: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Of the state before or after `batch` images of `size` (height, width)."""
    return batch, 2 * CHANNELS, size[0] // STRIDE, size[1] // STRIDE


class Memory:
    """The states of a temporal network, camera by camera.

    A frame goes on where its camera's last one ended if it is later by at most LONGEST_GAP_NS and
    the network sees it at the same size. Any other has no past: the first one, one whose stamp
    repeats, jumps back or far ahead.
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[int, Tensor]] = {}  # by frame_id: stamp and state (C, h, w)

    def before(self, frames: Sequence[Frame], size: tuple[int, int]) -> Tensor | None:
        """(B, C, h, w): what is remembered of the time before these frames, zeros of those without
        a past; None if none has one. size: (height, width) of the network's input.

        Raises ImageError for two frames of one camera: the second needs the first one's state.
        """
        names = [frame.frame_id for frame in frames]
        if len(set(names)) < len(names):
            raise ImageError(
                f"batch: expected frames of different cameras, got frame_id {names}; the method "
                "remembers each camera's last frame, so give those of one camera one by one"
            )
        past = [self._of(frame, state_shape(1, size)[1:]) for frame in frames]
        known = next((state for state in past if state is not None), None)
        if known is None:
            return None
        return torch.stack([torch.zeros_like(known) if s is None else s for s in past])

    def keep(self, frames: Sequence[Frame], state: Tensor) -> None:
        """Remember the state after these frames; a copy, as runtimes reuse their memory."""
        for frame, one in zip(frames, state.clone(), strict=True):
            self._kept[frame.frame_id] = frame.stamp_ns, one

    def clear(self) -> None:
        """Forget every camera."""
        self._kept.clear()

    def _of(self, frame: Frame, shape: tuple[int, ...]) -> Tensor | None:
        stamp_ns, state = self._kept.get(frame.frame_id, (frame.stamp_ns, None))
        follows = 0 < frame.stamp_ns - stamp_ns <= LONGEST_GAP_NS
        return state if state is not None and follows and state.shape == shape else None
