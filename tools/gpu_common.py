"""Shared by the stages of gpu_run.py: results, frames, weights, timing, costs."""

from __future__ import annotations

import json
import logging
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from instaseg_ros.config import Config, merge
from instaseg_ros.model.batchnorm import fold
from instaseg_ros.model.erfnet import ERFNet
from instaseg_ros.runtimes.cuda_runtime import CudaRuntime
from instaseg_ros.synthetic_street import SyntheticStreet

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
ROUNDS = 50 if CUDA else 1
WARM_UP = 8 if CUDA else 1  # GPU work is recorded after a few calls
N_CLASSES = 5

Size = tuple[int, int]  # height, width


class NotRun(Exception):
    """A stage cannot run here; says why."""


class Found:
    """A stage's results so far, in a file that is always whole."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        name = torch.cuda.get_device_name() if CUDA else "cpu"
        self.content: dict[str, Any] = {"device": name, "found": {}}

    def __call__(self, name: str, value: Any, said: bool = True) -> None:
        self.content["found"][name] = value
        if said:
            print(f"{name}: {value}")
        self.write()

    def write(self) -> None:
        if self.path:
            part = self.path.with_suffix(".part")
            part.write_text(json.dumps(self.content), encoding="utf-8")
            part.replace(self.path)


@contextmanager
def going_on(found: Found, name: str, wrong: list[str]) -> Iterator[None]:
    """A case that raises is reported, and costs no other."""
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        found(name, f"{type(error).__name__}: {error}"[:300])
        wrong.append(name)


# Shipped weights, by profile.
WEIGHTS = {
    "published": "street-synthetic",
    "fast": "street-synthetic-fast",
    "lite": "street-synthetic-lite",
}


def sized(height: int, width: int) -> Size:
    return (height, width) if CUDA else (height // 8, width // 8)


def street(size: Size, frames: int = 1) -> list[NDArray[np.uint8]]:
    """Held-out frames (H, W, 3) of the synthetic street."""
    drawn = SyntheticStreet(size, split="val", sequences=frames, frames_per_sequence=1, depth=False)
    return [drawn[index].frame.image for index in range(frames)]


def configured(weights: str) -> Config:
    return merge(Config(), {"weights": weights, "runtime.name": "torch",
                            "runtime.device": DEVICE.type})  # fmt: skip


class Remarks(logging.Handler):
    """Reports the log messages of the GPU parts, and every warning of the package."""

    def __init__(self, found: Found) -> None:
        super().__init__()
        self.found, self.said = found, list[str]()

    def emit(self, record: logging.LogRecord) -> None:
        of_gpu = record.name.startswith("instaseg_ros.runtimes.cuda")
        text = record.getMessage()[:300]
        if (of_gpu or record.levelno >= logging.WARNING) and len(self.said) < 100:
            self.said.append(text)
            self.found("remarks", self.said, said=False)


def need_cuda() -> None:
    if not CUDA:
        raise NotRun("torch sees no CUDA device")


def by_shape(runtime: CudaRuntime) -> dict[str, Any]:
    return {"x".join(map(str, shape[:3])): ms for shape, ms in runtime.form_ms.items()}


def median_ms(function: Callable[[], Any], rounds: int, warm_up: int = WARM_UP) -> float:
    """Median wall-clock milliseconds of a call, until the GPU is idle."""
    return sorted(times_ms(function, rounds, warm_up))[rounds // 2]


def times_ms(function: Callable[[], Any], rounds: int, warm_up: int = WARM_UP) -> list[float]:
    """Wall-clock milliseconds of each call after `warm_up` ones."""
    found = []
    for _ in range(warm_up + rounds):
        _wait()
        start = time.perf_counter()
        function()
        _wait()
        found.append((time.perf_counter() - start) * 1e3)
    return found[warm_up:]


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def copy_bandwidth(device: torch.device, n_bytes: int = 1 << 32) -> float:
    """Bytes read and written per second by a copy of `n_bytes`, too large for any cache."""
    source = torch.empty(n_bytes, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    return 2 * n_bytes / median_ms(lambda: target.copy_(source), 7) * 1e3


def product_rate(device: torch.device, side: int = 8192) -> float:
    """Operations per second of a product of two random square matrices in bfloat16."""
    left, right = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    return 2 * side**3 / median_ms(lambda: left @ right, 7) * 1e3


class Cost(NamedTuple):
    """The cost of a network's convolutions. n_bytes: input, output and weights of each once, as if
    nothing stayed in a cache; with a large cache, more than must be moved."""

    n_bytes: int
    operations: int


def network_cost(network: ERFNet, shape: tuple[int, ...], precision: str) -> Cost:
    """shape: (B, H, W, 3) of the images. A multiplication and its addition are two operations."""
    batch, height, width, _ = shape
    numbers: list[int] = []
    operations: list[int] = []

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        numbers.extend(t.numel() for t in (inputs[0], output, *layer.parameters()))
        weight = layer.weight
        assert isinstance(weight, Tensor)
        # Each output pixel of a convolution, or input pixel of a transposed one, meets a filter.
        pixels = inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output
        operations.append(2 * pixels.numel() * weight[0].numel())

    network = fold(network).to("meta")  # shapes without values
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            layer.register_forward_hook(count)
    network(torch.empty(batch, 3, height, width, device="meta"))
    return Cost(sum(numbers) * (4 if precision == "fp32" else 2), sum(operations))
