"""Writes the network as an ONNX file with int8, for TensorRT. The file says what is int8, and at
which scale ("explicit quantisation", pairs of QuantizeLinear and DequantizeLinear).

TensorRT supports one scale per tensor for activations and one per output channel for weights, all
symmetric. It does not support these for transposed convolutions, which stay in floating point.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.checkpoint import Checkpoint
from instaseg_ros.errors import MissingExtraError
from instaseg_ros.runtimes.onnx_file import INPUT, cached_onnx

CONVOLUTIONS = ("Conv", "ConvTranspose")
FEW_CHANNELS = 16  # at half resolution, or in the image itself


def quantised_onnx(
    checkpoint: Checkpoint, size: tuple[int, int], images: Iterable[NDArray[np.uint8]]
) -> bytes:
    """The file for images of `size` (height, width), calibrated on `images`, (1, H, W, 3) each.

    Raises MissingExtraError without onnx and onnxruntime.
    """
    try:
        import onnx
        from onnxruntime.quantization import QuantType, quantize_static
        from onnxruntime.quantization.quant_utils import add_pre_process_metadata
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "onnxruntime", "onnx", "int8 for TensorRT") from error
    model = onnx.load_from_string(cached_onnx(checkpoint, size, "fp32"))
    about = [(entry.key, entry.value) for entry in model.metadata_props]
    add_pre_process_metadata(model)  # it is simplified already; this avoids a warning
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "quantised.onnx")
        quantize_static(
            model,
            path,
            _Calibration(images),
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=sensitive(model),
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            extra_options={
                "ActivationSymmetric": True,
                "AddQDQPairToWeight": True,
                "QuantizeBias": False,
                "QDQDisableWeightAdjustForInt32Bias": True,  # it would, for a bias that is float
                # What a convolution reads is int8, for all its readers: a sum takes what skips a
                # block as int8 too, and the convolution's own output before it is rounded.
                "OpTypesToExcludeOutputQuantization": ["Conv"],
            },
        )
        model = onnx.load(path)
    del model.metadata_props[:]
    for key, value in about:
        model.metadata_props.add(key=key, value=value)
    del model.graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content


class _Calibration:
    """Gives `images` to onnxruntime: one at a time, None after the last."""

    def __init__(self, images: Iterable[NDArray[np.uint8]]) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        image = next(self._images, None)
        return None if image is None else {INPUT: image}


def sensitive(model: Any) -> list[str]:
    """Names of the convolutions that stay in floating point: those from few channels to few, and
    those that make the outputs."""
    makers = {output: node for node in model.graph.node for output in node.output}
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    names = set()
    for node in model.graph.node:
        if node.op_type == "Conv":
            groups = next((a.i for a in node.attribute if a.name == "group"), 1)
            n_out, n_in_group = shapes[node.input[1]][:2]
            if max(n_out, n_in_group * groups) <= FEW_CHANNELS:
                names.add(node.name)
    for output in model.graph.output:
        node = makers[output.name]
        while node.op_type not in CONVOLUTIONS:
            node = makers[node.input[0]]
        names.add(node.name)
    return sorted(names)
