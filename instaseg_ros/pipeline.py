"""The algorithm, once: camera frames in, instances at camera resolution out.

The robot's node and the replay of recordings call the same `Pipeline.process`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, cast

import numpy as np
from torch import Tensor

from instaseg_ros.checkpoint import load_checkpoint
from instaseg_ros.config import Config, DecodeConfig, TrackingConfig
from instaseg_ros.configure import suited
from instaseg_ros.errors import ConfigError
from instaseg_ros.mirroring import mean_of_both, with_mirror_images
from instaseg_ros.preprocess import Geometry, preprocess, restore
from instaseg_ros.runtimes import Remembering, Uploading, open_runtime, prepares_for_minutes
from instaseg_ros.temporal import NEXT_STATE, Memory
from instaseg_ros.tracking import Tracker, Trackers
from instaseg_ros.types import Frame, Result

WARM_UP_SIZE = (256, 512)  # (height, width) pixels where the configuration names none


class Inferred(NamedTuple):
    """What the network says about some frames: its raw outputs (B, C, H, W) by head.

    trackers: of each frame's camera; none without tracking.
    """

    outputs: dict[str, Tensor]
    geometry: Geometry
    stage_ms: dict[str, float]
    trackers: list[Tracker]


class Pipeline:
    """Network, decoding and geometry behind one call.

    config: the given one, with what suits its weights (see `configure.suited`).
    decode_config, tracking_config: may be replaced between calls (the node's live parameters). A
    method with a memory goes on from each camera's last frame, where `Memory` says that it may.
    """

    def __init__(self, config: Config) -> None:
        self.config = config = suited(config)
        self.decode_config: DecodeConfig = config.decode
        self.tracking_config: TrackingConfig = config.tracking
        self.checkpoint = load_checkpoint(config.weights)
        self.class_names = self.checkpoint.class_names
        self.method = self.checkpoint.method()
        self.runtime = open_runtime(config.runtime, self.checkpoint)
        self._memory = Memory() if self.method.temporal else None
        if self._memory and config.input.mirror:
            raise ConfigError(
                f"input.mirror: {self.method.name} remembers what it saw, not its mirror image; "
                "set it to false"
            )
        self._outputs_in_use = threading.Lock()  # from the network until they are decoded
        self._trackers = Trackers()

    def process(self, frames: Sequence[Frame]) -> list[Result]:
        """Instances of each frame; the frames of one call share one image size (one batch).

        Raises ImageError for images that are not (H, W, 3) uint8 of one size.
        """
        return self.decode(self.infer(frames))

    def infer(self, frames: Sequence[Frame]) -> Inferred:
        """The first half of `process`. To be followed by `decode`, in this thread or another: the
        network waits for it before it runs again, as both share the memory of the outputs."""
        stage_ms: dict[str, float] = {}
        with _timed(stage_ms, "preprocess"):
            pixels, geometry = preprocess(
                [f.image for f in frames], self.config.input, self.checkpoint.stride
            )
            if self.config.input.mirror:
                pixels = with_mirror_images(pixels)
            if isinstance(self.runtime, Uploading):  # while the last frame is still in work
                pixels = self.runtime.upload(pixels)
        trackers = self._trackers.of(frames, self.tracking_config)
        self._outputs_in_use.acquire()
        try:
            with _timed(stage_ms, "network"):
                if self._memory is None:
                    outputs = self.runtime(pixels)
                    if self.config.input.mirror:
                        outputs = mean_of_both(outputs, self.method.mirror_turns)
                    return Inferred(outputs, geometry, stage_ms, trackers)
                past = self._memory.before(frames, pixels.shape[1:3])
                outputs = cast(Remembering, self.runtime)(pixels, past)
                self._memory.keep(frames, outputs.pop(NEXT_STATE))
                return Inferred(outputs, geometry, stage_ms, trackers)
        except BaseException:
            self._outputs_in_use.release()
            raise

    def decode(self, inferred: Inferred) -> list[Result]:
        """The second half of `process`."""
        outputs, geometry, stage_ms, trackers = inferred
        try:
            with _timed(stage_ms, "decode"):
                height, width = geometry.scaled
                outputs = {name: o[..., :height, :width] for name, o in outputs.items()}
                decoded = self.method.decode(outputs, self.decode_config)
        finally:
            self._outputs_in_use.release()
        with _timed(stage_ms, "restore"):
            instances = [restore(one, geometry) for one in decoded]
        if trackers:
            with _timed(stage_ms, "track"):
                pairs = zip(trackers, instances, strict=True)
                instances = [tracker.update(one) for tracker, one in pairs]
        return [Result(one, stage_ms) for one in instances]

    def warm_up(self) -> bool:
        """Run a black image: first calls compile and allocate, and no camera should wait for that.

        False, and nothing is run, where the runtime takes minutes for each image size and the
        configuration does not say which one will come.
        """
        size = (self.config.input.height, self.config.input.width)
        if not all(size):
            if prepares_for_minutes(self.runtime):
                return False
            size = WARM_UP_SIZE
        self.process([Frame(np.zeros((*size, 3), np.uint8))])
        self.reset()
        return True

    def reset(self) -> None:
        """Forget everything of earlier frames, once the last of them is decoded."""
        with self._outputs_in_use:
            self._trackers.clear()
            if self._memory is not None:
                self._memory.clear()


@contextmanager
def _timed(stage_ms: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    stage_ms[stage] = (time.perf_counter() - start) * 1e3
