"""Runs the TensorRT engine in torch2trt's TRTModule, and writes its file, for that library's users.

torch2trt's own converter is not used: it does not support every layer on every TensorRT version,
and its engine would not be the one compared with torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from instaseg_ros.errors import ConfigError, WeightsError
from instaseg_ros.model.temporal import state_shape
from instaseg_ros.runtimes.cuda_uploads import Uploaded, Uploads
from instaseg_ros.runtimes.onnx_file import input_names, output_names
from instaseg_ros.runtimes.tensorrt_runtime import Run, TensorRTRuntime

if TYPE_CHECKING:
    from instaseg_ros.checkpoint import Checkpoint
    from instaseg_ros.config import RuntimeConfig


class Torch2TrtRuntime(TensorRTRuntime):
    """TensorRTRuntime whose engine is run by torch2trt."""

    name = "torch2trt"

    def __init__(self, config: RuntimeConfig, checkpoint: Checkpoint) -> None:
        super().__init__(config, checkpoint)
        try:
            from torch2trt import TRTModule
        except ModuleNotFoundError as error:
            raise ConfigError(
                "runtime.name: torch2trt needs the library of that name, which is not installed: "
                "see github.com/NVIDIA-AI-IOT/torch2trt, or use runtime.name: tensorrt"
            ) from error
        self._module = TRTModule

    def load(self, plan: bytes) -> Run:
        module = self._module()
        module.load_state_dict(module_state(plan, self._checkpoint))
        method = self._checkpoint.method()
        names = output_names(self._checkpoint)

        uploads = Uploads(self.device)

        @torch.inference_mode()
        def run(
            images: NDArray[np.uint8] | Uploaded, state: Tensor | None = None
        ) -> dict[str, Tensor]:
            uploaded = images if isinstance(images, Uploaded) else uploads.start(images)
            with torch.cuda.device(self.device):
                given = [uploaded.await_in_stream()]
                if method.temporal:
                    batch, *size = given[0].shape[:3]
                    shape = state_shape(batch, (size[0], size[1]))
                    given.append(torch.zeros(shape, device=self.device) if state is None else state)
                outputs = module(*given)
                uploaded.taken.record()
            if isinstance(outputs, Tensor):  # TRTModule unwraps a single output
                outputs = (outputs,)
            return dict(zip(names, outputs, strict=True))

        return run


def module_state(plan: bytes, checkpoint: Checkpoint) -> dict[str, Any]:
    """The `TRTModule.state_dict()` of this engine: plain data, no code.

    Without the flatteners of newer versions: separate inputs, and a tuple of outputs.
    """
    return {
        "engine": bytearray(plan),
        "input_names": input_names(checkpoint.method()),
        "output_names": output_names(checkpoint),
    }


def save_module(plan: bytes, checkpoint: Checkpoint, path: Path) -> None:
    """Write a file for `TRTModule().load_state_dict(torch.load(path))`."""
    torch.save(module_state(plan, checkpoint), path)


def load_plan(path: Path) -> bytes:
    """The serialised engine in a torch2trt file, read without running any code in it.

    Raises WeightsError if the file has more than plain data, or no engine.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a bad or an unsafe file
        raise WeightsError(f"torch2trt file {path}: not plain data ({error})") from error
    plan = state.get("engine") if isinstance(state, dict) else None
    if not isinstance(plan, (bytes, bytearray)):
        raise WeightsError(f"torch2trt file {path}: expected a serialised engine under 'engine'")
    return bytes(plan)
