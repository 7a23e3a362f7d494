"""Runs the network in eager torch: always available, and the reference for the other runtimes.

`open_runtime` uses `cuda_runtime` for a CUDA device; this one runs there too, kernel by kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from instaseg_ros.errors import ConfigError
from instaseg_ros.model.batchnorm import fold

if TYPE_CHECKING:
    from instaseg_ros.checkpoint import Checkpoint
    from instaseg_ros.config import RuntimeConfig

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str) -> torch.device:
    """The torch device for `auto`, `cpu`, `cuda` or `cuda:N`. Raises ConfigError if missing."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f"runtime.device: expected auto, cpu or cuda[:N], got '{name}'"
        ) from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"runtime.device: '{name}' is configured, but torch sees no such device")
    return device


def pick_precision(name: str, device: torch.device) -> str:
    """Resolve `auto`: fp16 on CUDA, bf16 on a CPU that multiplies it in hardware, else fp32."""
    if name != "auto":
        if name == "fp16" and device.type == "cpu":
            raise ConfigError("runtime.precision: fp16 needs a GPU; use bf16 or fp32 on a CPU")
        if name not in DTYPES:
            raise ConfigError(f"runtime.precision: torch runs {', '.join(DTYPES)}, got {name}")
        return name
    if device.type == "cuda":
        return "fp16"
    return "bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "fp32"


def training_precision(device: torch.device) -> str:
    """bf16 if the device multiplies it in hardware, else fp32. bf16 has the range of fp32, so it
    needs no gradient scaling."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
    return pick_precision("auto", device)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Compute with float32 weights in bf16 if that is the precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def synchronise() -> None:
    """Wait for all work of the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class LiveRuntime:
    """An unmodified float32 network in eager torch: one in training, or a reference.

    network: takes (B, 3, H, W) in [0, 1] and a state, on its own device. precision: for `autocast`.
    """

    name = "torch"

    def __init__(self, network: nn.Module, precision: str = "fp32") -> None:
        self.network, self.precision = network, precision
        self.device = next(network.parameters()).device

    @torch.inference_mode()
    def __call__(self, images: NDArray[np.uint8], state: Tensor | None = None) -> dict[str, Tensor]:
        pixels = torch.from_numpy(images).to(self.device)
        with autocast(self.device, self.precision):
            outputs = self.network(pixels.permute(0, 3, 1, 2) / 255, state)
        return {name: output.float() for name, output in outputs.items()}


class TorchRuntime:
    """Eager torch with channels-last tensors and folded BatchNorm."""

    name = "torch"

    def __init__(self, config: RuntimeConfig, checkpoint: Checkpoint) -> None:
        self.device = pick_device(config.device)
        self.precision = pick_precision(config.precision, self.device)
        self.dtype = DTYPES[self.precision]
        self.network = fold(checkpoint.network()).to(self.device, self.dtype)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def __call__(self, images: NDArray[np.uint8], state: Tensor | None = None) -> dict[str, Tensor]:
        pixels = torch.from_numpy(images).to(self.device)
        # (B, H, W, 3) viewed as (B, 3, H, W) is already channels-last.
        outputs = self.network(pixels.permute(0, 3, 1, 2).to(self.dtype) / 255, state)
        return {name: output.float() for name, output in outputs.items()}
