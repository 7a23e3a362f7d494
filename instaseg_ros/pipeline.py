"""The algorithm, once: camera frames in, instances at camera resolution out.

The robot's node and the replay of recordings call the same `Pipeline.process`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from instaseg_ros.checkpoint import load_checkpoint
from instaseg_ros.config import Config, DecodeConfig
from instaseg_ros.preprocess import preprocess, restore
from instaseg_ros.runtimes import open_runtime
from instaseg_ros.types import Frame, Result


class Pipeline:
    """Network, decoding and geometry behind one call.

    decode_config: thresholds, may be replaced between calls (the node's live parameters).
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.decode_config: DecodeConfig = config.decode
        self.checkpoint = load_checkpoint(config.weights)
        self.class_names = self.checkpoint.class_names
        self.method = self.checkpoint.method()
        self.runtime = open_runtime(config.runtime, self.checkpoint)

    def process(self, frames: Sequence[Frame]) -> list[Result]:
        """Instances of each frame; the frames of one call share one image size (one batch).

        Raises ImageError for images that are not (H, W, 3) uint8 of one size.
        """
        stage_ms: dict[str, float] = {}
        with _timed(stage_ms, "preprocess"):
            images, geometry = preprocess([f.image for f in frames], self.config.input)
        with _timed(stage_ms, "network"):
            outputs = self.runtime(images)
        with _timed(stage_ms, "decode"):
            height, width = geometry.scaled
            outputs = {name: o[..., :height, :width] for name, o in outputs.items()}
            decoded = self.method.decode(outputs, self.decode_config)
        with _timed(stage_ms, "restore"):
            instances = [restore(one, geometry) for one in decoded]
        return [Result(one, stage_ms) for one in instances]

    def reset(self) -> None:
        """Forget everything of earlier frames. Spatial embedding has no memory."""


@contextmanager
def _timed(stage_ms: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    stage_ms[stage] = (time.perf_counter() - start) * 1e3
