"""Every parameter of the package: here, and in `config_train`, are the only places where a default
stands.

`Config` is a tree of frozen dataclasses. Each field carries its description and range, from which
the ROS parameters, `config/instaseg.yaml` and the command line's `--set` are derived.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from instaseg_ros.config.file import parse_assignments, trees_in
from instaseg_ros.config.schema import Parameter, assigned, dump, merge, param, parameters
from instaseg_ros.config.training import AugmentConfig, TrainConfig
from instaseg_ros.errors import ConfigError

__all__ = [
    "AugmentConfig",
    "Config",
    "Parameter",
    "TrainConfig",
    "assigned",
    "dump",
    "load",
    "merge",
    "parameters",
    "parse_assignments",
    "read",
]


@dataclass(frozen=True, slots=True)
class InputConfig:
    """What the network sees of the camera image: as it is where nothing is set."""

    height: int = param(0, "network input height in pixels; 0: keeps the shape", low=0, high=8192)
    width: int = param(0, "network input width in pixels; 0: keeps the shape", low=0, high=8192)
    scale: float = param(1.0, "magnification, where neither is set", low=0.1, high=8.0)
    mirror: bool = param(False, "mean of the image and its mirror image, in twice the time")
    max_pixels: int = param(
        50_000_000,
        "an image of more pixels is refused before it takes memory, as it comes and as scaled",
        low=1,
        high=1 << 30,  # OpenCV's own limit
    )
    white_level: int = param(
        0,
        "sample of 16 bits that is white, such as 4095 of a 12-bit camera; 0: 65535",
        low=0,
        high=65535,
    )


@dataclass(frozen=True, slots=True)
class DecodeConfig:
    """How pixels become instances (Neven et al. 2019; published: 0.9, 0.5, 128, 0.5, false, false).

    All but the fourth are ours: best for the shipped weights on validation sequences.
    """

    seed_threshold: float = param(
        0.8, "least seed score that starts an instance", low=0.0, high=1.0, live=True
    )
    foreground_threshold: float = param(
        0.1, "a pixel takes part when its seed score is above this", low=0.0, high=1.0, live=True
    )
    min_pixels: int = param(
        64, "an instance has more pixels than this", low=0, high=1_000_000, live=True
    )
    min_new_fraction: float = param(
        0.5,
        "an instance is kept when more than this share of it was not taken before",
        low=0.0,
        high=1.0,
        live=True,
    )
    first_come: bool = param(
        True,
        "pixels that two instances of a class claim go to the surer one; false: to the other",
        live=True,
    )
    agreement: bool = param(
        True,
        "of spatial_embedding: an instance's score is its seed's times how well its pixels agree "
        "with the seed; false: its seed's alone",
        live=True,
    )


@dataclass(frozen=True, slots=True)
class TrackingConfig:
    """Ids that last from frame to frame.

    Best on sequences of the synthetic street's training split, 15 % of whose masks were left out.
    """

    enabled: bool = param(False, "objects keep their ids from frame to frame", live=True)
    keep_frames: int = param(
        5, "an object out of sight keeps its id for so many frames", low=0, high=1000, live=True
    )
    min_iou: float = param(
        0.0,
        "least IoU of an object's mask with its last one, 0: any overlap; where the method learns "
        "an embedding, that is compared instead",
        low=0.0,
        high=1.0,
        live=True,
    )


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """TensorRT engines: what they are built for."""

    best_batch: int = param(1, "images at once that an engine is tuned for", low=1, high=64)
    max_batch: int = param(4, "most images at once that an engine takes", low=1, high=64)
    workspace_mb: int = param(
        1024,
        "most GPU memory that TensorRT may use while it builds; more may find faster engines, but "
        "those already built stay: delete them to build anew",
        low=16,
        high=1_000_000,
    )


@dataclass(frozen=True, slots=True)
class RuntimeConfig:
    """What executes the network."""

    name: str = param(
        "auto",
        "what runs the network",
        choices=("auto", "torch", "openvino", "onnx", "tensorrt", "torch2trt"),
    )
    device: str = param("auto", "auto, cpu, cuda or cuda:N")
    precision: str = param(
        "auto",
        "auto: the fastest the device has; int8: what `instaseg quantize` made of the weights",
        choices=("auto", "fp32", "bf16", "fp16", "int8"),
    )
    threads: int = param(0, "CPU threads of the network; 0: all cores", low=0, high=1024)
    compiled: bool = param(
        False, "torch on CUDA: also try what AOTInductor compiles, minutes at the first start"
    )
    engine: EngineConfig = field(default_factory=EngineConfig)


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """The ROS node around the pipeline."""

    autostart: bool = param(
        False, "configure and activate at start, without waiting for a lifecycle manager"
    )
    image_transport: str = param(
        "raw",
        "raw: subscribe to `image`; compressed: to `image/compressed`",
        choices=("raw", "compressed"),
    )
    input_reliability: str = param(
        "auto",
        "reliability of the image subscription; auto: the publisher's",
        choices=("auto", "reliable", "best_effort"),
    )
    stale_after_s: float = param(
        2.0,
        "diagnostics call the camera stale after this many seconds, and labels that are so late",
        low=0.1,
        high=3600.0,
        live=True,
    )
    min_rate_hz: float = param(
        1.0,
        "diagnostics warn when fewer images per second are labelled though more come; 0: never",
        low=0.0,
        high=1000.0,
        live=True,
    )
    max_latency_s: float = param(
        1.0,
        "diagnostics warn when labels come longer after their image",
        low=0.001,
        high=3600.0,
        live=True,
    )
    overlay_alpha: float = param(
        0.5, "opacity of the instance colours in the overlay", low=0.0, high=1.0, live=True
    )


@dataclass(frozen=True, slots=True)
class MethodConfig:
    """The method and the shape of its heads; a checkpoint carries its own."""

    name: str = param("spatial_embedding", "method, one of instaseg_ros.methods.METHODS")
    n_sigma: int = param(2, "1: circular, 2: elliptical bandwidth", low=1, high=2)
    dimensions: int = param(
        0, "of the embedding, for methods that learn its space; 0: as in the paper", low=0, high=256
    )
    profile: str = param(
        "published",
        "the network: as published; fast: ours of half the work; lite: ours whose encoder has seen "
        "ImageNet, of less than half",
        choices=("published", "fast", "lite"),
    )


@dataclass(frozen=True, slots=True)
class Config:
    """The whole tree.

    suited_to: the weights whose thresholds and input size are in it already, by `load_config`; no
        parameter, and no part of what makes two of them equal.
    """

    weights: str = param(
        "street-synthetic", "a shipped name, a .safetensors file, or a published .pth checkpoint"
    )
    input: InputConfig = field(default_factory=InputConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    node: NodeConfig = field(default_factory=NodeConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    suited_to: str = field(default="", repr=False, compare=False)


def read(path: str | Path) -> dict[str, Any]:
    """The leaves that a file of parameters sets, by dotted name, checked. Raises ConfigError."""
    leaves: dict[str, Any] = {}
    try:
        for tree in trees_in(path):
            leaves |= assigned(Config, tree)
    except ConfigError as error:
        raise ConfigError(f"config file {path}: {error}") from error
    return leaves


def load(path: str | Path) -> Config:
    """A file of parameters laid over the defaults, whatever suits its weights: a training's.
    All else asks `checkpoint.load_config`."""
    return merge(Config(), read(path))
