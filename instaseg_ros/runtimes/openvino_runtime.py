"""Runs the network in OpenVINO, the fastest runtime on a CPU.

The compiled model reads the camera's uint8 pixels in place and writes packed outputs to reused
memory, from which they are unpacked. Compiling for a size takes a third of a second, hardly more
than reading it from disk, so compiled models are not cached.

The images of a batch run side by side, each on its share of the threads: threads that work on one
image wait for each other, which costs two of them a sixth of their time, and images that go through
the network together gain nothing.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from instaseg_ros.errors import ConfigError, MissingExtraError
from instaseg_ros.model.temporal import state_shape
from instaseg_ros.numba_cache import compile_all
from instaseg_ros.runtimes.openvino_core import core
from instaseg_ros.runtimes.openvino_model import model_of, quantised_model_of
from instaseg_ros.runtimes.openvino_network import unpack
from instaseg_ros.runtimes.recent import Recent

if TYPE_CHECKING:
    from instaseg_ros.checkpoint import Checkpoint
    from instaseg_ros.config import RuntimeConfig

SHAPES = 12  # kept: of several cameras, sizes of images alone and side by side
PRECISIONS = {"fp32": "f32", "bf16": "bf16"}
log = logging.getLogger(__name__)


class OpenVinoRuntime:
    """OpenVINO on the CPU; one compiled model per input shape.

    threads: how many it runs on.
    """

    name = "openvino"

    def __init__(self, config: RuntimeConfig, checkpoint: Checkpoint, model: Any = None) -> None:
        """model: an openvino.Model to run instead of the checkpoint's own."""
        try:
            engine = core()
        except ModuleNotFoundError as error:
            raise MissingExtraError("openvino", "openvino", "runtime.name: openvino") from error
        if config.device not in ("auto", "cpu"):
            raise ConfigError(f"runtime.device: openvino runs on 'cpu', got '{config.device}'")
        if config.precision == "fp16":
            raise ConfigError("runtime.precision: fp16 needs a GPU; use bf16 or fp32 on a CPU")
        can = engine.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        best = "bf16" if "BF16" in can else "fp32"
        self.precision = best if config.precision == "auto" else config.precision
        self._options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": PRECISIONS.get(self.precision, PRECISIONS[best]),
            "PERFORMANCE_HINT": "LATENCY",
        }
        if config.threads:
            self._options["INFERENCE_NUM_THREADS"] = config.threads
        self.threads = config.threads or len(os.sched_getaffinity(0))
        self._network = checkpoint.network().eval()
        if model is None and self.precision == "int8":
            model = self._quantised(checkpoint, best)
        self._model = model or model_of(checkpoint, self._network)
        compile_all()
        self.forget()

    def __call__(self, images: NDArray[np.uint8], state: Tensor | None = None) -> dict[str, Tensor]:
        requests, outputs = self._compiled(images.shape)
        memory = () if self._network.temporal is None else (self._states(images, state),)
        for n, request in enumerate(requests):
            # OpenVINO shares input and results with us, without copies.
            request.start_async([part[n : n + 1] for part in (images, *memory)], share_inputs=True)
        for request in requests:
            request.wait()
        for n, request in enumerate(requests):
            for index, output in enumerate(outputs):
                unpack(request.get_output_tensor(index).data, output[n : n + 1])
        return self._network.split_heads([*map(torch.from_numpy, outputs), *self._rest(requests)])

    def forget(self) -> None:
        """Free the compiled models."""
        self._compiled = Recent(self._compile, SHAPES)

    def _states(self, images: NDArray[np.uint8], state: Tensor | None) -> NDArray[np.float32]:
        if state is None:
            return np.zeros(state_shape(len(images), images.shape[1:3]), np.float32)
        return state.numpy()

    def _rest(self, requests: list[Any]) -> list[Tensor]:
        """(B, C, h, w) each: the outputs that are not packed."""
        packed = len(self._network.groups)
        results = [[torch.from_numpy(t.data) for t in r.output_tensors[packed:]] for r in requests]
        if len(results) == 1:
            return results[0]
        return [torch.cat(one) for one in zip(*results, strict=True)]

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

    def _compile(self, shape: tuple[int, ...]) -> tuple[list[Any], list[NDArray[np.float32]]]:
        """An inference request for each of the images of shape (B, H, W, 3), and memory for each
        decoder's outputs."""
        import openvino
        from openvino.preprocess import PrePostProcessor

        batch, height, width, _ = shape
        shapes = {0: [1, height, width, 3]}
        if self._network.temporal is not None:
            shapes[1] = list(state_shape(1, (height, width)))
        model = self._model.clone()
        model.reshape(shapes)
        outputs = [(batch, sum(h.channels for h in g), height, width) for g in self._network.groups]
        if self._options["INFERENCE_PRECISION_HINT"] == "bf16":
            steps = PrePostProcessor(model)
            for index in range(len(outputs)):
                steps.output(index).tensor().set_element_type(openvino.Type.bf16)
            model = steps.build()
        options = {**self._options, "NUM_STREAMS": min(batch, self.threads)}
        compiled = core().compile_model(model, "CPU", options)
        requests = [compiled.create_infer_request() for _ in range(batch)]
        return requests, [np.empty(output, np.float32) for output in outputs]
