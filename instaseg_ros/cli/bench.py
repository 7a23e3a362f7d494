"""`instaseg bench`: milliseconds of every stage, beside the published way on the same machine."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from instaseg_ros.cli import add_config_options, config_from
from instaseg_ros.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", default="1024x2048", help="height x width of the image")
    parser.add_argument("--objects", type=int, default=30, help="objects in the image")
    parser.add_argument("--rounds", type=int, default=10, help="measurements of each stage")
    parser.add_argument("--json", type=Path, help="write the numbers to this file too")
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    from instaseg_ros.bench import bench, table

    height, cross, width = args.size.partition("x")
    if not (cross and height.isdecimal() and width.isdecimal()):
        raise ConfigError(f"--size: expected HEIGHTxWIDTH, got {args.size}")
    if min(args.objects, args.rounds) < 1:
        raise ConfigError(
            f"--objects and --rounds: expected at least 1, got {args.objects}, {args.rounds}"
        )
    numbers = bench(config_from(args), (int(height), int(width)), args.objects, args.rounds)
    print(table(numbers))
    if args.json:
        args.json.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    return 0
