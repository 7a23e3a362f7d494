"""Runs a pipeline and keeps the outputs behind its objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import torch
from numpy.typing import NDArray

from instaseg_ros.frames import Frame, Instances, Result
from instaseg_ros.pipeline import Inferred, Pipeline


@dataclass(frozen=True, slots=True)
class Viewed(Result):
    """A result and where it comes from.

    outputs: raw outputs (C, H, W) float32 by head, at the network's size. clusters: the objects at
    that size, before they are brought to the camera's.
    """

    outputs: dict[str, NDArray[np.float32]] = field(kw_only=True)
    clusters: Instances = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class Viewer:
    """A processor for `replay` whose results are `Viewed`."""

    pipeline: Pipeline

    def process(self, frames: Sequence[Frame]) -> list[Viewed]:
        """The result of one frame. Raises ImageError as `Pipeline.process` does."""
        inferred = self.pipeline.infer(frames)
        outputs = raw_outputs(self.pipeline, inferred)
        (result,) = self.pipeline.finish(inferred)
        known = {one.name: getattr(result, one.name) for one in fields(Result)}
        return [Viewed(**known, outputs=outputs, clusters=inferred.instances[0])]


def raw_outputs(
    pipeline: Pipeline, inferred: Inferred, image: int = 0
) -> dict[str, NDArray[np.float32]]:
    """(C, H, W) float32 by head, for one image of a batch; copied, as the next call of the pipeline
    overwrites them."""
    heads = {head.name for head in pipeline.method.heads}
    return {
        name: output[image].detach().to("cpu", torch.float32, copy=True).numpy()
        for name, output in inferred.outputs.items()
        if name in heads
    }
