"""Every parameter of the package: here, and for methods and training in `options`, are the only
places where a default stands.

`Config` is a tree of frozen dataclasses. Each field carries its description and range, from which
the ROS parameters, `config/instaseg.yaml` and the command line's `--set` are derived.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any

from instaseg_ros.config.file import parse_assignments, trees_in
from instaseg_ros.config.options import METHODS, options_of
from instaseg_ros.config.options.schema import (
    Parameter,
    UnknownParameterError,
    assigned,
    dump,
    param,
    parameters,
    replaced,
)
from instaseg_ros.config.options.shared import MethodConfig
from instaseg_ros.config.options.training import AugmentConfig, TrainConfig
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

DEFAULT = options_of(MethodConfig().name)


@dataclass(frozen=True, slots=True)
class InputConfig:
    """What the network sees of the camera image: as it is where nothing is set, by the user or
    the weights."""

    height: int = param(0, "network input height in pixels; 0: keeps the shape", low=0, high=8192)
    width: int = param(0, "network input width in pixels; 0: keeps the shape", low=0, high=8192)
    scale: float = param(1.0, "magnification, where neither is set", low=0.1, high=8.0)
    min_height: int = param(
        0,
        "where height and width are 0, an image of fewer rows is magnified to so many; 0: none is",
        low=0,
        high=8192,
    )
    max_height: int = param(
        0, "likewise, an image of more rows is shrunk to so many; 0: none is", low=0, high=8192
    )
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
class Config:
    """The whole tree.

    decode, method, train: of one method, `method.name`: its `DecodeConfig`, `ShapeConfig` and
        `LossConfig` (see `options`).
    suited_to: the weights whose thresholds and input size are in it already, by `load_config`; no
        parameter, and no part of what makes two of them equal.
    """

    weights: str = param(
        "street-synthetic", "a shipped name, a .safetensors file, or a published .pth checkpoint"
    )
    input: InputConfig = field(default_factory=InputConfig)
    decode: Any = field(default_factory=DEFAULT.DecodeConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    node: NodeConfig = field(default_factory=NodeConfig)
    method: MethodConfig = field(default_factory=DEFAULT.ShapeConfig)
    train: TrainConfig = field(default_factory=DEFAULT.LossConfig)
    suited_to: str = field(default="", repr=False, compare=False)

    def for_method(self, name: str) -> Config:
        """The same for another method: what both can be told stays as it was set, the rest has the
        method's defaults. Raises ConfigError for an unknown method."""
        if name == self.method.name:
            return self
        options = options_of(name)
        other = replace(
            self,
            decode=options.DecodeConfig(),
            method=options.ShapeConfig(name=name),
            train=options.LossConfig(),
        )
        usual = leaves_of(Config().for_method(self.method.name))
        known = leaves_of(other).keys() - {"method.name"}
        kept = {n: v for n, v in leaves_of(self).items() if n in known and v != usual[n]}
        return replaced(other, kept)


def leaves_of(config: Config) -> dict[str, Any]:
    """All values by dotted name."""
    return {leaf.name: leaf.value for leaf in parameters(config)}


def merge(config: Config, overrides: Mapping[str, Any]) -> Config:
    """A copy of `config` with nested or dotted overrides, checked as `assigned` does; they may name
    another method, and options of that one."""
    leaves = by_name(overrides)
    config = config.for_method(method_in(leaves, config.method.name))
    return replaced(config, own_leaves(config, leaves))


def load(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """A file of parameters, and overrides over it, laid over the defaults of their method, whatever
    suits its weights: a training's. All else asks `configure.load_config`."""
    given = by_name(overrides or {})
    with naming(path):
        in_file = read(path)
        config = Config().for_method(method_in({**in_file, **given}, MethodConfig().name))
        config = replaced(config, own_leaves(config, in_file, ignore_others=True))
    return merge(config, given)


def read(path: str | Path) -> dict[str, Any]:
    """What a file of parameters sets, by dotted name; unchecked, as it may be for any method.
    Raises ConfigError, without the file's name, where it cannot be read."""
    leaves: dict[str, Any] = {}
    for tree in trees_in(path):
        leaves |= by_name(tree)
    return leaves


@contextmanager
def naming(path: str | Path | None) -> Iterator[None]:
    """Errors say which file they are about."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"config file {path}: {error}") from error


def by_name(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides, unchecked, `{"decode": {"min_pixels": 64}}` as `{"decode.min_pixels": 64}`."""
    named: dict[str, Any] = {}
    for key, value in overrides.items():
        if isinstance(value, Mapping) and is_dataclass(getattr(Config(), str(key), None)):
            named |= {f"{key}.{inner}": one for inner, one in value.items()}
        else:
            named[str(key)] = value
    return named


def method_in(leaves: Mapping[str, Any], default: str) -> str:
    """The method that leaves by dotted name ask for."""
    asked = {"method.name": leaves.get("method.name", default)}
    return str(assigned(Config(), asked)["method.name"])


def configs_with(name: str) -> list[Config]:
    """The defaults of each method of whose parameters this is one."""
    configs = [Config().for_method(method) for method in METHODS]
    return [config for config in configs if name in leaves_of(config)]


def own_leaves(
    config: Config, overrides: Mapping[str, Any], ignore_others: bool = False
) -> dict[str, Any]:
    """The leaves of `config` that overrides by dotted name set, checked.

    Raises ConfigError for an option that only other methods have. `ignore_others`: one at its
    default there is left out instead, as what stands in a file may be for several methods.
    """
    own: dict[str, Any] = {}
    for name, value in overrides.items():
        try:
            own |= assigned(config, {name: value})
        except UnknownParameterError as error:
            others = configs_with(name)
            if not others:
                raise
            if not ignore_others or value not in [leaves_of(other)[name] for other in others]:
                owners = ", ".join(other.method.name for other in others)
                raise ConfigError(
                    f"{name} is an option of {owners}, not of {config.method.name}: {error}"
                ) from error
    return own
