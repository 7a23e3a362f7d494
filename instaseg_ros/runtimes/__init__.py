"""Runtimes execute the network; `open_runtime` picks one.

A runtime is called with images (B, H, W, 3) uint8 RGB, H and W multiples of 8, and returns the raw
head outputs {name: (B, C, H, W) float32} as torch tensors on the device that made them, valid until
its next call. Scaling to [0, 1] and layout are its own business.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from instaseg_ros.runtimes.openvino_runtime import OpenVinoRuntime
from instaseg_ros.runtimes.torch_runtime import TorchRuntime, pick_device

if TYPE_CHECKING:
    from instaseg_ros.checkpoint import Checkpoint
    from instaseg_ros.config import RuntimeConfig

log = logging.getLogger(__name__)


class Runtime(Protocol):
    """A network, ready to run. `name` and `precision` are for people and diagnostics."""

    name: str
    precision: str

    def __call__(self, images: NDArray[np.uint8]) -> dict[str, Tensor]: ...


def open_runtime(config: RuntimeConfig, checkpoint: Checkpoint) -> Runtime:
    """The runtime named in `config`, loaded with the checkpoint's network."""
    name, why = (config.name, "as configured") if config.name != "auto" else _choose(config)
    runtime = RUNTIMES[name](config, checkpoint)
    log.info("runtime %s (%s), precision %s", name, why, runtime.precision)
    return runtime


def _choose(config: RuntimeConfig) -> tuple[str, str]:
    """What `auto` stands for on this machine, and why."""
    if pick_device(config.device).type == "cuda":
        return "torch", "there is a CUDA device"
    if importlib.util.find_spec("openvino"):
        return "openvino", "there is no GPU, and openvino is installed"
    return "torch", "there is no GPU; pip install openvino makes a CPU about twice as fast"


RUNTIMES: dict[str, Callable[[RuntimeConfig, Checkpoint], Runtime]] = {
    "torch": TorchRuntime,
    "openvino": OpenVinoRuntime,
}
