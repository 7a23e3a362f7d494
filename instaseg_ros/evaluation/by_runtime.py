"""Compares the runtimes of one network on held-out synthetic frames."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from instaseg_ros.checkpoint import Checkpoint
from instaseg_ros.config import Config, parameters
from instaseg_ros.errors import InstasegError
from instaseg_ros.evaluation.metrics.average_precision import ap_table
from instaseg_ros.evaluation.run import Evaluation, by_number, labelled
from instaseg_ros.pipeline import Pipeline
from instaseg_ros.runtimes import RUNTIMES, Runtime, open_runtime
from instaseg_ros.runtimes.torch_runtime import LiveRuntime, synchronise
from instaseg_ros.synthetic_street import held_out_street
from instaseg_ros.tables import text_table

REFERENCE = "reference"  # the float32 network in eager torch


class Row(NamedTuple):
    """One runtime in one precision.

    network_ms: median. largest_difference: from the reference's raw outputs, by head, over all
    frames. ap, ap50: means over the classes; the reference has its own row.
    """

    network_ms: float
    largest_difference: dict[str, float]
    ap: float
    ap50: float


def available(config: Config, checkpoint: Checkpoint) -> tuple[dict[str, Runtime], dict[str, str]]:
    """The runtimes that can be opened here, by `name precision`, and why the others cannot."""
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


class _Watched:
    """A runtime that is timed and whose outputs are compared with the reference's for the same
    images."""

    def __init__(self, runtime: Runtime, reference: _Watched | None = None) -> None:
        self.name, self.precision = runtime.name, runtime.precision
        self._runtime, self._reference = runtime, reference or self
        self.outputs: dict[str, Tensor] = {}
        self.network_ms: list[float] = []
        self.largest_difference: dict[str, float] = {}

    def __call__(self, images: NDArray[np.uint8], *state: Tensor | None) -> dict[str, Tensor]:
        if not self.network_ms:
            self._runtime(images, *state)  # the first call compiles
        start = time.perf_counter()
        outputs = self._runtime(images, *state)
        synchronise()
        self.network_ms.append((time.perf_counter() - start) * 1e3)
        self.outputs = dict(outputs)  # the caller may remove some
        for head, output in self.outputs.items():
            difference = float((output.cpu() - self._reference.outputs[head]).abs().max())
            largest = self.largest_difference.get(head, 0.0)
            self.largest_difference[head] = max(largest, difference)
        return outputs


def compare(
    runtimes: Mapping[str, Runtime],
    checkpoint: Checkpoint,
    decode: Any,
    size: tuple[int, int],
    frames: int,
) -> dict[str, Row]:
    """A row for the reference and for each runtime; each frame, of `size`, goes to all in turn."""
    reference = _Watched(LiveRuntime(checkpoint.network().eval()))
    sides = {REFERENCE: reference}
    sides |= {name: _Watched(runtime, reference) for name, runtime in runtimes.items()}
    config, data = Config(decode=decode), held_out_street(frames, size)
    pipelines = [Pipeline(config, checkpoint, side) for side in sides.values()]
    classes = by_number(data.class_names, checkpoint.class_names)
    found = [Evaluation(data, classes) for _ in sides]
    for index, sample, results in labelled(pipelines, data, tqdm(range(frames), unit="frame")):
        for own, result in zip(found, results, strict=True):
            own.add(index, sample, result)
    rows = {}
    for (name, side), own in zip(sides.items(), found, strict=True):
        mean = ap_table(own.ranked)["mean"]
        ms = float(np.median(side.network_ms))
        rows[name] = Row(ms, side.largest_difference, mean.ap, mean.ap50)
    return rows


def table(rows: Mapping[str, Row]) -> str:
    """The rows as a table for people, with AP relative to the reference's."""
    reference = rows[REFERENCE]
    heads = list(reference.largest_difference)
    cells = []
    for name, row in rows.items():
        differences = (row.largest_difference[head] for head in heads)
        cells.append((name, row.network_ms, *differences, row.ap, row.ap - reference.ap))
    of_heads = (f"largest difference\nof {head}" for head in heads)
    headings = ("", "network\nms", *of_heads, "AP", "difference\nof AP")
    return text_table(headings, cells, ("", ".1f", *(".2g" for _ in heads), ".4f", "+.4f"))
