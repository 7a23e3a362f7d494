"""Defines every parameter of the package. Defaults stand only here, in `sections` and, for methods
and training, in `options`.

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
    plain,
    replaced,
)
from instaseg_ros.config.options.shared import MethodConfig
from instaseg_ros.config.options.training import AugmentConfig, TrainConfig
from instaseg_ros.config.sections import (
    MOST_CAMERAS,
    DepthConfig,
    EngineConfig,
    InputConfig,
    NodeConfig,
    RuntimeConfig,
    TrackingConfig,
    check_cameras,
)
from instaseg_ros.contract import INTERFACE, check_interface
from instaseg_ros.errors import ConfigError

__all__ = [
    "MOST_CAMERAS",
    "AugmentConfig",
    "Config",
    "DepthConfig",
    "EngineConfig",
    "InputConfig",
    "NodeConfig",
    "Parameter",
    "RuntimeConfig",
    "TrackingConfig",
    "TrainConfig",
    "assigned",
    "dump",
    "load",
    "merge",
    "parameters",
    "parse_assignments",
    "plain",
    "read",
]

DEFAULT = options_of(MethodConfig().name)


@dataclass(frozen=True, slots=True)
class Config:
    """The whole tree.

    decode, method, train: `DecodeConfig`, `ShapeConfig` and `LossConfig` of the method
        `method.name` (see `options`).
    suited_to: the weights whose thresholds and input size `load_config` has filled in; not a
        parameter, and ignored when configs are compared.
    """

    interface: int = param(
        INTERFACE, "version of topics and parameters for which these are written"
    )
    weights: str = param(
        "street-synthetic-lite",
        "a shipped name, a .safetensors file, or a published .pth checkpoint",
    )
    cameras: tuple[str, ...] = param(
        ("",),
        "names of the node's cameras, such as [front, left], for NAME/image and ~/NAME/labels; "
        "['']: one camera without a name, for `image` and `~/labels`",
        check=check_cameras,
    )
    input: InputConfig = field(default_factory=InputConfig)
    depth: DepthConfig = field(default_factory=DepthConfig)
    decode: Any = field(default_factory=DEFAULT.DecodeConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    node: NodeConfig = field(default_factory=NodeConfig)
    method: MethodConfig = field(default_factory=DEFAULT.ShapeConfig)
    train: TrainConfig = field(default_factory=DEFAULT.LossConfig)
    suited_to: str = field(default="", repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raises ConfigError for parameters that are written for another interface."""
        check_interface(self.interface)

    def for_method(self, name: str) -> Config:
        """The same config for another method: options that both have keep their values, the rest
        take the method's defaults. Raises ConfigError for an unknown method."""
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
    """A copy of `config` with nested or dotted overrides, checked by `assigned`; they may select
    another method and set its options."""
    leaves = by_name(overrides)
    config = config.for_method(method_in(leaves, config.method.name))
    return replaced(config, own_leaves(config, leaves))


def load(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """The config for a training: the method's defaults, over them the file, over it the overrides.
    Ignores what suits the weights; for all else use `configure.load_config`."""
    given = by_name(overrides or {})
    with naming(path):
        in_file = read(path)
        config = Config().for_method(method_in({**in_file, **given}, MethodConfig().name))
        config = replaced(config, own_leaves(config, in_file, ignore_others=True))
    return merge(config, given)


def read(path: str | Path) -> dict[str, Any]:
    """The values that a parameter file sets, by dotted name; unchecked: it may be for any method.

    Raises ConfigError, without the file's name, when it cannot be read."""
    leaves: dict[str, Any] = {}
    for tree in trees_in(path):
        leaves |= by_name(tree)
    return leaves


@contextmanager
def naming(path: str | Path | None) -> Iterator[None]:
    """Put the file's name in front of errors."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"config file {path}: {error}") from error


def by_name(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`{"decode": {"min_pixels": 64}}` as `{"decode.min_pixels": 64}`; unchecked."""
    named: dict[str, Any] = {}
    for key, value in overrides.items():
        if isinstance(value, Mapping) and is_dataclass(getattr(Config(), str(key), None)):
            named |= {f"{key}.{inner}": one for inner, one in value.items()}
        else:
            named[str(key)] = value
    return named


def method_in(leaves: Mapping[str, Any], default: str) -> str:
    """The method that these leaves (by dotted name) ask for."""
    asked = {"method.name": leaves.get("method.name", default)}
    return str(assigned(Config(), asked)["method.name"])


def configs_with(name: str) -> list[Config]:
    """The default configs of all methods that have this parameter."""
    configs = [Config().for_method(method) for method in METHODS]
    return [config for config in configs if name in leaves_of(config)]


def own_leaves(
    config: Config, overrides: Mapping[str, Any], ignore_others: bool = False
) -> dict[str, Any]:
    """The leaves of `config` that the overrides (by dotted name) set, checked.

    Raises ConfigError for an option that only other methods have. `ignore_others`: leave out such
    an option if it has its default there, as a file may serve several methods.
    """
    own: dict[str, Any] = {}
    for name, value in overrides.items():
        try:
            own |= assigned(config, {name: value})
        except UnknownParameterError as error:
            others = configs_with(name)
            if not others:
                raise
            if not ignore_others or plain(value) not in [
                plain(leaves_of(other)[name]) for other in others
            ]:
                owners = ", ".join(other.method.name for other in others)
                raise ConfigError(
                    f"{name} is an option of {owners}, not of {config.method.name}: {error}"
                ) from error
    return own
