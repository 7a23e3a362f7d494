"""The network as an OpenVINO model, made once and kept on disk.

What is kept is named after the weights and the code it was made from, so it is never stale; the
folder may be deleted at any time. Quantised models, which `instaseg quantize` makes, lie beside.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from instaseg_ros import network as network_module
from instaseg_ros import temporal as temporal_module
from instaseg_ros.checkpoint import weights_hash
from instaseg_ros.errors import ConfigError
from instaseg_ros.output_files import cache_dir
from instaseg_ros.temporal import state_shape

if TYPE_CHECKING:
    from instaseg_ros.checkpoint import Checkpoint
    from instaseg_ros.network import ERFNet

EXAMPLE_SHAPE = (2, 3, 64, 128)  # the exported graph holds for every batch and size


def model_of(checkpoint: Checkpoint, network: ERFNet) -> Any:
    """The openvino.Model of the checkpoint's network, from the cache folder if it is there."""
    path = model_path(checkpoint)
    if not path.exists():
        keep(traced(network), path)
    return read(path)


def quantised_model_of(checkpoint: Checkpoint) -> tuple[Any, str]:
    """The int8 openvino.Model of the checkpoint's network, and what was measured of it.

    Raises ConfigError unless `instaseg quantize` has made one.
    """
    path = model_path(checkpoint, "int8")
    if not path.exists():
        raise ConfigError(
            "runtime.precision: int8 needs a model that was calibrated and measured: "
            "run `instaseg quantize` with these weights, or choose another precision"
        )
    model = read(path)
    return model, model.get_rt_info(["instaseg_ros", "measured"]).value


def model_path(checkpoint: Checkpoint, kind: str = "float") -> Path:
    """Where in the cache folder the checkpoint's model lies, made or not."""
    return cache_dir() / "openvino" / f"{weights_hash(checkpoint)}-{_code_hash()}-{kind}.xml"


@cache
def _code_hash() -> str:
    """What else a model is made from: the code, and the versions of its makers."""
    import openvino

    files = (Path(network_module.__file__), Path(temporal_module.__file__), Path(__file__))
    versions = f"{torch.__version__} {openvino.__version__}"
    made_from = b"".join(path.read_bytes() for path in files) + versions.encode()
    return hashlib.sha256(made_from).hexdigest()[:8]


def keep(model: Any, path: Path) -> None:
    """Write the model, complete or not at all: PATH.xml and the weights beside it, PATH.bin."""
    import openvino

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.stem}.{os.getpid()}.part.xml")
    openvino.save_model(model, part, compress_to_fp16=False)
    os.replace(part.with_suffix(".bin"), path.with_suffix(".bin"))
    os.replace(part, path)  # last: with it the model is there


def read(path: Path) -> Any:
    """The openvino.Model in the file."""
    import openvino

    return openvino.Core().read_model(path)


class _DecoderOutputs(nn.Module):
    def __init__(self, network: ERFNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, ...]:
        return tuple(self.network.decoder_outputs(x, state))


def traced(network: ERFNet) -> Any:
    """An openvino.Model from (B, H, W, 3) uint8 to the decoder outputs in float32; of a temporal
    network, its state is a second input and the last output."""
    import openvino
    from openvino.preprocess import PrePostProcessor

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, about torch
        example = [torch.zeros(EXAMPLE_SHAPE)]
        shapes = {0: [-1, 3, -1, -1]}
        if network.temporal is not None:
            state = state_shape(EXAMPLE_SHAPE[0], EXAMPLE_SHAPE[2:])
            example.append(torch.zeros(state))
            shapes[1] = [-1, state[1], -1, -1]
        program = torch.export.export(_DecoderOutputs(network), tuple(example))
        model = openvino.convert_model(program)
    model.reshape(shapes)
    steps = PrePostProcessor(model)
    pixels = steps.input(0)
    pixels.tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    pixels.model().set_layout(openvino.Layout("NCHW"))
    pixels.preprocess().convert_element_type(openvino.Type.f32).scale(255.0)
    for index in range(len(model.outputs)):
        steps.output(index).tensor().set_element_type(openvino.Type.f32)
    return steps.build()
