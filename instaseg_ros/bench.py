"""What is measured, how, against what.

One process, ours and the yardstick in turn (A B A B ...), medians and 99th percentiles over the
rounds. The network sees noise, which costs it what a street does. Decoding gets outputs made to
measure: so many objects on so many foreground pixels. The yardstick is the published way: the same
weights in eager float32 torch, then the published loop over the same outputs (`grouping.oracle`).
"""

from __future__ import annotations

import dataclasses
import resource
import time
from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from instaseg_ros import outputs as messages
from instaseg_ros.bag_types import make_header, message_classes
from instaseg_ros.config import Config
from instaseg_ros.grouping import oracle
from instaseg_ros.images import image_to_rgb
from instaseg_ros.methods.spatial_embedding import (
    BANDWIDTH_GAIN,
    STEP_X,
    STEP_Y,
    embed,
    inverse_bandwidth,
    pixel_grid,
    seed_score,
)
from instaseg_ros.pipeline import Pipeline
from instaseg_ros.preprocess import preprocess, restore
from instaseg_ros.runtimes.torch_runtime import TorchRuntime

FOREGROUND_SHARE = 575_000 / (1024 * 2048)


def made_to_measure(
    height: int, width: int, n_classes: int, n_sigma: int, objects: int, foreground_px: int
) -> dict[str, Tensor]:
    """Raw head outputs (1, C, H, W) of `objects` ellipses with `foreground_px` pixels in all.

    Offsets point nine tenths of the way to the centre, with some noise, as a trained network's do;
    the classes take turns.
    """
    rng = np.random.default_rng(0)
    rows = max(1, round((objects * height / width) ** 0.5))
    columns = -(-objects // rows)
    cell_h, cell_w = height / rows, width / columns
    share = foreground_px / objects / (cell_h * cell_w)  # of its cell that an ellipse covers
    offset = np.zeros((2, height, width), np.float32)
    bandwidth = np.zeros((n_sigma, height, width), np.float32)
    seed = np.full((n_classes, height, width), -6.0, np.float32)
    axes_px = np.array([cell_w, cell_h]) * (share / np.pi) ** 0.5
    tight = 0.3 * axes_px * [STEP_X, STEP_Y]  # bandwidth around a centre
    raw = np.log(np.log(2) / np.square(tight[-n_sigma:])) / BANDWIDTH_GAIN
    for k in range(objects):
        center = (k % columns + 0.5) * cell_w, (k // columns + 0.5) * cell_h
        top, bottom = int(center[1] - cell_h / 2), min(height, int(center[1] + cell_h / 2))
        left, right = int(center[0] - cell_w / 2), min(width, int(center[0] + cell_w / 2))
        y, x = np.mgrid[top:bottom, left:right]
        distance = ((x - center[0]) / axes_px[0]) ** 2 + ((y - center[1]) / axes_px[1]) ** 2
        inside = distance <= 1
        rows_of, columns_of = slice(top, bottom), slice(left, right)
        for c, (position, step) in enumerate(((x, STEP_X), (y, STEP_Y))):
            toward = 0.9 * (center[c] - position) + rng.normal(0, 0.02 * axes_px[c], x.shape)
            offset[c, rows_of, columns_of][inside] = np.arctanh(
                np.clip(toward * step, -0.999, 0.999)
            )[inside]
        bandwidth[:, rows_of, columns_of][:, inside] = raw[:, None]
        logit = 5 - 3 * distance + rng.normal(0, 0.2, x.shape)
        seed[k % n_classes, rows_of, columns_of][inside] = logit[inside]
    parts = {"offset": offset, "bandwidth": bandwidth, "seed": seed}
    return {name: torch.from_numpy(part)[None] for name, part in parts.items()}


class Clock:
    """Milliseconds by name."""

    def __init__(self) -> None:
        self.samples_ms: dict[str, list[float]] = defaultdict(list)

    def __call__(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        start = time.perf_counter()
        value = function(*args)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.samples_ms[name].append((time.perf_counter() - start) * 1e3)
        return value

    def table(self) -> dict[str, dict[str, float]]:
        """{name: {p50_ms, p99_ms}}."""
        return {
            name: {"p50_ms": float(np.median(ms)), "p99_ms": float(np.percentile(ms, 99))}
            for name, ms in self.samples_ms.items()
        }


def bench(config: Config, size: tuple[int, int], objects: int, rounds: int) -> dict[str, Any]:
    """Every stage of the pipeline and of the yardstick on one image of `size` (height, width)."""
    height, width = size
    pipeline = Pipeline(config)
    checkpoint = pipeline.checkpoint
    eager = TorchRuntime(
        dataclasses.replace(config.runtime, name="torch", precision="fp32"), checkpoint
    )
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    step = width * 3
    message = SimpleNamespace(
        encoding="bgr8", height=height, width=width, step=step, is_bigendian=0, data=image.ravel()
    )
    made = made_to_measure(
        height,
        width,
        len(checkpoint.class_names),
        checkpoint.n_sigma,
        objects,
        round(FOREGROUND_SHARE * height * width),
    )
    ours, theirs = Clock(), Clock()
    found = 0
    for number in range(rounds + 1):
        if number == 1:  # the first round warms up
            ours.samples_ms.clear()
            theirs.samples_ms.clear()
        rgb = ours("convert", image_to_rgb, message)
        batch, geometry = ours("preprocess", preprocess, [rgb], config.input)
        ours("network", pipeline.runtime, batch)
        (instances,) = ours("decode", pipeline.method.decode, made, config.decode)
        instances = ours("restore", restore, instances, geometry)
        ours("messages", _messages, instances, pipeline.class_names)
        theirs("network", eager, batch)
        groups = theirs("decode", _published, made, config)
        if not np.array_equal(groups.labels, instances.labels):
            raise AssertionError("our labels are not those of the published loop")
        found = len(instances)
    stages = ours.table()
    yardstick = theirs.table()
    total = sum(stage["p50_ms"] for stage in stages.values())
    yardstick["total"] = {"p50_ms": sum(stage["p50_ms"] for stage in yardstick.values())}
    return {
        "size": f"{height}x{width}",
        "objects": found,
        "rounds": rounds,
        "runtime": pipeline.runtime.name,
        "precision": pipeline.runtime.precision,
        "threads": config.runtime.threads or torch.get_num_threads(),
        "stages": {**stages, "total": {"p50_ms": total}},
        "yardstick": yardstick,
        "ratio": {
            "network": yardstick["network"]["p50_ms"] / stages["network"]["p50_ms"],
            "decode": yardstick["decode"]["p50_ms"] / stages["decode"]["p50_ms"],
            "total": yardstick["total"]["p50_ms"] / total,
        },
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _messages(instances: Any, class_names: tuple[str, ...]) -> Any:
    msgs, header = message_classes(), make_header(0, "camera")
    return (
        messages.labels_message(msgs, header, instances.labels),
        messages.detections_message(msgs, header, instances, class_names),
    )


def _published(outputs: dict[str, Tensor], config: Config) -> Any:
    offset, bandwidth, seed = (outputs[name][0] for name in ("offset", "bandwidth", "seed"))
    grid = pixel_grid(*offset.shape[1:])
    scale = inverse_bandwidth(bandwidth)
    return oracle.group(embed(offset, grid), scale, seed_score(seed), config.decode)


def table(numbers: dict[str, Any]) -> str:
    """The numbers for people."""
    lines = [
        f"{numbers['size']}, {numbers['objects']} objects, {numbers['runtime']} "
        f"{numbers['precision']}, {numbers['threads']} threads, {numbers['rounds']} rounds, "
        f"peak {numbers['rss_mb']:.0f} MB",
        f"{'stage':12}{'ours ms':>10}{'p99':>10}{'published':>12}{'ratio':>8}",
    ]
    for name, stage in numbers["stages"].items():
        line = f"{name:12}{stage['p50_ms']:10.2f}{stage.get('p99_ms', float('nan')):10.2f}"
        if name in numbers["yardstick"]:
            line += f"{numbers['yardstick'][name]['p50_ms']:12.1f}{numbers['ratio'][name]:8.1f}"
        lines.append(line)
    return "\n".join(lines)
