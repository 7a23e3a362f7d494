"""Quantises a trained network to int8, for OpenVINO or TensorRT, and measures it before keeping it.

Calibration needs only images, without truth: they show how large each layer's activations get.
Layers at half the image's resolution and those that make the outputs stay in floating point: they
are a small share of the work, but would cause most of the loss.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from instaseg_ros.checkpoint import Checkpoint
from instaseg_ros.config import InputConfig, RuntimeConfig
from instaseg_ros.deploy.quantize_onnx import quantised_onnx
from instaseg_ros.errors import ConfigError, MissingExtraError
from instaseg_ros.evaluation.by_runtime import REFERENCE, Row, compare
from instaseg_ros.preprocess import preprocess
from instaseg_ros.recordings.sources import open_source, spread_frames
from instaseg_ros.runtimes import Runtime, open_runtime
from instaseg_ros.runtimes.onnx_file import cached_onnx, keep_onnx_with_int8
from instaseg_ros.runtimes.onnx_runtime import Session
from instaseg_ros.runtimes.openvino_model import keep_quantised_model, model_of
from instaseg_ros.runtimes.openvino_runtime import OpenVinoRuntime
from instaseg_ros.synthetic_street import SyntheticStreet

CONVOLUTIONS = ("Convolution", "ConvolutionBackpropData")
QUANTISABLE = (*CONVOLUTIONS, "Add", "MaxPool")
FEW_CHANNELS = 16  # at half resolution, or in the image itself


class Order(NamedTuple):
    """The data for calibration and measurement, and the target.

    images: for calibration, `frames` of anything that `open_source` reads; None: of the synthetic
    street's training sequences. size: (height, width) for both. check_frames: held-out synthetic
    frames on which to measure AP. target: a key of TARGETS.
    """

    images: str | None
    size: tuple[int, int]
    frames: int
    check_frames: int
    target: str = "openvino"


class Quantised(NamedTuple):
    """An int8 model that is not kept yet.

    model: in its target's form. rows: of the reference, float32 and int8. measured: its AP, in
    words.
    """

    model: Any
    rows: dict[str, Row]
    measured: str
    order: Order

    @property
    def loss(self) -> float:
        """The loss of AP."""
        return self.rows[REFERENCE].ap - self.rows["int8"].ap


def quantize(checkpoint: Checkpoint, decode: Any, order: Order) -> Quantised:
    """Make and measure the int8 model of the checkpoint; `keep_quantised` keeps it.

    decode: the method's `DecodeConfig`.
    """
    if checkpoint.method().temporal:
        raise ConfigError(
            f"`instaseg quantize` calibrates on single images, and method {checkpoint.method_name} "
            "has a memory of earlier ones; use runtime.precision: bf16 or fp32"
        )
    target = TARGETS[order.target]
    model = target.make(checkpoint, order)
    sides = target.sides(model, checkpoint, order)
    rows = compare(sides, checkpoint, decode, order.size, order.check_frames)
    measured = (
        f"AP {rows['int8'].ap:.4f} instead of {rows[REFERENCE].ap:.4f} on {order.check_frames} "
        f"held-out synthetic frames of {order.size[0]}x{order.size[1]}"
    )
    return Quantised(model, rows, measured, order)


def keep_quantised(quantised: Quantised, checkpoint: Checkpoint, max_loss: float) -> None:
    """Keep the model where `open_runtime` finds it.

    Raises ConfigError, and keeps nothing, if it loses more than `max_loss` AP.
    """
    if not quantised.loss <= max_loss:
        raise ConfigError(
            f"the int8 model is not kept: {quantised.measured}; expected a loss of at most "
            f"{max_loss}. "
            "Calibrate on more images, or images more like the camera's (--images), or accept "
            "the loss with --max-loss"
        )
    TARGETS[quantised.order.target].keep(quantised, checkpoint)


def calibration_images(order: Order, stride: int) -> Iterator[NDArray[np.uint8]]:
    """`order.frames` images (1, H, W, 3) uint8 spread over the source, at `order.size`."""
    if order.images:
        frames = spread_frames(open_source(order.images), order.frames)
        images = (frame.image for frame in frames)
    else:
        street = SyntheticStreet(
            size=order.size, sequences=order.frames, frames_per_sequence=1, depth=False
        )
        images = (street[index].frame.image for index in range(order.frames))
    return (preprocess([image], InputConfig(*order.size), stride)[0] for image in images)


def _openvino(checkpoint: Checkpoint, order: Order) -> Any:
    """The openvino.Model."""
    try:
        import nncf
        from nncf.quantization.advanced_parameters import (
            AdvancedQuantizationParameters,
            OverflowFix,
        )
    except ModuleNotFoundError as error:
        raise MissingExtraError("nncf", "int8", "`instaseg quantize`") from error
    logging.getLogger("nncf").setLevel(logging.WARNING)
    model = model_of(checkpoint, checkpoint.network().eval())
    return nncf.quantize(
        model,
        nncf.Dataset(list(calibration_images(order, checkpoint.stride))),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=order.frames,
        ignored_scope=nncf.IgnoredScope(names=sensitive(model)),
        # Seven bits per weight: CPUs without VNNI add products in 16 bits, which would saturate.
        advanced_parameters=AdvancedQuantizationParameters(overflow_fix=OverflowFix.ENABLE),
    )


def _openvino_sides(model: Any, checkpoint: Checkpoint, order: Order) -> dict[str, Runtime]:
    return {
        "fp32": open_runtime(RuntimeConfig(name="openvino", precision="fp32"), checkpoint),
        "int8": OpenVinoRuntime(RuntimeConfig(precision="int8"), checkpoint, model),
    }


def _keep_openvino(quantised: Quantised, checkpoint: Checkpoint) -> None:
    quantised.model.set_rt_info(quantised.measured, ["instaseg_ros", "measured"])
    keep_quantised_model(quantised.model, checkpoint)


def _tensorrt(checkpoint: Checkpoint, order: Order) -> bytes:
    """The ONNX file that TensorRT reads."""
    return quantised_onnx(checkpoint, order.size, calibration_images(order, checkpoint.stride))


def _tensorrt_sides(model: bytes, checkpoint: Checkpoint, order: Order) -> dict[str, Runtime]:
    """Runtimes by ONNX Runtime, which needs no GPU and rounds to int8 where TensorRT does; the rest
    is float32 here, but half precision there."""
    cpu = torch.device("cpu")
    return {
        "fp32": Session(cached_onnx(checkpoint, order.size, "fp32"), cpu),
        "int8": Session(model, cpu, as_written=True),
    }


def _keep_tensorrt(quantised: Quantised, checkpoint: Checkpoint) -> None:
    keep_onnx_with_int8(quantised.model, checkpoint, quantised.order.size)


class Target(NamedTuple):
    """make: makes the int8 model. sides: the runtimes in which float32 and int8 are measured.
    keep: keeps the model."""

    make: Callable[[Checkpoint, Order], Any]
    sides: Callable[[Any, Checkpoint, Order], dict[str, Runtime]]
    keep: Callable[[Quantised, Checkpoint], None]


TARGETS = {
    "openvino": Target(_openvino, _openvino_sides, _keep_openvino),
    "tensorrt": Target(_tensorrt, _tensorrt_sides, _keep_tensorrt),
}


def sensitive(model: Any) -> list[str]:
    """Names of the operations that stay in floating point."""
    names = {
        node.get_friendly_name()
        for node in model.get_ordered_ops()
        if node.get_type_name() in QUANTISABLE and _few_channels(node)
    }
    for result in model.get_results():
        node = result
        while node.get_type_name() not in CONVOLUTIONS:
            node = node.input_value(0).get_node()
        names.add(node.get_friendly_name())
    return sorted(names)


def _few_channels(node: Any) -> bool:
    """Whether input and output have few channels: expanding few to many is worth quantising."""
    shapes = node.get_input_partial_shape(0), node.get_output_partial_shape(0)  # (B, C, H, W)
    return all(
        len(shape) == 4 and shape[1].is_static and int(shape[1].get_length()) <= FEW_CHANNELS
        for shape in shapes
    )
