"""Exports a checkpoint to a file for another runtime, compared with torch before it is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from instaseg_ros.checkpoint import description
from instaseg_ros.errors import ConfigError, EngineError, MissingExtraError
from instaseg_ros.files import OutputFile, publish
from instaseg_ros.model.heads import DENSE
from instaseg_ros.model.temporal import NEXT_STATE, STATE, state_shape
from instaseg_ros.runtimes.comparison import TOLERANCES, Comparison
from instaseg_ros.runtimes.onnx_file import DTYPES, INPUT, METADATA_KEY, cached_onnx
from instaseg_ros.runtimes.onnx_runtime import Session
from instaseg_ros.runtimes.openvino_core import core
from instaseg_ros.runtimes.openvino_model import model_of, unpacked
from instaseg_ros.runtimes.tensorrt_engine import write_sidecar
from instaseg_ros.runtimes.tensorrt_runtime import INT8, TensorRTRuntime, kept_at
from instaseg_ros.runtimes.torch2trt_runtime import load_plan, save_module

if TYPE_CHECKING:
    from instaseg_ros.checkpoint import Checkpoint
    from instaseg_ros.config import RuntimeConfig


# From images and a temporal network's state before them; None if there is none.
Run = Callable[[NDArray[np.uint8], Tensor | None], dict[str, Tensor]]


class Order(NamedTuple):
    """What to export.

    size: (height, width) pixels. runtime: precision fp32 or fp16; device and engine for TensorRT.
    images: frames for the comparison, anything `open_source` reads; None: the synthetic street.
    """

    checkpoint: Checkpoint
    size: tuple[int, int]
    runtime: RuntimeConfig
    images: str | None = None


def export(order: Order, target: str, path: Path, overwrite: bool = False) -> str:
    """Write the file for a key of TARGETS, and return the result of the comparison in words.

    Raises EngineError, and leaves nothing at `path`, if its outputs differ from torch's.
    """
    suffix, write = TARGETS[target]
    precision = order.runtime.precision
    if path.suffix != suffix:
        raise ConfigError(f"output for {target}: expected a name that ends in {suffix}, got {path}")
    precisions = (*DTYPES, INT8) if target in ENGINES else tuple(DTYPES)
    if precision not in precisions:
        raise ConfigError(
            f"precision of {target}: expected one of {', '.join(precisions)}, got {precision}"
        )
    output = OutputFile(path, overwrite)
    output.part.mkdir()  # a format may have several files
    try:
        run = write(order, output.part / path.name)
        difference = Comparison(order.checkpoint, order.size, order.images)(run)
        if not difference.relative <= TOLERANCES[precision]:
            raise EngineError(
                f"{path} is not kept: expected at most {TOLERANCES[precision]} relative difference "
                f"from torch, got {difference}"
            )
        for file in sorted(output.part.iterdir(), key=lambda file: file.name == path.name):
            publish(file, path.with_name(file.name))
    finally:
        output.discard()
    return str(difference)


def prepare_engine(order: Order) -> Path:
    """Build the TensorRT engine in the cache, where `runtime.name: tensorrt` looks for it, unless
    a fitting one is there. Raises EngineError if the cache cannot keep it."""
    TensorRTRuntime(order.runtime, order.checkpoint).engine(order.size, order.images)
    path = kept_at(order.checkpoint, order.size, order.runtime)
    if not path.is_file():
        raise EngineError(f"the engine is built, but could not be kept as {path}")
    return path


# Each function writes `path` and its side files, and returns a function that runs the result.


def _onnx(order: Order, path: Path) -> Run:
    path.write_bytes(cached_onnx(order.checkpoint, order.size, order.runtime.precision))
    return Session(path, torch.device("cpu"))


def _openvino(order: Order, path: Path) -> Run:
    """Write the model of `runtime.name: openvino` with unpacked outputs: (batch, H, W, 3) uint8 RGB
    in, one output (batch, C, H, W) for each decoder, named after the heads in its channels, such as
    "offset+bandwidth", and `dense` if the network has it; a temporal network also has `state` in
    and `next_state` out."""
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise MissingExtraError("openvino", "openvino", "export --to openvino") from error
    network = order.checkpoint.network().eval()
    model = unpacked(model_of(order.checkpoint, network), len(network.decoders))
    shapes = {0: [-1, *order.size, 3]}
    model.inputs[0].set_names({INPUT})
    names = ["+".join(head.name for head in heads) for heads in network.groups]
    if network.dense is not None:
        names.append(DENSE)
    if network.temporal is not None:
        shapes[1] = [-1, *state_shape(1, order.size)[1:]]
        model.inputs[1].set_names({STATE})
        names.append(NEXT_STATE)
    model.reshape(shapes)
    for output, name in zip(model.outputs, names, strict=True):
        output.set_names({name})
    model.set_rt_info(json.dumps(description(order.checkpoint)), METADATA_KEY)
    openvino.save_model(model, path, compress_to_fp16=order.runtime.precision == "fp16")
    as_written = {"INFERENCE_PRECISION_HINT": "f32"}  # not in this CPU's bf16
    request = core().compile_model(path, "CPU", as_written).create_infer_request()

    def run(images: NDArray[np.uint8], state: Tensor | None = None) -> dict[str, Tensor]:
        inputs: list[NDArray[np.uint8] | NDArray[np.float32]] = [images]
        if network.temporal is not None:
            none = torch.zeros(state_shape(len(images), order.size))
            inputs.append((none if state is None else state).numpy())
        results = request.infer(inputs)
        return network.split_heads([torch.from_numpy(results[i]) for i in range(len(results))])

    return run


def _tensorrt(order: Order, path: Path) -> Run:
    runtime = TensorRTRuntime(order.runtime, order.checkpoint)
    engine = runtime.engine(order.size, order.images)
    path.write_bytes(engine.plan)
    write_sidecar(path, engine.facts)
    return runtime.load(path.read_bytes())


def _torch2trt(order: Order, path: Path) -> Run:
    """Write a file for `TRTModule().load_state_dict(torch.load(path))`, without torch2trt."""
    runtime = TensorRTRuntime(order.runtime, order.checkpoint)
    engine = runtime.engine(order.size, order.images)
    save_module(engine.plan, order.checkpoint, path)
    write_sidecar(path, engine.facts)
    return runtime.load(load_plan(path))


TARGETS: dict[str, tuple[str, Callable[[Order, Path], Run]]] = {
    "onnx": (".onnx", _onnx),
    "openvino": (".xml", _openvino),
    "tensorrt": (".engine", _tensorrt),
    "torch2trt": (".pth", _torch2trt),
}
ENGINES = ("tensorrt", "torch2trt")
