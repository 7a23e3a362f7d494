"""Every parameter of the package: the only place where a default stands.

`Config` is a tree of frozen dataclasses. Each field carries its description and range, from which
the ROS parameters, `config/instaseg.yaml` and the command line's `--set` are derived.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from instaseg_ros.config_tree import Parameter, dump, merge, param, parameters, parse_assignments
from instaseg_ros.errors import ConfigError

__all__ = ["Config", "Parameter", "dump", "load", "merge", "parameters", "parse_assignments"]


@dataclass(frozen=True, slots=True)
class InputConfig:
    """What the network sees of the camera image: as it is where nothing is set."""

    height: int = param(0, "network input height in pixels; 0: keeps the shape", low=0, high=8192)
    width: int = param(0, "network input width in pixels; 0: keeps the shape", low=0, high=8192)
    scale: float = param(1.0, "magnification, where neither is set", low=0.1, high=8.0)
    mirror: bool = param(False, "mean of the image and its mirror image, in twice the time")


@dataclass(frozen=True, slots=True)
class DecodeConfig:
    """How pixels become instances (Neven et al. 2019; published values: 0.9, 0.5, 128, 0.5, false).

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
        2.0, "diagnostics call the camera stale after this many seconds", low=0.1, high=3600.0
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
        "the network: as published, or ours of half the work",
        choices=("published", "fast"),
    )


@dataclass(frozen=True, slots=True)
class AugmentConfig:
    """Random views of recorded images; the synthetic street varies by itself."""

    scale_low: float = param(0.7, "least magnification", low=0.05, high=20.0)
    scale_high: float = param(1.6, "largest magnification", low=0.05, high=20.0)
    shift: float = param(
        0.35,
        "how far from the middle of a view its object may lie, as a share of the view; 0: centred",
        low=0.0,
        high=0.5,
    )
    flip: float = param(0.5, "share of views that are mirrored", low=0.0, high=1.0)
    turn: bool = param(False, "also quarter turns: for images without an up and down")
    color: float = param(
        0.3, "strength of changes of exposure, contrast and colour", low=0.0, high=1.0
    )
    blur: float = param(0.1, "share of views that are blurred", low=0.0, high=1.0)
    noise: float = param(0.1, "share of views with added noise", low=0.0, high=1.0)


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Training; overridden by `config/train/*.yaml`."""

    dataset: str = param("synthetic", "synthetic, or the path of a dataset; --data sets it")
    class_name: str = param(
        "", "what the weights call the objects of a dataset of one class; empty: as it does"
    )
    new_heads: bool = param(
        False, "of weights to start from take no head, for images of another kind and scale"
    )
    class_balance: float = param(
        0.5, "0: objects as often as they occur; 1: every class as often", low=0.0, high=1.0
    )
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    steps: int = param(20_000, "optimiser steps in all", low=1)
    batch_size: int = param(4, "images or clips per step, of all processes", low=1, high=1024)
    clip_frames: int = param(1, "frames of a clip, for methods with a memory", low=1, high=64)
    crop_height: int = param(256, "training crop height, a multiple of 8", low=64, high=4096)
    crop_width: int = param(512, "training crop width, a multiple of 8", low=64, high=4096)
    horizon_rows: int = param(
        0,
        "so many rows of a crop, around the horizon, where small objects are; 0: the whole crop",
        low=0,
        high=4096,
    )
    learning_rate: float = param(5e-4, "Adam's peak step size", low=0.0, high=1.0)
    weight_decay: float = param(1e-4, "Adam's weight decay", low=0.0, high=1.0)
    warmup_steps: int = param(200, "steps of linear warm-up", low=0)
    schedule: str = param(
        "cosine",
        "how the step size falls to 0; poly: (1 - share of the steps done) ** 0.9, as published",
        choices=("cosine", "poly"),
    )
    clip_norm: float = param(1.0, "gradients are scaled down to this norm; 0: never", low=0.0)
    ema_decay: float = param(
        0.999, "decay of the averaged weights; 0: no averaging", low=0.0, high=1.0
    )
    weight_instance: float = param(1.0, "weight of the instance (Lovasz) term", low=0.0)
    weight_smooth: float = param(10.0, "weight of the bandwidth smoothness term", low=0.0)
    weight_seed: float = param(1.0, "weight of the seed term", low=0.0)
    weight_semantic: float = param(1.0, "weight of pixels' classes, in a semantic head", low=0.0)
    weight_dense: float = param(
        0.0, "weight of a dataset's dense classes, learned along; 0: they are left out", low=0.0
    )
    weight_depth: float = param(1.0, "weight of the depth task, if any; 0: none", low=0.0)
    ego_motion: str = param(
        "learned", "the camera's, for depth; known: the dataset's", choices=("learned", "known")
    )
    foreground_weight: float = param(10.0, "weight of object pixels in the seed term", low=0.0)
    class_weights: Mapping | str = param(
        "equal",
        "times foreground_weight, by class name, such as {rider: 2}, the rest 1; log_frequency: "
        "1 / ln(1.1 + share of the objects), on average 1; equal: all 1",
    )
    other_class_weight: float = param(
        1.0, "weight of object pixels in the seed maps of the other classes", low=0.0
    )
    small_object_px: float = param(
        0.0, "in the seed term an object counts like one of at least this many pixels", low=0.0
    )
    min_object_px: int = param(0, "objects with fewer pixels are ignored", low=0)
    bootstrap_px: int = param(
        0,
        "losses of pixels leave out those that are right, but keep this many of an image, the "
        "hardest; 0: keep all; Wu et al. 2016: 512",
        low=0,
    )
    dropout: float = param(
        1.0,
        "times the published dropout; 0 where no frame is ever seen twice",
        low=0.0,
        high=1.0,
    )
    fixed_batchnorm: bool = param(
        False, "normalise with the statistics that the weights came with (the paper's second stage)"
    )
    learned_center: bool = param(False, "true: mean embedding of an instance, not its centroid")
    seed: int = param(0, "random seed of weights and data", low=0)
    workers: int = param(1, "data loading processes", low=0, high=256)
    tensorboard: bool = param(False, "also write TensorBoard's files; needs the extra `train`")
    log_every: int = param(20, "steps between rows of log.csv", low=1)
    save_every: int = param(200, "steps between saved states", low=1)
    validate_every: int = param(1000, "steps between validations", low=1)
    validation_frames: int = param(60, "frames per validation", low=1)


@dataclass(frozen=True, slots=True)
class Config:
    """The whole tree."""

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


def load(path: str | Path, base: Config | None = None) -> Config:
    """A Config from a YAML file of overrides (plain, or a ROS parameter file with `/**`)."""
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise ConfigError(f"config file {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"config file {path} is not YAML: {error}") from error
    if not isinstance(tree, Mapping):
        raise ConfigError(f"config file {path}: expected a mapping of parameters, got {tree!r}")
    if "/**" in tree:
        tree = tree["/**"].get("ros__parameters", {})
    try:
        return merge(base if base is not None else Config(), tree)
    except ConfigError as error:
        raise ConfigError(f"config file {path}: {error}") from error
