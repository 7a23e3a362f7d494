"""Declares ROS parameters from the dataclasses, reads them, and checks them when they are set."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

from instaseg_ros.config import Config, Parameter, configs_with, leaves_of, merge, plain
from instaseg_ros.config.file import OF_ROS
from instaseg_ros.configure import load_config, suited
from instaseg_ros.errors import ConfigError, WeightsError
from instaseg_ros.ros.parameter_file import constraint, node_parameters

UNBOUNDED = {int: 2**63 - 1, float: float("inf")}
LIVE = "live: may be set while the node runs"
FIXED = "may be set while the node is unconfigured"


def declare(node: Node) -> Config:
    """Declare every parameter of the node and return the values given at start, checked.

    `node` was made with `automatically_declare_parameters_from_overrides`. Raises ConfigError for
    a bad value; warns of unknown names, which rclpy would silently ignore.
    """
    overrides: dict[str, Any] = node.get_parameters_by_prefix("")
    given = {name: parameter.value for name, parameter in overrides.items()}
    weights = {name: value for name, value in given.items() if name == "weights"}
    try:
        usual, load = load_config(overrides=weights), load_config
    except WeightsError:  # configure will refuse them, with the reason
        usual, load = Config(), partial(merge, Config())
    known = {leaf.name for leaf in node_parameters(usual)}
    config = load(overrides={name: value for name, value in given.items() if name in known})
    for name, value in given.items():
        if name in known:
            node.undeclare_parameter(name)
        elif not name.startswith(OF_ROS):
            _ignore(node, name, value, usual)
    redeclare(node, config)
    return config


def changed(config: Config, changes: Iterable[RosParameter], configured: bool) -> Config:
    """`config` with the changes that concern our parameters.

    Raises ConfigError for a bad value, or for one that cannot change while the node is configured.
    """
    leaves = {leaf.name: leaf for leaf in node_parameters(config)}
    ours: Mapping[str, Any] = {p.name: p.value for p in changes if p.name in leaves}
    for name, value in ours.items():
        if configured and not leaves[name].live and value != plain(leaves[name].value):
            raise ConfigError(
                f"{name}: expected to stay {leaves[name].value!r} while the node is configured, "
                f"got {value!r}; bring the node to 'unconfigured' first (deactivate, cleanup)"
            )
    config = merge(config, ours)
    try:
        return suited(config)  # other weights bring other thresholds
    except WeightsError:
        return config  # configure will refuse them, with the reason


def redeclare(node: Node, config: Config) -> None:
    """Declare the parameters of `config` that the node does not have yet, and undeclare the options
    of its previous method."""
    leaves = {leaf.name: leaf for leaf in node_parameters(config)}
    for name in node.get_parameters_by_prefix("decode"):
        if f"decode.{name}" not in leaves:
            node.undeclare_parameter(f"decode.{name}")
    for leaf in leaves.values():
        if not node.has_parameter(leaf.name):
            value = plain(leaf.value)
            node.declare_parameter(leaf.name, value, _descriptor(leaf), ignore_override=True)


def stale(node: Node, config: Config) -> list[RosParameter]:
    """New values for the node's parameters that differ from `config`."""
    return [
        RosParameter(leaf.name, value=plain(leaf.value))
        for leaf in node_parameters(config)
        if node.get_parameter(leaf.name).value != plain(leaf.value)
    ]


def _descriptor(leaf: Parameter) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(
        description=f"{leaf.help} ({LIVE if leaf.live else FIXED})",
        additional_constraints=constraint(leaf),
        # `merge` checks types: it accepts 1 for 1.0, and its message names the parameter.
        dynamic_typing=True,
    )
    if leaf.low is None and leaf.high is None:
        return descriptor
    low = -UNBOUNDED[leaf.kind] if leaf.low is None else leaf.kind(leaf.low)
    high = UNBOUNDED[leaf.kind] if leaf.high is None else leaf.kind(leaf.high)
    if leaf.kind is int:
        descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
    else:
        descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    return descriptor


def _ignore(node: Node, name: str, value: Any, config: Config) -> None:
    """Warn that a parameter has no effect, except another method's option at its default: files may
    be for several methods."""
    usual = {other.method.name: plain(leaves_of(other)[name]) for other in configs_with(name)}
    if config.method.name not in usual and value in usual.values():
        return
    said = "is unknown and has no effect"
    if usual and config.method.name not in usual:
        said = f"belongs to method {', '.join(usual)}; it has no effect on {config.method.name}"
    elif near := difflib.get_close_matches(name, [p.name for p in node_parameters(config)], n=1):
        said += f"; did you mean '{near[0]}'?"
    node.get_logger().warning(f"parameter '{name}' {said}")
