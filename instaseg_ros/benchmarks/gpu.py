"""What only a GPU can be asked: camera batches, memory traffic, and pixels to labels on the host.

    python -m instaseg_ros.benchmarks.gpu --json FILE

Ours alone, in medians; `instaseg bench` has the yardstick beside it. The network sees noise, and
decoding gets outputs made to measure, already on the GPU, in the same stream behind the network.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import importlib.metadata
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from instaseg_ros.benchmarks.frame import FOREGROUND_SHARE, made_to_measure
from instaseg_ros.checkpoint import load_checkpoint
from instaseg_ros.config import Config, merge
from instaseg_ros.errors import ConfigError
from instaseg_ros.model.batchnorm import fold
from instaseg_ros.model.erfnet import ERFNet
from instaseg_ros.runtimes.cuda_runtime import CudaRuntime
from instaseg_ros.tables import text_table

SIZES = ((512, 1024), (1024, 2048))
BATCHES = (1, 2, 4, 8)
OBJECTS = (5, 30, 100, 300)
ROUNDS = 50
COPIED_BYTES = 1 << 30


def bench_gpu(config: Config, rounds: int = ROUNDS) -> dict[str, Any]:
    """All sizes and batches on the configured CUDA device. Raises ConfigError without one."""
    checkpoint = load_checkpoint(config.weights)
    runtime = CudaRuntime(config.runtime, checkpoint)
    bandwidth = copy_bandwidth(runtime.device)
    versions = {}
    for package in ("torch", "triton"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "absent"
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "gpu": torch.cuda.get_device_name(runtime.device),
        "capability": torch.cuda.get_device_capability(runtime.device),
        **versions,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "weights": config.weights,
        "precision": runtime.precision,
        "copy_bytes_per_s": bandwidth,
        "sizes": {
            f"{height}x{width}": _size(config, runtime, (height, width), rounds, bandwidth)
            for height, width in SIZES
        },
    }


def _size(
    config: Config, runtime: CudaRuntime, size: tuple[int, int], rounds: int, bandwidth: float
) -> dict[str, Any]:
    checkpoint = load_checkpoint(config.weights)
    method = checkpoint.method()
    foreground = round(FOREGROUND_SHARE * size[0] * size[1])
    kinds = len(checkpoint.class_names), checkpoint.n_sigma
    scenes = {
        n: _on(made_to_measure(*size, *kinds, n, foreground), runtime.device) for n in OBJECTS
    }
    rng = np.random.default_rng(0)
    batches: dict[int, dict[str, Any]] = {}
    for batch in BATCHES:
        images = rng.integers(0, 256, (batch, *size, 3)).astype(np.uint8)
        made = {name: part.repeat(batch, 1, 1, 1) for name, part in scenes[30].items()}
        network = functools.partial(runtime, images)
        decode = functools.partial(method.decode, made, config.decode)
        row = batches[batch] = _times(network, decode, rounds)
        forms_ms = row["forms_ms"] = runtime.form_ms[images.shape]
        network_ms = row["network_ms"] = min(forms_ms.values())
        moved = network_bytes(checkpoint.network(), images.shape, runtime.precision)
        row["network_bytes"], row["floor_ms"] = moved, moved / bandwidth * 1e3
        row["network_over_floor"] = network_ms / row["floor_ms"]
        row["network_bytes_per_s"] = moved / network_ms * 1e3
        row["frames_per_s"] = batch / row["total_ms"] * 1e3
        # Below the batch: better than linear.
        row["times_one_camera"] = row["total_ms"] / batches[1]["total_ms"]
    by_objects = {
        n: _median_ms(functools.partial(method.decode, made, config.decode), rounds)
        for n, made in scenes.items()
    }
    return {"batches": batches, "decode_ms_by_objects": by_objects}


def _times(network: Callable[[], Any], decode: Callable[[], Any], rounds: int) -> dict[str, Any]:
    """From pixels in host memory to labels in host memory, and the two halves alone."""

    def both() -> None:
        network()
        decode()

    return {
        "total_ms": _median_ms(both, rounds),
        "upload_and_network_ms": _median_ms(network, rounds),
        "decode_ms": _median_ms(decode, rounds),
    }


def network_bytes(network: ERFNet, shape: tuple[int, ...], precision: str) -> int:
    """What the network must move: each convolution's input, output and weights, once each, in the
    precision it runs in; what lies between convolutions is free. shape: (B, H, W, 3) of the images.
    """
    batch, height, width, _ = shape
    numbers: list[int] = []

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        numbers.extend(t.numel() for t in (inputs[0], output, *layer.parameters()))

    network = fold(network).to("meta")  # shapes without values
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            layer.register_forward_hook(count)
    network(torch.empty(batch, 3, height, width, device="meta"))
    return sum(numbers) * (4 if precision == "fp32" else 2)


def copy_bandwidth(device: torch.device) -> float:
    """Bytes read and written per second by a large copy on the device, at its best."""
    source = torch.empty(COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times_ms = []
    for _ in range(10):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        target.copy_(source)
        end.record()
        end.synchronize()
        times_ms.append(start.elapsed_time(end))
    return 2 * COPIED_BYTES / min(times_ms) * 1e3


def _on(made: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: part.to(device) for name, part in made.items()}


def _median_ms(function: Callable[[], Any], rounds: int) -> float:
    """Wall milliseconds until the GPU has nothing left to do."""
    times_ms = []
    for number in range(rounds + 5):
        torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        torch.cuda.synchronize()
        if number >= 5:  # the first compile, and record graphs
            times_ms.append((time.perf_counter() - start) * 1e3)
    return float(np.median(times_ms))


def table(numbers: dict[str, Any]) -> str:
    """The numbers for people."""
    lines = [
        f"{numbers['gpu']}, torch {numbers['torch']}, triton {numbers['triton']}, "
        f"{numbers['precision']}, copies at {numbers['copy_bytes_per_s'] / 1e9:.0f} GB/s"
    ]
    for size, of_size in numbers["sizes"].items():
        rows = [
            (
                "",
                batch,
                row["total_ms"],
                row["network_ms"],
                row["network_over_floor"],
                row["network_bytes_per_s"] / 1e9,
                row["decode_ms"],
                row["times_one_camera"],
            )
            for batch, row in of_size["batches"].items()
        ]
        titles = ("cameras", "total ms", "network", "x floor", "GB/s", "decode", "x one")
        formats = ("", "d", ".2f", ".2f", ".1f", ".0f", ".2f", ".2f")
        lines.append(text_table((size, *titles), rows, formats))
        by_objects = of_size["decode_ms_by_objects"].items()
        lines.append("  decode: " + ", ".join(f"{n} objects {ms:.2f} ms" for n, ms in by_objects))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="the numbers go to this file")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="measurements of each kind")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("bench_gpu: torch sees no CUDA device")
    try:
        numbers = bench_gpu(merge(Config(), {"runtime.device": "cuda"}), args.rounds)
    except ConfigError as error:
        raise SystemExit(f"bench_gpu: {error}") from error
    print(table(numbers))
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
