"""The network in OpenVINO, the fastest on a CPU.

The compiled model takes the camera's uint8 pixels as they lie in memory; type, scale and layout are
converted inside it. Compiled models are kept on disk, so only the first start of a size compiles.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from instaseg_ros.errors import ConfigError, MissingExtraError
from instaseg_ros.output_files import cache_dir
from instaseg_ros.runtimes.openvino_model import model_of, quantised_model_of
from instaseg_ros.temporal import state_shape

if TYPE_CHECKING:
    from instaseg_ros.checkpoint import Checkpoint
    from instaseg_ros.config import RuntimeConfig

PRECISIONS = {"fp32": "f32", "bf16": "bf16"}
log = logging.getLogger(__name__)


class OpenVinoRuntime:
    """OpenVINO on the CPU; one compiled model per input shape."""

    name = "openvino"

    def __init__(self, config: RuntimeConfig, checkpoint: Checkpoint, model: Any = None) -> None:
        """model: an openvino.Model to run in the place of the checkpoint's own."""
        try:
            import openvino
        except ModuleNotFoundError as error:
            raise MissingExtraError("openvino", "openvino", "runtime.name: openvino") from error
        if config.device not in ("auto", "cpu"):
            raise ConfigError(f"runtime.device: openvino runs on 'cpu', got '{config.device}'")
        if config.precision == "fp16":
            raise ConfigError("runtime.precision: fp16 needs a GPU; use bf16 or fp32 on a CPU")
        self._core = openvino.Core()
        can = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        best = "bf16" if "BF16" in can else "fp32"
        self.precision = best if config.precision == "auto" else config.precision
        self._options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": PRECISIONS.get(self.precision, PRECISIONS[best]),
            "PERFORMANCE_HINT": "LATENCY",
            "CACHE_DIR": str(cache_dir() / "openvino"),
        }
        if config.threads:
            self._options["INFERENCE_NUM_THREADS"] = config.threads
        self._network = checkpoint.network().eval()
        if model is None and self.precision == "int8":
            model, measured = quantised_model_of(checkpoint)
            log.info("int8: %s", measured)
        self._model = model or model_of(checkpoint, self._network)
        self._requests: dict[tuple[int, ...], Any] = {}

    def __call__(self, images: NDArray[np.uint8], state: Tensor | None = None) -> dict[str, Tensor]:
        request = self._requests.get(images.shape)
        if request is None:
            request = self._requests[images.shape] = self._compile(images.shape)
        # Input and outputs are shared with OpenVINO, not copied.
        inputs = [images]
        if self._network.temporal is not None:
            if state is None:
                state = torch.zeros(state_shape(len(images), images.shape[1:3]))
            inputs.append(state.numpy())
        results = request.infer(inputs, share_inputs=True, share_outputs=True)
        decoders = [torch.from_numpy(results[i]) for i in range(len(results))]
        return self._network.split_heads(decoders)

    def _compile(self, shape: tuple[int, ...]) -> Any:
        model = self._model.clone()
        shapes = {0: list(shape)}
        if self._network.temporal is not None:
            shapes[1] = list(state_shape(shape[0], (shape[1], shape[2])))
        model.reshape(shapes)
        return self._core.compile_model(model, "CPU", self._options).create_infer_request()
