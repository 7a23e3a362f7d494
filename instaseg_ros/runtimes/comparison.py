"""Compares a runtime's outputs with the float32 network's, on real frames."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from instaseg_ros.config import InputConfig
from instaseg_ros.errors import MissingExtraError
from instaseg_ros.model.temporal import NEXT_STATE
from instaseg_ros.preprocess import preprocess
from instaseg_ros.recordings.sources import open_source, spread_frames
from instaseg_ros.runtimes.torch_runtime import LiveRuntime, synchronise

if TYPE_CHECKING:
    from instaseg_ros.checkpoint import Checkpoint

FRAMES = 4
# The largest `Difference.relative` that a precision explains. Eager torch has 0.007 in fp16 and
# 0.11 in bf16, with the shipped weights on the shipped street.
TOLERANCES = {"fp32": 1e-3, "fp16": 0.03, "bf16": 0.3, "int8": 0.5}


class Difference(NamedTuple):
    """Absolute differences of raw head outputs, and the largest relative to its head's range.

    relative: the largest difference of the worst head, divided by the largest value expected of
        that head; tolerances apply to this, as the heads' ranges differ widely.
    """

    largest: float
    mean: float
    relative: float

    def __str__(self) -> str:
        return f"largest {self.largest:.2g}, mean {self.mean:.2g}, relative {self.relative:.2g}"


class Comparison:
    """The float32 network's outputs for a few frames, to compare runtimes with."""

    def __init__(
        self, checkpoint: Checkpoint, size: tuple[int, int], images: str | Path | None = None
    ) -> None:
        """size: (height, width), multiples of 8. images: anything `open_source` reads; None: the
        package's recording of the synthetic street, or rendered frames if it cannot be read."""
        self.frames = [frame[None] for frame in sample_frames(size, images)]  # (1, H, W, 3) each
        reference = LiveRuntime(checkpoint.network().eval())
        self.expected: list[dict[str, Tensor]] = []
        for frame in self.frames:
            past = self.expected[-1].get(NEXT_STATE) if self.expected else None
            self.expected.append(reference(frame, past))

    def __call__(self, run: Callable[..., dict[str, Tensor]]) -> Difference:
        """The difference of `run`, which is called like a runtime, once per frame; a network with a
        memory continues from frame to frame."""
        past: tuple[Tensor, ...] = ()
        largest, total, count, relative = 0.0, 0.0, 0, 0.0
        for frame, heads in zip(self.frames, self.expected, strict=True):
            outputs = run(frame, *past)
            if NEXT_STATE in outputs:
                past = (outputs[NEXT_STATE].clone(),)
            for name, expected in heads.items():
                difference = (outputs[name].cpu().float() - expected).abs()
                worst = float(difference.max())
                # Comparisons with NaN are false; it must not pass for a small difference.
                worst = float("inf") if not np.isfinite(worst) else worst
                largest = max(largest, worst)
                relative = max(relative, worst / max(float(expected.abs().max()), 1e-6))
                total += float(difference.double().sum())
                count += difference.numel()
        return Difference(largest, total / count, relative)


def sample_frames(size: tuple[int, int], images: str | Path | None = None) -> NDArray[np.uint8]:
    """(N, H, W, 3) uint8 RGB: up to FRAMES frames spread over the source, scaled to `size`."""
    shipped = Path(str(files("instaseg_ros") / "demo_data" / "street.mcap"))
    try:
        source = open_source(images or shipped)
    except MissingExtraError:
        if images:
            raise
        return _drawn(size)
    found = [_scaled(frame.image, size) for frame in spread_frames(source, FRAMES)]
    return np.concatenate(found)


def _drawn(size: tuple[int, int]) -> NDArray[np.uint8]:
    from instaseg_ros.synthetic_street import SyntheticStreet

    street = SyntheticStreet(
        size, split="val", sequences=FRAMES, frames_per_sequence=1, depth=False
    )
    return np.stack([street[index].frame.image for index in range(FRAMES)])


def timed_ms(run: Callable[[], object], rounds: int) -> Sequence[float]:
    """Wall-clock milliseconds of each of `rounds` calls after a first one, with CUDA's work."""
    samples = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        run()
        synchronise()
        samples.append((time.perf_counter() - start) * 1e3)
    return samples[1:]


def _scaled(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    return preprocess([image], InputConfig(*size))[0]
