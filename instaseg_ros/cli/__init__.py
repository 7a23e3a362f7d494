"""The `instaseg` command: one module per verb, imported only when it is called.

A verb's module has `add_arguments(parser)` and `run(args) -> exit code`. Exit codes: 0 done;
1 an input or output that broke on the way; 2 an option, input or weights that cannot be used;
130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from instaseg_ros.errors import (
    ConfigError,
    InputError,
    InstasegError,
    MissingExtraError,
    TruncatedInputError,
    WeightsError,
)

if TYPE_CHECKING:
    from instaseg_ros.config import Config

VERBS = {  # verb: module, what it does
    "demo": ("instaseg_ros.cli.demo", "watch the ROS node label a synthetic street"),
    "replay": ("instaseg_ros.cli.replay", "label a recording, a video or a folder of images"),
    "evaluate": (
        "instaseg_ros.cli.evaluate",
        "metrics of weights on a dataset, and where they are lost",
    ),
    "bench": ("instaseg_ros.cli.bench", "milliseconds of every stage, beside the published way"),
    "export": ("instaseg_ros.cli.export", "write the network as ONNX, OpenVINO IR or an engine"),
    "doctor": ("instaseg_ros.cli.doctor", "try every runtime of this machine against torch"),
    "quantize": (
        "instaseg_ros.cli.quantize",
        "an int8 model of weights, measured before it is kept",
    ),
    "info": ("instaseg_ros.cli.info", "what a data set holds, and which of its files are broken"),
    "train": ("instaseg_ros.cli.train", "train weights, or go on with a run that was stopped"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code. Messages go to stderr."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = _parser(arguments).parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        return int(import_module(VERBS[args.verb][0]).run(args))
    except KeyboardInterrupt:
        return 130
    except (InstasegError, OSError) as error:
        print(f"instaseg {args.verb}: {error}", file=sys.stderr)
        unusable = isinstance(error, (ConfigError, InputError, MissingExtraError, WeightsError))
        return 2 if unusable and not isinstance(error, TruncatedInputError) else 1


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """The options of every verb that has a Config; `config_from` reads them."""
    group = parser.add_argument_group("configuration")
    group.add_argument("--config", metavar="FILE", help="YAML file of parameters")
    group.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a parameter, such as decode.min_pixels=64; may be repeated",
    )
    group.add_argument("--weights", help="a shipped name, a .safetensors or a published .pth file")


def size_from(option: str, multiple: int = 1) -> tuple[int, int]:
    """(height, width) in pixels of an option like 512x1024. Raises ConfigError for another form,
    or where a side is not a multiple of `multiple`."""
    height, cross, width = option.partition("x")
    if not (cross and height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise ConfigError(f"--size: expected HEIGHTxWIDTH in pixels, got {option}")
    size = int(height), int(width)
    if any(side % multiple for side in size):
        raise ConfigError(f"--size: expected multiples of {multiple}, got {option}")
    return size


def config_from(args: argparse.Namespace) -> Config:
    """The Config of `add_config_options`: defaults, the thresholds of the weights, then --config,
    --set, --weights."""
    from instaseg_ros.checkpoint import config_with_weights
    from instaseg_ros.config import load, merge, parse_assignments

    overrides = parse_assignments(args.set)
    if args.weights:
        overrides["weights"] = args.weights

    def build(base: Config) -> Config:
        return merge(load(args.config, base) if args.config else base, overrides)

    return config_with_weights(build)


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """A parser that knows every verb, and the options of the one that is called."""
    parser = argparse.ArgumentParser(
        prog="instaseg", description="Real-time instance segmentation for ROS 2."
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    called = next((word for word in arguments if not word.startswith("-")), None)
    for verb, (module, purpose) in VERBS.items():
        subparser = verbs.add_parser(verb, help=purpose, description=purpose.capitalize() + ".")
        if verb == called:
            import_module(module).add_arguments(subparser)
    return parser
