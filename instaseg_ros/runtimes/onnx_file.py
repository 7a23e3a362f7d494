"""Writes the network as an ONNX file, for ONNX Runtime and TensorRT.

One input `images` (batch, H, W, 3) uint8 RGB, with any batch and a fixed size; one float32 output
(batch, C, H, W) for each head, under its name, and `dense` (batch, C, H/8, W/8) if the network has
it. A temporal network's state is a second input `state` (batch, 64, H/8, W/8) float32, zeros
without a past, and a last output `next_state`. Method, heads and class names are in the metadata.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from instaseg_ros import __version__
from instaseg_ros.checkpoint import description, weights_hash
from instaseg_ros.errors import ConfigError, EngineError, MissingExtraError
from instaseg_ros.files import Cache
from instaseg_ros.model.batchnorm import fold
from instaseg_ros.model.heads import DENSE
from instaseg_ros.model.temporal import NEXT_STATE, STATE, state_shape

if TYPE_CHECKING:
    from instaseg_ros.checkpoint import Checkpoint
    from instaseg_ros.methods import Method

INPUT = "images"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
OPSET, IR_VERSION = 17, 8  # the newest that TensorRT 8.6 (JetPack 6) promises to read
# Newer attributes of a Resize, with the values that keep its older behaviour.
RESIZE_SINCE_18 = {("antialias", 0, b""), ("keep_aspect_ratio_policy", 0, b"stretch")}
METADATA_KEY = "instaseg_ros"
# torch maintains its exporter of traced programs; before 2.6 that was incomplete.
TRACED_PROGRAMS = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 6)

log = logging.getLogger(__name__)
_cache, _int8 = Cache("onnx"), Cache("onnx_int8")


def input_names(method: Method) -> list[str]:
    """The file's inputs, in order."""
    return [INPUT, STATE] if method.temporal else [INPUT]


def output_names(checkpoint: Checkpoint) -> list[str]:
    """The file's outputs, in order."""
    method = checkpoint.method()
    names = [head.name for head in method.heads]
    if checkpoint.dense_names:
        names.append(DENSE)
    return [*names, NEXT_STATE] if method.temporal else names


class CameraNetwork(nn.Module):
    """The network from camera pixels to float32 outputs, in the order of `outputs`.

    The input is the camera's uint8: a quarter of the bytes to upload, and no preprocessing for
    users of the file. The conversion comes first, since TensorRT supports nothing else on uint8.
    BatchNorm is folded in float32, so that the weights are rounded to `dtype` once.
    """

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = fold(checkpoint.network()).to(dtype)
        self.inputs, self.outputs = input_names(checkpoint.method()), output_names(checkpoint)
        self.dtype = dtype
        self.eval()

    def forward(self, images: Tensor, state: Tensor | None = None) -> tuple[Tensor, ...]:
        pixels = images.to(self.dtype).permute(0, 3, 1, 2) / 255  # (B, 3, H, W)
        outputs = self.network(pixels, state)
        return tuple(outputs[name].float() for name in self.outputs)


def make_onnx(checkpoint: Checkpoint, size: tuple[int, int], precision: str) -> bytes:
    """Make the file for images of `size` (height, width), checked by onnx's own checker.

    precision: fp32, or fp16 for the weights and everything between the input and the outputs.
    Raises ConfigError for other precisions, MissingExtraError without onnx (and onnxscript).
    """
    if precision not in DTYPES:
        raise ConfigError(f"ONNX in {precision}: expected {' or '.join(DTYPES)}")
    try:
        import onnx

        if TRACED_PROGRAMS:
            import onnxscript  # noqa: F401 (torch needs it)
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "onnx", "onnx", "writing ONNX") from error
    with _quiet():
        model = _exported(CameraNetwork(checkpoint, DTYPES[precision]), size)
    _tidy(model)
    _without_what_18_brought(model)
    model.metadata_props.add(key=METADATA_KEY, value=json.dumps(description(checkpoint)))
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content


def cached_onnx(checkpoint: Checkpoint, size: tuple[int, int], precision: str) -> bytes:
    """The file for these weights, from the cache or made now."""
    made_for = f"{weights_hash(checkpoint)}-{size[0]}x{size[1]}-{precision}"
    name = f"{made_for}-folded-{__version__}-torch{torch.__version__}"
    content = _cache.read(name)
    if content is None:
        log.info("making the ONNX file for images of %d x %d, %s", *size, precision)
        content = make_onnx(checkpoint, size, precision)
        _cache.write(name, content)
    return content


def onnx_with_int8(checkpoint: Checkpoint, size: tuple[int, int]) -> bytes:
    """The int8 file for these weights that `instaseg quantize --to tensorrt` made and measured.

    Raises ConfigError if there is none.
    """
    content = _int8.read(_int8_name(checkpoint, size))
    if content is None:
        wanted = f"{size[0]}x{size[1]}"
        raise ConfigError(
            f"runtime.precision: int8 in TensorRT needs a network that was calibrated and measured "
            f"at {wanted}: run `instaseg quantize --to tensorrt --size {wanted}` with these "
            "weights, or choose another precision"
        )
    return content


def keep_onnx_with_int8(content: bytes, checkpoint: Checkpoint, size: tuple[int, int]) -> None:
    """Keep the file for `onnx_with_int8`. Raises EngineError if that fails."""
    name = _int8_name(checkpoint, size)
    _int8.write(name, content)
    if _int8.read(name) is None:
        raise EngineError(f"the int8 file could not be kept as {_int8.path(name)}")


def has_int8(checkpoint: Checkpoint) -> bool:
    """Whether `onnx_with_int8` has a file for these weights, for any image size."""
    wanted = _int8_name(checkpoint, ("*", "*"))
    return any(fnmatch(name, wanted) for name in _int8.names())


def _int8_name(checkpoint: Checkpoint, size: tuple[object, object]) -> str:
    return f"{weights_hash(checkpoint)}-{size[0]}x{size[1]}-{__version__}"


def _exported(module: CameraNetwork, size: tuple[int, int]) -> Any:
    """The onnx.ModelProto."""
    import onnx

    example = [torch.zeros(2, *size, 3, dtype=torch.uint8)]
    if STATE in module.inputs:
        example.append(torch.zeros(state_shape(2, size)))
    names: dict[str, Any] = {
        "input_names": module.inputs,
        "output_names": module.outputs,
        "opset_version": OPSET,
    }
    if TRACED_PROGRAMS:
        batch = torch.export.Dim("batch")
        shapes = tuple({0: batch} for _ in example)
        program = torch.onnx.export(
            module, tuple(example), dynamo=True, dynamic_shapes=shapes, verbose=False, **names
        )
        assert program is not None
        return program.model_proto
    axes = {name: {0: "batch"} for name in (*module.inputs, *module.outputs)}
    file = io.BytesIO()
    torch.onnx.export(module, tuple(example), file, dynamic_axes=axes, **names)  # type: ignore[arg-type]
    return onnx.load_from_string(file.getvalue())


def _tidy(model: Any) -> None:
    """Drop torch's version and stack traces, which name folders of this machine, so that the same
    network gives the same file and its engine stays valid."""
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "instaseg_ros", ""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    for part in (*model.graph.node, *model.graph.input, *model.graph.output):
        part.doc_string = ""
        if hasattr(part, "metadata_props"):
            del part.metadata_props[:]
    del model.graph.value_info[:]  # readers infer it; it makes up half of the graph


def _without_what_18_brought(model: Any) -> None:
    """Convert opset 18 to OPSET. torch's exporter keeps 18 if there is a Resize, whose newer
    attributes are only dropped here. The checker will complain about anything else."""
    if model.opset_import[0].version != 18:
        return
    model.opset_import[0].version = OPSET
    for node in model.graph.node:
        if node.op_type == "Resize":
            kept = [
                attribute
                for attribute in node.attribute
                if (attribute.name, attribute.i, attribute.s) not in RESIZE_SINCE_18
            ]
            del node.attribute[:]
            node.attribute.extend(kept)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's remarks about its internals."""
    noisy = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in noisy]
    try:
        for logger in noisy:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(noisy, levels, strict=True):
            logger.setLevel(level)
