"""`instaseg demo`: watch the real node label a street, over real ROS 2."""

from __future__ import annotations

import argparse
from importlib.resources import files
from pathlib import Path

from instaseg_ros.errors import ConfigError

EXAMPLES = """
instaseg demo                                   # demo/overlay.mp4, demo/labelled.mcap
instaseg demo -o /tmp/demo -p decode.min_score:=0.6
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("demo"), help="folder for the results"
    )
    parser.add_argument("--bag", type=Path, help="a recording with ground truth (default: shipped)")
    parser.add_argument("--rate", type=float, default=4.0, help="images per second")
    parser.add_argument(
        "-p",
        "--parameter",
        action="append",
        default=[],
        metavar="NAME:=VALUE",
        help="a parameter of the node, as on the ros2 command line",
    )


def run(args: argparse.Namespace) -> int:
    if not args.rate > 0:
        raise ConfigError(f"--rate: expected a positive number, got {args.rate}")
    try:
        from instaseg_ros.ros.demo import accounted, run_demo
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the demo needs ROS 2 ({error}): source a ROS workspace, or run `make demo`"
        ) from error
    bag = args.bag or Path(str(files("instaseg_ros") / "demo_data" / "street.mcap"))
    summary = run_demo(bag, args.output, args.rate, args.parameter)
    for name, value in summary.items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        print(f"  {name:<18} {text}")
    print(
        f"  {'written':<18} labelled.mcap, overlay.mp4, overlay.png, summary.json in {args.output}"
    )
    return 0 if accounted(summary) and summary["node_exit_code"] == 0 else 1
