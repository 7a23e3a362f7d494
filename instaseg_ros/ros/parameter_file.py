"""Writes `config/instaseg.yaml`, the node's parameters and defaults, from the dataclasses.

    python -m instaseg_ros.ros.parameter_file > config/instaseg.yaml

Needs no ROS.
"""

from __future__ import annotations

import yaml

from instaseg_ros.checkpoint import INPUT_SIZE
from instaseg_ros.config import Config, Parameter, parameters, plain

NOT_FOR_THE_NODE = ("method.", "train.")  # checkpoints have their own; training is offline
HEADER = """\
# Parameters of instaseg_node with their defaults; keep the lines you change.
# Generated: python -m instaseg_ros.ros.parameter_file > config/instaseg.yaml
# "live": may be set while the node runs; the others only while it is unconfigured.
# "#name: value": weights may bring their own. Remove the # (also its group's) to set yours.
# "decode" has the options of method spatial_embedding; other methods have their own.
"""


def node_parameters(config: Config | None = None) -> list[Parameter]:
    """The leaves of `config` (by default all defaults) that are ROS parameters of the node."""
    leaves = parameters(config if config is not None else Config())
    return [leaf for leaf in leaves if not leaf.name.startswith(NOT_FOR_THE_NODE)]


def constraint(parameter: Parameter) -> str:
    """The constraint on a value, for people: "0.0 to 1.0", "raw or compressed", or ""."""
    if parameter.choices:
        return " or ".join(parameter.choices)
    if parameter.low is None and parameter.high is None:
        return ""
    low = "any" if parameter.low is None else parameter.low
    return f"{low} to {'any' if parameter.high is None else parameter.high}"


def parameter_file() -> str:
    """The text of `config/instaseg.yaml`, in field order."""
    lines = [HEADER + "/**:", "  ros__parameters:"]
    leaves = node_parameters()
    kept = {_group(leaf) for leaf in leaves if not _of_weights(leaf)}
    group = ""
    for parameter in leaves:
        name = parameter.name.rpartition(".")[2]
        indent = "    " + "  " * bool(_group(parameter))
        if (parent := _group(parameter)) != group:
            group = parent
            lines.append(f"    {'' if group in kept else '#'}{group}:")
        facts = [fact for fact in (constraint(parameter), "live" * parameter.live) if fact]
        lines.append(f"{indent}# {parameter.help}" + (f" ({', '.join(facts)})" if facts else ""))
        value = yaml.safe_dump(plain(parameter.value), default_flow_style=True).partition("\n")[0]
        lines.append(f"{indent}{'#' if _of_weights(parameter) else ''}{name}: {value}")
    return "\n".join(lines) + "\n"


def _group(parameter: Parameter) -> str:
    return parameter.name.rpartition(".")[0]


def _of_weights(parameter: Parameter) -> bool:
    """Whether weights may bring a value, which one in the file would override as the user's own."""
    return parameter.name.startswith("decode.") or parameter.name in INPUT_SIZE


if __name__ == "__main__":
    print(parameter_file(), end="")
