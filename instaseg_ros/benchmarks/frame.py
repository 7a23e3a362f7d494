"""Times every stage of a frame, ours and the yardstick's.

One process runs ours and the yardstick in turn (A B A B ...) and reports medians and 99th
percentiles over the rounds. Ours is the pipeline as the node runs it, from image message to result
messages. The network sees noise, which takes as long as a street; decoding gets synthetic outputs
(see `yardstick`, which also defines the yardstick), on the device of the network's own outputs.
"""

from __future__ import annotations

import importlib.util
import logging
import resource
import time
from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from instaseg_ros.benchmarks.yardstick import (
    FOREGROUND_SHARE,
    Yardstick,
    made_to_measure,
    same_objects,
)
from instaseg_ros.config import Config
from instaseg_ros.errors import ConfigError
from instaseg_ros.frames import Frame, Instances
from instaseg_ros.pipeline import WARM_UP_FRAMES, Pipeline
from instaseg_ros.processor import processor_name
from instaseg_ros.recordings import result_messages as messages
from instaseg_ros.recordings.image_messages import image_to_rgb
from instaseg_ros.runtimes import Runtime
from instaseg_ros.runtimes.torch_runtime import synchronise
from instaseg_ros.tables import text_table

STAGES = ("convert", "preprocess", "network", "decode", "label_image", "messages")
log = logging.getLogger(__name__)

NAMES = {"restore": "label_image"}  # clearer names for the pipeline's stages


class Clock:
    """Measures milliseconds by name."""

    def __init__(self) -> None:
        self.samples_ms: dict[str, list[float]] = defaultdict(list)

    def __call__(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        start = time.perf_counter()
        value = function(*args)
        synchronise()
        self.samples_ms[name].append((time.perf_counter() - start) * 1e3)
        return value

    def table(self) -> dict[str, dict[str, float]]:
        """{name: {p50_ms, p99_ms}}, with the rounds' `total`."""
        samples = dict(self.samples_ms)
        samples["total"] = np.sum(list(samples.values()), axis=0).tolist()
        return {
            name: {"p50_ms": float(np.median(ms)), "p99_ms": float(np.percentile(ms, 99))}
            for name, ms in samples.items()
        }


class Ours:
    """The pipeline from image message to result messages, on one image of `size`.

    Its network runs, but `made` replaces its outputs before decoding.
    """

    def __init__(self, config: Config, size: tuple[int, int]) -> None:
        self.pipeline = Pipeline(config)
        height, width = size
        noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        self._message = SimpleNamespace(
            encoding="bgr8",
            height=height,
            width=width,
            step=3 * width,
            is_bigendian=0,
            data=noise.ravel(),
        )
        self._substitute = self.pipeline.runtime = _Substitute(self.pipeline.runtime)
        inferred = self.pipeline.infer([Frame(noise)])
        self.images, self.decoded_size = self._substitute.images, inferred.geometry.scaled
        self.device = next(iter(inferred.outputs.values())).device
        self._makes_messages = importlib.util.find_spec("rosbags") is not None
        if not self._makes_messages:
            log.warning("messages are not timed: their types need the package rosbags")

    def decode_what(self, objects: int, foreground_px: int, n_used: int = 0) -> dict[str, Tensor]:
        """Replace the network's outputs by synthetic ones, and return these."""
        checkpoint = self.pipeline.checkpoint
        if checkpoint.method_name != "spatial_embedding":
            raise ConfigError(
                f"weights {self.pipeline.config.weights}: the published way beside ours is that of "
                f"spatial_embedding, got {checkpoint.method_name}; compare it with --methods"
            )
        if self.pipeline.config.input.mirror:
            raise ConfigError("input.mirror: the published way has no such thing; set it to false")
        made = made_to_measure(
            *self.decoded_size,
            len(checkpoint.class_names),
            checkpoint.method_config.n_sigma,
            objects,
            foreground_px,
            n_used,
        )
        self._substitute.made = {name: part.to(self.device) for name, part in made.items()}
        return self._substitute.made

    def __call__(self, clock: Clock) -> Instances:
        rgb = clock("convert", image_to_rgb, self._message)
        (result,) = self.pipeline.process([Frame(rgb)])
        for stage, ms in result.stage_ms.items():
            clock.samples_ms[NAMES.get(stage, stage)].append(ms)
        if self._makes_messages:
            clock("messages", self._messages, result.instances)
        return result.instances

    def _messages(self, instances: Instances) -> Any:
        from instaseg_ros.recordings.message_types import make_header, message_classes

        msgs, header = message_classes(), make_header(0, "camera")
        return (
            messages.labels_message(msgs, header, instances.labels),
            messages.detections_message(msgs, header, instances, self.pipeline.class_names),
        )


class _Substitute:
    """A runtime that runs, but returns `made` in place of its outputs of those names. images:
    (1, H, W, 3), its last input."""

    images: NDArray[np.uint8]

    def __init__(self, runtime: Runtime) -> None:
        self.name, self.precision = runtime.name, runtime.precision
        self.runtime, self.made = runtime, dict[str, Tensor]()

    def __call__(self, images: NDArray[np.uint8], *state: Tensor | None) -> dict[str, Tensor]:
        self.images = images
        outputs = self.runtime(images, *state)
        synchronise()
        return outputs | self.made


def bench(
    config: Config, size: tuple[int, int], objects: int, rounds: int, n_used: int = 0
) -> dict[str, Any]:
    """Time every stage of ours and of the yardstick on one image of `size` (height, width).

    objects: number in the image, always covering the same share of it; of the first `n_used`
    classes, 0: of all. Raises AssertionError if the two find different objects.
    """
    ours = Ours(config, size)
    height, width = ours.decoded_size
    made = ours.decode_what(objects, round(FOREGROUND_SHARE * height * width), n_used)
    for _ in range(WARM_UP_FRAMES):
        instances = ours(Clock())
    memory = peak_memory()  # before the yardstick takes any
    theirs = Yardstick(ours.pipeline.checkpoint, ours.images, ours.device)
    theirs.network()
    if not same_objects(instances.labels, _scaled(theirs.decode(made, config.decode), size)):
        raise AssertionError("our labels differ from those of the published loop")
    our_clock, their_clock = Clock(), Clock()
    for _ in range(rounds):
        ours(our_clock)
        their_clock("network", theirs.network)
        their_clock("decode", theirs.decode, made, config.decode)
    stages, yardstick = our_clock.table(), their_clock.table()
    return {
        "size": f"{size[0]}x{size[1]}",
        "network_size": "x".join(map(str, ours.images.shape[1:3])),
        "objects": len(instances),
        "rounds": rounds,
        "weights": config.weights,
        "runtime": ours.pipeline.runtime.name,
        "precision": ours.pipeline.runtime.precision,
        **machine(config.runtime.threads),
        "stages": {name: stages[name] for name in (*STAGES, "total") if name in stages},
        "yardstick": yardstick,
        "ratio": {
            name: yardstick[name]["p50_ms"] / stages[name]["p50_ms"]
            for name in ("network", "decode", "total")
        },
        **memory,
        "rss_with_yardstick_mb": peak_memory()["rss_mb"],
    }


def peak_memory() -> dict[str, float]:
    """Peak resident memory of this process so far, and torch's on the GPU, in MB."""
    peak = {"rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    if torch.cuda.is_available():
        peak["gpu_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return peak


def machine(threads: int) -> dict[str, Any]:
    """The machine of the measurement. threads: as configured, 0 for all."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": processor_name(), "gpu": gpu, "threads": threads or torch.get_num_threads()}


def _scaled(label_maps: list[Tensor], size: tuple[int, int]) -> list[Tensor]:
    """Label maps (H, W) resized to `size` as in the pipeline."""
    if label_maps[0].shape == size:
        return label_maps
    y, x = (
        torch.arange(to) * of // to for of, to in zip(label_maps[0].shape, size, strict=True)
    )  # nearest
    return [labels.cpu()[y[:, None], x] for labels in label_maps]


def table(numbers: dict[str, Any]) -> str:
    """The numbers as a table for people."""
    about = (
        f"{numbers['size']} (network: {numbers['network_size']}), {numbers['objects']} objects, "
        f"{numbers['weights']}, {numbers['runtime']} {numbers['precision']}, "
        f"{numbers['rounds']} rounds",
        f"{numbers['threads']} threads of {numbers['cpu']}"
        + (f", {numbers['gpu']}" if numbers["gpu"] else ""),
        f"at most {numbers['rss_mb']:.0f} MB resident"
        + (f", {numbers['gpu_mb']:.0f} MB on the GPU" if "gpu_mb" in numbers else "")
        + f" ({numbers['rss_with_yardstick_mb']:.0f} MB with the yardstick)",
    )
    rows = []
    for name, ours in numbers["stages"].items():
        theirs = numbers["yardstick"].get(name, {})
        both = (side.get(key) for side in (ours, theirs) for key in ("p50_ms", "p99_ms"))
        rows.append((name, *both, numbers["ratio"].get(name)))
    headings = ("ms", "ours\np50", "p99", "published\np50", "p99", "ratio")
    stages = text_table(headings, rows, ("", ".2f", ".2f", ".1f", ".1f", ".1f"))
    return "\n".join((*about, stages))
