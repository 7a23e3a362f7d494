"""Runtimes execute the network; `open_runtime` picks one.

A runtime is called with images (B, H, W, 3) uint8 RGB, H and W multiples of 8, and returns the raw
head outputs {name: (B, C, H, W) float32} as torch tensors on its own device, valid until its next
call. Scaling to [0, 1] and memory layout are up to the runtime. Some also run temporal networks,
whose state is a further input and output.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from instaseg_ros.runtimes.cuda_runtime import CudaRuntime
from instaseg_ros.runtimes.onnx_runtime import OnnxRuntime
from instaseg_ros.runtimes.openvino_runtime import OpenVinoRuntime
from instaseg_ros.runtimes.tensorrt_runtime import TensorRTRuntime, prepared
from instaseg_ros.runtimes.torch2trt_runtime import Torch2TrtRuntime
from instaseg_ros.runtimes.torch_runtime import TorchRuntime, pick_device, pick_precision

if TYPE_CHECKING:
    from instaseg_ros.checkpoint import Checkpoint
    from instaseg_ros.config import RuntimeConfig

log = logging.getLogger(__name__)

MOST_AT_ONCE = 4  # images, of which even the first must wait for the last


class Runtime(Protocol):
    """A network that is ready to run. `name` and `precision` are for people and diagnostics."""

    name: str
    precision: str

    def __call__(self, images: NDArray[np.uint8]) -> dict[str, Tensor]: ...


class Remembering(Runtime, Protocol):
    """A runtime with a temporal network; `next_state` is among its outputs."""

    def __call__(self, images: NDArray[np.uint8], state: Tensor | None = None) -> dict[str, Tensor]:
        """state: (B, C, h, w) float32, the previous frames' `next_state`; None if there are
        none."""


@runtime_checkable
class Uploading(Protocol):
    """A runtime on another device, which accepts images before it is their turn to run."""

    def upload(self, images: NDArray[np.uint8], mirrored: bool = False) -> Any:
        """Start to copy images (B, H, W, 3) to the device; call the runtime with the result instead
        of the images.

        mirrored: append their mirror images, as `model.mirror.with_mirror_images` does.
        """


def open_runtime(
    config: RuntimeConfig, checkpoint: Checkpoint, size: tuple[int, int] = (0, 0)
) -> Runtime:
    """Open the runtime named in `config` with the checkpoint's network.

    size: the configured (height, width) of its input; 0: the camera's.
    """
    name, why = config.name, "as configured"
    if name == "auto":
        name, why = choose(config, checkpoint, size)
    if config.threads:  # also for what follows the network, whatever runs that
        torch.set_num_threads(config.threads)
    runtime = RUNTIMES[name](config, checkpoint)
    log.info("runtime %s (%s), precision %s", name, why, runtime.precision)
    return runtime


def prepares_for_minutes(runtime: Runtime) -> bool:
    """Whether the first image of each size takes minutes, as something is built for that size."""
    compiles = isinstance(runtime, CudaRuntime) and "compiled" in runtime.forms
    return compiles or isinstance(runtime, TensorRTRuntime)


def best_batch(runtime: Runtime) -> int:
    """How many images at once suit the runtime, if that many wait; more only take longer."""
    if isinstance(runtime, OpenVinoRuntime):
        return min(runtime.threads, MOST_AT_ONCE)
    return MOST_AT_ONCE if isinstance(runtime, Uploading) else 1


def choose(
    config: RuntimeConfig, checkpoint: Checkpoint, size: tuple[int, int] = (0, 0)
) -> tuple[str, str]:
    """The runtime that `auto` means on this machine, and why: the first row that applies.

    size: as in `open_runtime`.
    """
    device = pick_device(config.device)
    cuda = device.type == "cuda"
    precision = config.precision
    float32 = precision != "int8" and pick_precision(precision, device) == "fp32"
    engine = cuda and _installed("tensorrt") and prepared(checkpoint, config, size)
    table = (
        ("tensorrt", engine, "there is a CUDA device, and an engine of these weights was built"),
        ("torch", cuda, "there is a CUDA device"),
        ("openvino", _installed("openvino"), "there is no GPU, and OpenVINO is installed"),
        (
            "onnx",
            float32 and _installed("onnxruntime") and _installed("onnx"),
            "there is no GPU, this CPU has no bfloat16, and onnxruntime is installed",
        ),
        ("torch", True, "there is no GPU; pip install openvino makes a CPU about twice as fast"),
    )
    return next((name, why) for name, holds, why in table if holds)


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _open_torch(config: RuntimeConfig, checkpoint: Checkpoint) -> Runtime:
    cuda = pick_device(config.device).type == "cuda"
    return (CudaRuntime if cuda else TorchRuntime)(config, checkpoint)


RUNTIMES: dict[str, Callable[[RuntimeConfig, Checkpoint], Runtime]] = {
    "torch": _open_torch,
    "openvino": OpenVinoRuntime,
    "onnx": OnnxRuntime,
    "tensorrt": TensorRTRuntime,
    "torch2trt": Torch2TrtRuntime,
}
