"""Every runtime and precision of this machine, side by side on held-out synthetic frames."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from instaseg_ros.benchmarks.frame import synchronise
from instaseg_ros.checkpoint import Checkpoint
from instaseg_ros.config import Config, DecodeConfig, InputConfig, parameters
from instaseg_ros.errors import InstasegError
from instaseg_ros.evaluation.metrics.average_precision import average_precision
from instaseg_ros.evaluation.overlaps import frame_counts
from instaseg_ros.preprocess import preprocess
from instaseg_ros.runtimes import RUNTIMES, Runtime, open_runtime
from instaseg_ros.training.source import held_out_street

REFERENCE = "reference"  # the float32 network in eager torch
Run = Callable[[NDArray[np.uint8]], dict[str, torch.Tensor]]  # as a Runtime is called


class Row(NamedTuple):
    """One runtime in one precision.

    network_ms: median. largest_difference: from the reference's raw outputs, by head, over all
    frames. ap, ap50: mean over the classes; the reference's in its own row.
    """

    network_ms: float
    largest_difference: dict[str, float]
    ap: float
    ap50: float


def available(config: Config, checkpoint: Checkpoint) -> tuple[dict[str, Runtime], dict[str, str]]:
    """Runtimes that open here by `name precision`, and why the others do not."""
    choices = next(p.choices for p in parameters(config) if p.name == "runtime.precision")
    runtimes, refused = {}, {}
    for name in RUNTIMES:
        for precision in [choice for choice in choices or () if choice != "auto"]:
            wanted = dataclasses.replace(config.runtime, name=name, precision=precision)
            try:
                runtimes[f"{name} {precision}"] = open_runtime(wanted, checkpoint)
            except InstasegError as error:
                refused[f"{name} {precision}"] = str(error)
    return runtimes, refused


def compare(
    runtimes: Mapping[str, Run],
    checkpoint: Checkpoint,
    decode: DecodeConfig,
    size: tuple[int, int],
    frames: int,
) -> dict[str, Row]:
    """A row for the reference and one for each runtime, in turn on every frame of `size`."""
    network, method = checkpoint.network().eval(), checkpoint.method()

    def reference(images: Any) -> dict[str, torch.Tensor]:
        with torch.inference_mode():
            pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous() / 255
            heads: dict[str, torch.Tensor] = network(pixels)
            return heads

    sides: dict[str, Any] = {REFERENCE: reference, **runtimes}
    samples_ms: dict[str, list[float]] = {name: [] for name in sides}
    largest: dict[str, dict[str, float]] = {name: {} for name in sides}
    counts: dict[str, list[Any]] = {name: [] for name in sides}
    data = held_out_street(frames, size)
    for index in tqdm(range(frames), unit="frame"):
        sample = data[index]
        images, geometry = preprocess([sample.frame.image], InputConfig(), checkpoint.stride)
        height, width = geometry.scaled
        expected = reference(images)
        for name, run in sides.items():
            if not index:
                run(images)  # the first call compiles
            start = time.perf_counter()
            outputs = run(images)
            synchronise()
            samples_ms[name].append((time.perf_counter() - start) * 1e3)
            for head, output in outputs.items():
                difference = float((output.cpu() - expected[head]).abs().max())
                largest[name][head] = max(largest[name].get(head, 0.0), difference)
            cropped = {head: output[..., :height, :width] for head, output in outputs.items()}
            (found,) = method.decode(cropped, decode)
            counts[name].append(
                frame_counts(sample.labels, sample.ids, sample.class_ids, found, sample.ignore)
            )
    rows = {}
    for name in sides:
        mean = average_precision(counts[name], checkpoint.class_names)["mean"]
        rows[name] = Row(float(np.median(samples_ms[name])), largest[name], mean.ap, mean.ap50)
    return rows


def table(rows: Mapping[str, Row]) -> str:
    """The rows for people; AP beside the reference's."""
    reference = rows[REFERENCE]
    heads = list(reference.largest_difference)
    lines = [
        f"{'':16}{'network':>10}{'largest difference from the reference':>42}{'AP':>9}"
        f"{'difference':>12}",
        f"{'':16}{'ms':>10}" + "".join(f"{head:>14}" for head in heads),
    ]
    for name, row in rows.items():
        differences = "".join(f"{row.largest_difference[head]:14.2g}" for head in heads)
        lines.append(
            f"{name:16}{row.network_ms:10.1f}{differences}"
            f"{row.ap:9.4f}{row.ap - reference.ap:+12.4f}"
        )
    return "\n".join(lines)
