"""The algorithm, once: camera frames in, instances at camera resolution out.

The robot's node and the replay of recordings call the same `Pipeline.process`.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import numpy as np
from torch import Tensor

from instaseg_ros.cameras import Camera, Cameras, keep_states, require_different, take_states
from instaseg_ros.checkpoint import Checkpoint, load_checkpoint
from instaseg_ros.config import Config, DecodeConfig, TrackingConfig
from instaseg_ros.configure import suited
from instaseg_ros.errors import ConfigError
from instaseg_ros.frames import Frame, Result
from instaseg_ros.model.mirror import mean_of_both, with_mirror_images
from instaseg_ros.model.temporal import NEXT_STATE
from instaseg_ros.preprocess import Geometry, preprocess, restore
from instaseg_ros.runtimes import (
    Remembering,
    Runtime,
    Uploading,
    open_runtime,
    prepares_for_minutes,
)
from instaseg_ros.tracking import Tracker

log = logging.getLogger(__name__)

WARM_UP_SIZE = (256, 512)  # (height, width) pixels where the configuration names none


class _Hold:
    """Waits for a lock and holds it until `end`, or until nobody has this object any more."""

    def __init__(self, lock: threading.Lock) -> None:
        lock.acquire()
        self._release = weakref.finalize(self, lock.release)

    def end(self) -> None:
        self._release()  # the first time only

    @property
    def ended(self) -> bool:
        return not self._release.alive


class Inferred(NamedTuple):
    """What the network says about some frames: its raw outputs (B, C, H, W) by head.

    trackers: of each frame's camera; none without tracking. jumped_back: frame_id of the cameras
    whose time did, so that they begin anew. hold: on the memory of the outputs.
    """

    outputs: dict[str, Tensor]
    geometry: Geometry
    stage_ms: dict[str, float]
    trackers: list[Tracker]
    jumped_back: tuple[str, ...]
    hold: _Hold


class Pipeline:
    """Network, decoding and geometry behind one call.

    config: the given one, with what suits its weights (see `configure.suited`); as it is where
    there is a checkpoint.
    checkpoint: in place of the configured weights; one without tensors will do for a runtime.
    runtime: in place of the configured one, such as `LiveRuntime` with a network in training.
    decode_config, tracking_config: may be replaced between calls (the node's live parameters). A
    method with a memory goes on from each camera's last frame, where `take_states` says that it
    may.
    """

    def __init__(
        self, config: Config, checkpoint: Checkpoint | None = None, runtime: Runtime | None = None
    ) -> None:
        if checkpoint is None:
            config = suited(config)
            log.info("loading weights %s", config.weights)
            checkpoint = load_checkpoint(config.weights)
        self.config = config
        self.decode_config: DecodeConfig = config.decode
        self.tracking_config: TrackingConfig = config.tracking
        self.checkpoint = checkpoint
        self.class_names = self.checkpoint.class_names
        self.method = self.checkpoint.method()
        if runtime is None:
            log.info(
                "preparing runtime %s: the first start on a machine may take minutes",
                config.runtime.name,
            )
            runtime = open_runtime(config.runtime, checkpoint)
        self.runtime = runtime
        self._cameras = Cameras()
        if self.method.temporal and config.input.mirror:
            raise ConfigError(
                f"input.mirror: {self.method.name} remembers what it saw, not its mirror image; "
                "set it to false"
            )
        self._outputs_in_use = threading.Lock()  # from the network until they are decoded

    def process(self, frames: Sequence[Frame]) -> list[Result]:
        """Instances of each frame; the frames of one call share one image size (one batch).

        Raises ImageError for images that are not (H, W, 3) uint8 of one size.
        """
        return self.decode(self.infer(frames))

    def infer(self, frames: Sequence[Frame]) -> Inferred:
        """The first half of `process`. To be followed by `decode`, in this thread or another: the
        network waits for it before it runs again, as both share the memory of the outputs. What is
        not to be decoded must not be kept."""
        stage_ms: dict[str, float] = {}
        if self.method.temporal:
            require_different(frames)
        with _timed(stage_ms, "preprocess"):
            pixels, geometry = preprocess(
                [f.image for f in frames], self.config.input, self.checkpoint.stride
            )
            if self.config.input.mirror:
                pixels = with_mirror_images(pixels)
            if isinstance(self.runtime, Uploading):  # while the last frame is still in work
                pixels = self.runtime.upload(pixels)
        cameras = self._cameras.of(frames)
        trackers = self._cameras.trackers(cameras, self.tracking_config)
        pairs = zip(frames, cameras, strict=True)
        jumped_back = tuple(frame.frame_id for frame, camera in pairs if camera.jumped_back)
        hold = _Hold(self._outputs_in_use)
        try:
            with _timed(stage_ms, "network"):
                outputs = self._run(pixels, cameras)
        except BaseException:
            hold.end()
            raise
        return Inferred(outputs, geometry, stage_ms, trackers, jumped_back, hold)

    def decode(self, inferred: Inferred) -> list[Result]:
        """The second half of `process`, once for each first one."""
        outputs, geometry, stage_ms, trackers, _, hold = inferred
        if hold.ended:
            raise RuntimeError("decode: these outputs were decoded before, and are overwritten")
        try:
            with _timed(stage_ms, "decode"):
                height, width = geometry.scaled
                outputs = {name: o[..., :height, :width] for name, o in outputs.items()}
                decoded = self.method.decode(outputs, self.decode_config)
        finally:
            hold.end()
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
        log.info(
            "compiling the network for images of %d x %d: the first start may take minutes", *size
        )
        self.process([Frame(np.zeros((*size, 3), np.uint8))])
        self.reset()
        return True

    def reset(self) -> None:
        """Forget everything of earlier frames, once the last of them is decoded."""
        with self._outputs_in_use:
            self._cameras.clear()

    def _run(self, pixels: Any, cameras: Sequence[Camera]) -> dict[str, Tensor]:
        """The network's outputs; what it remembers of the cameras moves on by a frame."""
        if not self.method.temporal:
            outputs = self.runtime(pixels)
            if self.config.input.mirror:
                outputs = mean_of_both(outputs, self.method.mirror_turns)
            return outputs
        past = take_states(cameras, pixels.shape[1:3])
        outputs = cast(Remembering, self.runtime)(pixels, past)
        keep_states(cameras, outputs.pop(NEXT_STATE))
        return outputs


@contextmanager
def _timed(stage_ms: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    stage_ms[stage] = (time.perf_counter() - start) * 1e3
