"""Post-training quantisation of the network to int8 for OpenVINO, measured before it is kept.

NNCF calibrates on images alone, without truth: they show how large each layer's activations get.
What lies at half the image's resolution or makes the outputs stays in floating point: it is a small
share of the work and most of the loss.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.checkpoint import Checkpoint
from instaseg_ros.config import DecodeConfig, InputConfig, RuntimeConfig
from instaseg_ros.errors import ConfigError, MissingExtraError
from instaseg_ros.evaluation.by_runtime import REFERENCE, Row, compare
from instaseg_ros.preprocess import preprocess
from instaseg_ros.recordings.sources import open_source, spread_frames
from instaseg_ros.runtimes import open_runtime
from instaseg_ros.runtimes.openvino_model import keep_quantised_model, model_of
from instaseg_ros.runtimes.openvino_runtime import OpenVinoRuntime
from instaseg_ros.synthetic_street import SyntheticStreet

CONVOLUTIONS = ("Convolution", "ConvolutionBackpropData")
QUANTISABLE = (*CONVOLUTIONS, "Add", "MaxPool")
FEW_CHANNELS = 16  # at half resolution, or of the image itself


class Order(NamedTuple):
    """What to calibrate and measure on.

    images: for calibration, `frames` of anything that `open_source` reads; None: of the synthetic
    street's training sequences. size: (height, width) to calibrate and measure at.
    check_frames: held-out synthetic frames to measure AP on.
    """

    images: str | None
    size: tuple[int, int]
    frames: int
    check_frames: int


class Quantised(NamedTuple):
    """An int8 model that is not kept yet.

    model: openvino.Model. rows: the reference's, float32's and int8's. measured: its AP, in words.
    """

    model: Any
    rows: dict[str, Row]
    measured: str

    @property
    def loss(self) -> float:
        """AP lost."""
        return self.rows[REFERENCE].ap - self.rows["int8"].ap


def quantize(checkpoint: Checkpoint, decode: DecodeConfig, order: Order) -> Quantised:
    """Make and measure the int8 model of the checkpoint; `keep_quantised` keeps it."""
    if checkpoint.method().temporal:
        raise ConfigError(
            f"`instaseg quantize` calibrates on single images, and method {checkpoint.method_name} "
            "has a memory of earlier ones; use runtime.precision: bf16 or fp32"
        )
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
    quantised = nncf.quantize(
        model,
        nncf.Dataset(list(calibration_images(order, checkpoint.stride))),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=order.frames,
        ignored_scope=nncf.IgnoredScope(names=sensitive(model)),
        # Seven bits for every weight: without VNNI a CPU adds products in 16 bits, which saturate.
        advanced_parameters=AdvancedQuantizationParameters(overflow_fix=OverflowFix.ENABLE),
    )
    rows = _measure(checkpoint, decode, order, quantised)
    measured = (
        f"AP {rows['int8'].ap:.4f} instead of {rows[REFERENCE].ap:.4f} on {order.check_frames} "
        f"held-out synthetic frames of {order.size[0]}x{order.size[1]}"
    )
    quantised.set_rt_info(measured, ["instaseg_ros", "measured"])
    return Quantised(quantised, rows, measured)


def keep_quantised(quantised: Quantised, checkpoint: Checkpoint, max_loss: float) -> None:
    """Keep the model where `open_runtime` finds it.

    Raises ConfigError, and keeps nothing, when it loses more than `max_loss` AP.
    """
    if not quantised.loss <= max_loss:
        raise ConfigError(
            f"the int8 model is not kept: {quantised.measured}; expected at most {max_loss} lost. "
            "Calibrate on more images, or images more like the camera's (--images), or accept "
            "the loss with --max-loss"
        )
    keep_quantised_model(quantised.model, checkpoint)


def calibration_images(order: Order, stride: int) -> Iterator[NDArray[np.uint8]]:
    """`order.frames` images (1, H, W, 3) uint8 from all over the source, at `order.size`."""
    if order.images:
        frames = spread_frames(open_source(order.images), order.frames)
        images = (frame.image for frame in frames)
    else:
        street = SyntheticStreet(
            size=order.size, sequences=order.frames, frames_per_sequence=1, depth=False
        )
        images = (street[index].frame.image for index in range(order.frames))
    return (preprocess([image], InputConfig(*order.size), stride)[0] for image in images)


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
    """Whether few channels go in, and few come out: what makes many of few is worth quantising."""
    shapes = node.get_input_partial_shape(0), node.get_output_partial_shape(0)  # (B, C, H, W)
    return all(
        len(shape) == 4 and shape[1].is_static and int(shape[1].get_length()) <= FEW_CHANNELS
        for shape in shapes
    )


def _measure(
    checkpoint: Checkpoint, decode: DecodeConfig, order: Order, quantised: Any
) -> dict[str, Row]:
    float32 = open_runtime(RuntimeConfig(name="openvino", precision="fp32"), checkpoint)
    int8 = OpenVinoRuntime(RuntimeConfig(precision="int8"), checkpoint, quantised)
    runtimes = {"fp32": float32, "int8": int8}
    return compare(runtimes, checkpoint, decode, order.size, order.check_frames)
