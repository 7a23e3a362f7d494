"""Turns camera frames into instances at camera resolution.

The robot's node and the replay of recordings call the same `Pipeline.process`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from instaseg_ros.cameras import (
    Camera,
    Cameras,
    keep_states,
    name_of,
    require_different,
    take_states,
)
from instaseg_ros.checkpoint import Checkpoint, load_checkpoint
from instaseg_ros.config import Config, InputConfig, leaves_of, parameters
from instaseg_ros.config.options import spatial_embedding
from instaseg_ros.configure import suited
from instaseg_ros.errors import ConfigError
from instaseg_ros.frames import Frame, Instances, Result
from instaseg_ros.methods.class_limits import limits_of, within
from instaseg_ros.model.heads import DENSE
from instaseg_ros.model.mirror import mean_of_both, with_mirror_images
from instaseg_ros.model.temporal import NEXT_STATE
from instaseg_ros.preprocess import Geometry, preprocess, restore, scaled_size
from instaseg_ros.runtimes import (
    Remembering,
    Runtime,
    Uploading,
    open_runtime,
    prepares_for_minutes,
)
from instaseg_ros.runtimes.openvino_runtime import OpenVinoRuntime
from instaseg_ros.tracking import Tracker, load_assignment

log = logging.getLogger(__name__)

WARM_UP_SIZE = (256, 512)  # (height, width) pixels where the configuration names none
WARM_UP_FRAMES = 6  # GPU work is recorded after it has run: the network, then decoding


class Inferred(NamedTuple):
    """The result of network and clustering for a batch of frames.

    instances: of each frame, at the network's size. outputs: raw outputs (B, C, H, W) by head, and
    `dense` (see `ERFNet`) with what was padded; the next call overwrites them. trackers: one for
    each frame's camera; empty without tracking.
    jumped_back: the cameras whose time jumped back, so that they start afresh.
    """

    instances: list[Instances]
    outputs: dict[str, Tensor]
    geometry: Geometry
    stage_ms: dict[str, float]
    trackers: list[Tracker]
    jumped_back: tuple[str, ...]
    frames: tuple[Frame, ...]

    def apart(self) -> list[Inferred]:
        """The result for each frame alone, in order, to `finish` one by one."""
        return [
            self._replace(
                instances=[one],
                trackers=self.trackers[n : n + 1],
                frames=self.frames[n : n + 1],
            )
            for n, one in enumerate(self.instances)
        ]


class Pipeline:
    """Network, decoding and geometry behind one call.

    config: completed with what suits its weights (see `configure.suited`) unless a checkpoint is
    given; `reconfigure` replaces it.
    checkpoint: used instead of the configured weights; with a `runtime` it needs no tensors.
    runtime: used instead of the configured one, such as `LiveRuntime` with a network in training.
    A method with a memory continues from each camera's last frame if `take_states` allows it.
    """

    def __init__(
        self, config: Config, checkpoint: Checkpoint | None = None, runtime: Runtime | None = None
    ) -> None:
        if checkpoint is None:
            config = suited(config)
            log.info("loading weights %s", config.weights)
            checkpoint = load_checkpoint(config.weights)
        self.config = config
        self.checkpoint = checkpoint
        self.class_names = self.checkpoint.class_names
        self.method = self.checkpoint.method()
        if runtime is None:
            log.info(
                "preparing runtime %s: the first start on a machine may take minutes",
                config.runtime.name,
            )
            size = config.input.height, config.input.width
            runtime = open_runtime(config.runtime, checkpoint, size)
        self.runtime = runtime
        self._cameras = Cameras()
        self._voters = _dense_channels(checkpoint)
        self._check_vote(config)
        limits_of(config.decode, self.class_names)
        if self.method.temporal and config.input.mirror:
            raise ConfigError(
                f"input.mirror: {self.method.name} has a memory, which mirror images would "
                "disturb; set it to false"
            )

    def process(self, frames: Sequence[Frame]) -> list[Result]:
        """Instances of each frame; all frames of a call (one batch) must have one image size.

        Raises ImageError for images that are not (H, W, 3) uint8 of one size.
        """
        return self.finish(self.infer(frames))

    def infer(self, frames: Sequence[Frame]) -> Inferred:
        """The first half of `process`: network and clustering. Only one thread may be in it."""
        config = self.config
        stage_ms: dict[str, float] = {}
        if self.method.temporal:
            require_different(frames)
        with _timed(stage_ms, "preprocess"):
            pixels, geometry = preprocess(
                [f.image for f in frames], config.input, self.checkpoint.stride
            )
            size = pixels.shape[1:3]
            mirror = config.input.mirror
            images: Any = pixels
            if isinstance(self.runtime, Uploading):
                images = self.runtime.upload(pixels, mirrored=mirror)
            elif mirror:
                images = with_mirror_images(pixels)
        cameras = self._cameras.of(frames)
        trackers = self._cameras.trackers(cameras, config.tracking)
        pairs = zip(frames, cameras, strict=True)
        jumped_back = tuple(name_of(frame) for frame, camera in pairs if camera.jumped_back)
        with _timed(stage_ms, "network"):
            outputs = self._run(images, size, mirror, cameras)
        with _timed(stage_ms, "decode"):
            height, width = geometry.scaled
            outputs = {
                name: o if name == DENSE else o[..., :height, :width] for name, o in outputs.items()
            }
            instances = self.method.decode(self._for_vote(outputs, config), config.decode)
            if limits := limits_of(config.decode, self.class_names):
                each = enumerate(instances)
                instances = [within(one, limits, outputs, image) for image, one in each]
        return Inferred(instances, outputs, geometry, stage_ms, trackers, jumped_back, (*frames,))

    def finish(self, inferred: Inferred) -> list[Result]:
        """The second half: instances at camera resolution, with the trackers' ids. Call it frame
        after frame, in any thread, also while the first half works on the next."""
        stage_ms = dict(inferred.stage_ms)
        with _timed(stage_ms, "restore"):
            instances = [restore(one, inferred.geometry) for one in inferred.instances]
        if inferred.trackers:
            with _timed(stage_ms, "track"):
                each = zip(inferred.trackers, instances, inferred.frames, strict=True)
                instances = [tracker.update(one, frame) for tracker, one, frame in each]
        return [Result(one, dict(stage_ms), inferred.geometry.scaled) for one in instances]

    def reconfigure(self, config: Config) -> None:
        """Use `config` from the next frame on. Raises ConfigError, and changes nothing, if `check`
        does."""
        self.check(config)
        if config.tracking.enabled:
            load_assignment()  # here, so that no frame waits for it
        self.config = config

    def check(self, config: Config) -> None:
        """Raise ConfigError if a parameter differs that is not live, or the weights or the runtime
        lack what one needs."""
        live = {leaf.name for leaf in parameters(self.config) if leaf.live}
        old, new = leaves_of(self.config), leaves_of(config)  # two methods have different names
        fixed = [n for n in {**old, **new} if n not in live and old.get(n) != new.get(n)]
        if fixed:
            raise ConfigError(
                f"{', '.join(fixed)}: expected to stay as it is while the network runs; "
                "make another Pipeline"
            )
        self._check_scale(config)
        self._check_vote(config)
        limits_of(config.decode, self.class_names)

    def warm_up(self, batches: Sequence[int] = (1,)) -> bool:
        """Process noise: first calls compile, record and allocate, and no camera should wait.

        batches: the numbers of frames that `process` is going to be called with.
        Returns False without running anything if the runtime takes minutes for each image size and
        the configuration does not fix the size.
        """
        size = (self.config.input.height, self.config.input.width)
        is_known = all(size)
        if not is_known:
            if prepares_for_minutes(self.runtime):
                return False
            size = _warm_up_size(self.config.input)
        log.info(
            "compiling the network for images of %d x %d: the first start may take minutes", *size
        )
        # Not black: on an empty image a faulty kernel may look right.
        noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        times = WARM_UP_FRAMES if isinstance(self.runtime, Uploading) else 1
        for batch in batches:
            frames = [Frame(noise, camera=str(n)) for n in range(batch)]
            for _ in range(times):
                self.process(frames)
        self.reset()
        if not is_known and isinstance(self.runtime, OpenVinoRuntime):
            self.runtime.forget()  # 50 to 100 MB for each number of frames
        return True

    def reset(self) -> None:
        """Forget everything of earlier frames."""
        self._cameras.clear()

    def _check_scale(self, config: Config) -> None:
        before, scale = self.config.input.scale, config.input.scale
        if scale == before:
            return
        name = "input.height" if config.input.height else "input.width"
        if config.input.height or config.input.width:
            raise ConfigError(
                f"input.scale: expected to stay {before:g}, as {name} is set and decides the size, "
                f"got {scale:g}; set {name} to 0 before the network is made"
            )
        if prepares_for_minutes(self.runtime):
            raise ConfigError(
                f"input.scale: expected to stay {before:g} while {self.runtime.name} runs, which "
                f"builds for minutes for each image size, got {scale:g}; set it before the network "
                "is made (a node: deactivate, cleanup)"
            )

    def _check_vote(self, config: Config) -> None:
        if _votes(config) and not len(self._voters):
            known = self.checkpoint.dense_names
            found = f"one for {', '.join(known)}" if known else "weights without one"
            raise ConfigError(
                f"decode.class_vote: expected a dense head that knows "
                f"{', '.join(self.class_names)}, got {found}; set it to false, or choose weights "
                "that were trained with train.weight_dense"
            )

    def _for_vote(self, outputs: dict[str, Tensor], config: Config) -> dict[str, Tensor]:
        """The outputs, `dense` with a channel for each of the weights' classes if they are to
        vote."""
        if not _votes(config):
            return outputs
        dense = outputs[DENSE]
        self._voters = self._voters.to(dense.device)
        return {**outputs, DENSE: dense.index_select(1, self._voters)}

    def _run(
        self, images: Any, size: tuple[int, int], mirror: bool, cameras: Sequence[Camera]
    ) -> dict[str, Tensor]:
        """Run the network and return its outputs; its memory of the cameras advances by a frame.

        images: of `size` (height, width), uploaded or not; with `mirror`, twice as many.
        """
        if not self.method.temporal:
            outputs = self.runtime(images)
            if mirror:
                outputs = mean_of_both(outputs, self.method.mirror_turns, self.method.through_tanh)
            return outputs
        past = take_states(cameras, size)
        outputs = cast(Remembering, self.runtime)(images, past)
        keep_states(cameras, outputs.pop(NEXT_STATE))
        return outputs


def _warm_up_size(config: InputConfig) -> tuple[int, int]:
    """WARM_UP_SIZE, halved until the limit of pixels admits it; only in width where the rows would
    be magnified again."""
    height, width = WARM_UP_SIZE
    while width > 1:
        scaled = scaled_size((height, width), config)
        if max(height * width, scaled[0] * scaled[1]) <= config.max_pixels:
            break
        width //= 2
        if height > config.min_height:
            height = max(1, height // 2)
    return height, width


def _votes(config: Config) -> bool:
    decode = config.decode
    return isinstance(decode, spatial_embedding.DecodeConfig) and decode.class_vote


def _dense_channels(checkpoint: Checkpoint) -> Tensor:
    """(C,) int64: for each class, its channel of `dense`; empty unless each has one."""
    dense, names = checkpoint.dense_names, checkpoint.class_names
    there = set(names) <= set(dense)
    return torch.tensor([dense.index(name) for name in names] if there else [], dtype=torch.int64)


@contextmanager
def _timed(stage_ms: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    stage_ms[stage] = (time.perf_counter() - start) * 1e3
