"""The network in OpenVINO, the fastest on a CPU.

The compiled model takes the camera's uint8 pixels as they lie in memory; type, scale and layout are
converted inside it. Compiled models are kept on disk, so only the first start of a size compiles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from instaseg_ros.errors import ConfigError, MissingExtraError
from instaseg_ros.output_files import cache_dir

if TYPE_CHECKING:
    from instaseg_ros.checkpoint import Checkpoint
    from instaseg_ros.config import RuntimeConfig
    from instaseg_ros.network import ERFNet

PRECISIONS = {"fp32": "f32", "bf16": "bf16"}
EXAMPLE_SIZE = (64, 64)  # the traced graph holds for every size


class OpenVinoRuntime:
    """OpenVINO on the CPU; one compiled model per input shape."""

    name = "openvino"

    def __init__(self, config: RuntimeConfig, checkpoint: Checkpoint) -> None:
        try:
            import openvino
        except ModuleNotFoundError as error:
            raise MissingExtraError("openvino", "openvino", "runtime.name: openvino") from error
        if config.device not in ("auto", "cpu"):
            raise ConfigError(f"runtime.device: openvino runs on 'cpu', got '{config.device}'")
        if config.precision == "fp16":
            raise ConfigError("runtime.precision: fp16 needs a GPU; use bf16 or fp32 on a CPU")
        self._core = openvino.Core()
        self.precision = config.precision
        if config.precision == "auto":
            can = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
            self.precision = "bf16" if "BF16" in can else "fp32"
        self._options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[self.precision],
            "PERFORMANCE_HINT": "LATENCY",
            "CACHE_DIR": str(cache_dir() / "openvino"),
        }
        if config.threads:
            self._options["INFERENCE_NUM_THREADS"] = config.threads
        self._network = checkpoint.network().eval()
        self._model = traced(self._network)
        self._requests: dict[tuple[int, ...], Any] = {}

    def __call__(self, images: NDArray[np.uint8]) -> dict[str, Tensor]:
        request = self._requests.get(images.shape)
        if request is None:
            request = self._requests[images.shape] = self._compile(images.shape)
        # Input and outputs are shared with OpenVINO, not copied.
        results = request.infer([images], share_inputs=True, share_outputs=True)
        decoders = [torch.from_numpy(results[i]) for i in range(len(results))]
        return self._network.split_heads(decoders)

    def _compile(self, shape: tuple[int, ...]) -> Any:
        model = self._model.clone()
        model.reshape(list(shape))
        return self._core.compile_model(model, "CPU", self._options).create_infer_request()


class _DecoderOutputs(nn.Module):
    def __init__(self, network: ERFNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.network.decoder_outputs(x))


def traced(network: ERFNet) -> Any:
    """An openvino.Model from (B, H, W, 3) uint8 to the decoder outputs in float32."""
    import openvino
    from openvino.preprocess import PrePostProcessor

    example = torch.zeros(1, 3, *EXAMPLE_SIZE)
    model = openvino.convert_model(_DecoderOutputs(network), example_input=example)
    torch._C._jit_clear_class_registry()  # else torch keeps each trace with its weights for ever
    model.reshape([-1, 3, -1, -1])
    steps = PrePostProcessor(model)
    steps.input().tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    steps.input().model().set_layout(openvino.Layout("NCHW"))
    steps.input().preprocess().convert_element_type(openvino.Type.f32).scale(255.0)
    for index in range(len(model.outputs)):
        steps.output(index).tensor().set_element_type(openvino.Type.f32)
    return steps.build()
