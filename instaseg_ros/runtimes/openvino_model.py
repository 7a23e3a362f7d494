"""Converts the network to an OpenVINO model, once, and keeps it in the cache.

Its name depends on the weights and the code it is made from, so it is never stale; the folder may
be deleted at any time. Quantised models, made by `instaseg quantize`, are kept beside it.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from instaseg_ros.checkpoint import weights_hash
from instaseg_ros.errors import ConfigError, EngineError
from instaseg_ros.files import Cache
from instaseg_ros.model import batchnorm
from instaseg_ros.model import erfnet as network_module
from instaseg_ros.model import lite as lite_module
from instaseg_ros.model import temporal as temporal_module
from instaseg_ros.model.temporal import state_shape
from instaseg_ros.runtimes import openvino_network
from instaseg_ros.runtimes.openvino_core import core
from instaseg_ros.runtimes.openvino_network import PAIR, PackedNetwork

if TYPE_CHECKING:
    from instaseg_ros.checkpoint import Checkpoint
    from instaseg_ros.model.erfnet import ERFNet

# torch.export of older versions computes for one size what depends on it (up to 2.5), or refuses
# the network with a memory (2.6); a trace has neither fault.
EXPORTS = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 10)
EXAMPLE_SIZE = (64, 128)  # (height, width); the exported graph is valid for any size and batch

log = logging.getLogger(__name__)
_models, _quantised = Cache("openvino"), Cache("openvino_int8")


def model_of(checkpoint: Checkpoint, network: ERFNet) -> Any:
    """The openvino.Model of the checkpoint's network, from the cache if possible."""
    name = _name(checkpoint)
    model = _read(_models, name)
    if model is None:
        traced_model = traced(network)
        _keep(traced_model, _models, name)
        # Read back, as a traced model keeps torch's memory alive.
        model = _read(_models, name) or traced_model
    return model


def quantised_model_of(checkpoint: Checkpoint) -> tuple[Any, str] | None:
    """The int8 openvino.Model of the checkpoint's network, and its measurements; None if one was
    kept but can no longer be read.

    Raises ConfigError unless `instaseg quantize` has made one.
    """
    name = _name(checkpoint)
    if name not in _quantised.names():
        raise ConfigError(
            "runtime.precision: int8 needs a model that was calibrated and measured: "
            "run `instaseg quantize` with these weights, or choose another precision"
        )
    model = _read(_quantised, name)
    return model and (model, model.get_rt_info(["instaseg_ros", "measured"]).value)


def keep_quantised_model(model: Any, checkpoint: Checkpoint) -> None:
    """Keep the model for `quantised_model_of`. Raises EngineError if that fails."""
    name = _name(checkpoint)
    _keep(model, _quantised, name)
    if _read(_quantised, name) is None:
        raise EngineError(f"the int8 model could not be kept as {_quantised.path(name)}")


def _name(checkpoint: Checkpoint) -> str:
    return f"{weights_hash(checkpoint)}-{_code_hash()}"


@cache
def _code_hash() -> str:
    """A hash of what else a model is made from: the code, and the versions of the tools."""
    import openvino

    modules = (network_module, lite_module, temporal_module, batchnorm, openvino_network)
    files = [Path(str(module.__file__)) for module in modules] + [Path(__file__)]
    versions = f"{torch.__version__} {openvino.__version__}"
    made_from = b"".join(path.read_bytes() for path in files) + versions.encode()
    return hashlib.sha256(made_from).hexdigest()[:8]


def _keep(model: Any, cache: Cache, name: str) -> None:
    """Cache the model as bytes: the length of the graph, the graph, and the weights."""
    import openvino

    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.xml")
            openvino.save_model(model, path, compress_to_fp16=False)
            graph, weights = path.read_bytes(), path.with_suffix(".bin").read_bytes()
    except (OSError, RuntimeError) as error:
        log.warning("the OpenVINO model is not kept: no room in the temporary folder (%s)", error)
        return
    cache.write(name, len(graph).to_bytes(8, "little") + graph + weights)


def _read(cache: Cache, name: str) -> Any:
    """The openvino.Model that `_keep` cached, or None."""
    content = cache.read(name)
    if content is None:
        return None
    end = 8 + int.from_bytes(content[:8], "little")
    try:
        return core().read_model(content[8:end], content[end:])
    except RuntimeError as error:  # OpenVINO silently writes half a file to a full disk
        log.warning("the cached OpenVINO model cannot be read and is rebuilt: %s", error)
        return None


def traced(network: ERFNet) -> Any:
    """An openvino.Model from (B, H, W, 3) uint8 to the packed outputs of the decoders (see
    `PackedNetwork`), (B, H/2, W/2, 4 C) float32, then `dense` (B, C, H/8, W/8) if the network has
    it; a temporal network's state is a second input and the last output."""
    import openvino
    from openvino import opset13 as ops

    height, width = EXAMPLE_SIZE
    example = [torch.zeros(2, 3 * PAIR, height, width // PAIR)]
    shapes = {0: [-1, 3 * PAIR, -1, -1]}
    if network.temporal is not None:
        example.append(torch.zeros(state_shape(2, EXAMPLE_SIZE)))
        shapes[1] = [-1, example[1].shape[1], -1, -1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, about torch
        packed = PackedNetwork(network).eval()
        if EXPORTS:
            model = openvino.convert_model(torch.export.export(packed, tuple(example)))
        else:
            model = openvino.convert_model(packed, example_input=tuple(example))
    model.reshape(shapes)
    pairs, *state = model.get_parameters()
    images = ops.parameter([-1, -1, -1, 3], openvino.Type.u8)
    seen_as_pairs = ops.reshape(images, np.array([0, 0, -1, 3 * PAIR]), special_zero=True)
    pixels = ops.transpose(ops.convert(seen_as_pairs, "f32"), np.array([0, 3, 1, 2]))
    pairs.output(0).replace(pixels.output(0))
    outputs = [result.input_value(0) for result in model.get_results()]
    for index in range(len(network.decoders)):
        outputs[index] = ops.transpose(outputs[index], np.array([0, 2, 3, 1])).output(0)
    return openvino.Model(outputs, [images, *state])


def unpacked(model: Any, n_decoders: int) -> Any:
    """The model with its decoders' outputs as (B, C, H, W), for callers without `unpack`."""
    import openvino
    from openvino import opset13 as ops

    outputs = [result.input_value(0) for result in model.get_results()]
    for index in range(n_decoders):
        channels_first = ops.transpose(outputs[index], np.array([0, 3, 1, 2]))
        outputs[index] = ops.depth_to_space(channels_first, "depth_first", 2).output(0)
    return openvino.Model(outputs, model.get_parameters())
