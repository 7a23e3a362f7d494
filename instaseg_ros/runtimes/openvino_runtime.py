"""Runs the network in OpenVINO, the fastest runtime on a CPU.

The compiled model reads the camera's uint8 pixels in place and writes packed outputs to reused
memory, from which they are unpacked. Compiling for a size takes a third of a second, hardly more
than reading it from disk, so compiled models are not cached.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from instaseg_ros.errors import ConfigError, MissingExtraError
from instaseg_ros.model.temporal import state_shape
from instaseg_ros.numba_cache import compile_all
from instaseg_ros.runtimes.openvino_model import model_of, quantised_model_of
from instaseg_ros.runtimes.openvino_network import unpack
from instaseg_ros.runtimes.recent import Recent

if TYPE_CHECKING:
    from instaseg_ros.checkpoint import Checkpoint
    from instaseg_ros.config import RuntimeConfig

PRECISIONS = {"fp32": "f32", "bf16": "bf16"}
log = logging.getLogger(__name__)


class OpenVinoRuntime:
    """OpenVINO on the CPU; one compiled model per input shape."""

    name = "openvino"

    def __init__(self, config: RuntimeConfig, checkpoint: Checkpoint, model: Any = None) -> None:
        """model: an openvino.Model to run instead of the checkpoint's own."""
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
        }
        if config.threads:
            self._options["INFERENCE_NUM_THREADS"] = config.threads
        self._network = checkpoint.network().eval()
        if model is None and self.precision == "int8":
            model = self._quantised(checkpoint, best)
        self._model = model or model_of(checkpoint, self._network)
        compile_all()
        self._compiled = Recent(self._compile)

    def __call__(self, images: NDArray[np.uint8], state: Tensor | None = None) -> dict[str, Tensor]:
        request, outputs = self._compiled(images.shape)
        inputs = [images]
        if self._network.temporal is not None:
            if state is None:
                state = torch.zeros(state_shape(len(images), images.shape[1:3]))
            inputs.append(state.numpy())
        # OpenVINO shares input and results with us, without copies.
        results = request.infer(inputs, share_inputs=True, share_outputs=True)
        for index, output in enumerate(outputs):
            unpack(results[index], output)
        further = [results[index] for index in range(len(outputs), len(results))]
        return self._network.split_heads(list(map(torch.from_numpy, [*outputs, *further])))

    def _quantised(self, checkpoint: Checkpoint, otherwise: str) -> Any:
        """The int8 model; None if it is damaged, as labels in another precision are better than
        none."""
        found = quantised_model_of(checkpoint)
        if found is None:
            log.warning(
                "runtime.precision: the int8 model is damaged, so %s is used instead; run "
                "`instaseg quantize` again",
                otherwise,
            )
            self.precision = otherwise
            return None
        model, measured = found
        log.info("int8: %s", measured)
        return model

    def _compile(self, shape: tuple[int, ...]) -> tuple[Any, list[NDArray[np.float32]]]:
        """An inference request for images of shape (B, H, W, 3), and memory for each decoder's
        outputs."""
        import openvino
        from openvino.preprocess import PrePostProcessor

        batch, height, width, _ = shape
        shapes = {0: list(shape)}
        if self._network.temporal is not None:
            shapes[1] = list(state_shape(batch, (height, width)))
        model = self._model.clone()
        model.reshape(shapes)
        outputs = [(batch, sum(h.channels for h in g), height, width) for g in self._network.groups]
        if self._options["INFERENCE_PRECISION_HINT"] == "bf16":
            steps = PrePostProcessor(model)
            for index in range(len(outputs)):
                steps.output(index).tensor().set_element_type(openvino.Type.bf16)
            model = steps.build()
        request = self._core.compile_model(model, "CPU", self._options).create_infer_request()
        return request, [np.empty(output, np.float32) for output in outputs]
