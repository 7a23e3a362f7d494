"""`instaseg bench`: time every stage, beside the published implementation on the same machine."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from instaseg_ros.cli import add_config_options, config_from, size_from
from instaseg_ros.cli.parser import completes, weights_names
from instaseg_ros.config import Config, merge, parameters
from instaseg_ros.errors import ConfigError, require
from instaseg_ros.files import OutputFile
from instaseg_ros.samples import SYNTHETIC

EXAMPLES = """
instaseg bench --size 512x1024
instaseg bench --runtimes 50 --size 512x1024
instaseg bench --methods street-synthetic street-synthetic-fast --frames 50
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    choices = {p.name: p.choices for p in parameters(Config())}
    parser.add_argument(
        "--size", metavar="HxW", default="1024x2048", help="height x width of the image"
    )
    parser.add_argument("--objects", type=int, default=30, help="objects in the image")
    parser.add_argument(
        "--classes", type=int, default=0, help="number of classes among the objects; 0: all"
    )
    parser.add_argument("--runtime", choices=choices["runtime.name"], help="where the network runs")
    parser.add_argument(
        "--precision", choices=choices["runtime.precision"], help="in which numbers"
    )
    parser.add_argument("--rounds", type=int, default=10, help="measurements of each stage")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the numbers to this file"
    )
    parser.add_argument(
        "--sweep",
        type=Path,
        metavar="PNG",
        help="plot the times over objects, foreground and image size",
    )
    parser.add_argument(
        "--runtimes",
        type=int,
        metavar="FRAMES",
        help="compare every runtime and precision available here on this many synthetic frames",
    )
    compared = parser.add_argument(
        "--methods",
        nargs="+",
        metavar="WEIGHTS",
        help="compare weights of any methods on the same held-out frames",
    )
    completes(compared, weights_names)
    parser.add_argument(
        "--data", default=SYNTHETIC, help="for --methods: `synthetic`, or the path of a dataset"
    )
    parser.add_argument("--frames", type=int, default=200, help="for --methods: most frames to use")
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    size, config = size_from(args.size), _config(args)
    at_least_1 = {name: getattr(args, name) for name in ("objects", "rounds", "runtimes", "frames")}
    for name, value in at_least_1.items():
        if value is not None and value < 1:
            raise ConfigError(f"--{name}: expected at least 1, got {value}")
    if args.classes < 0:
        raise ConfigError(f"--classes: expected at least 0, got {args.classes}")
    if args.methods and args.data != SYNTHETIC:
        from instaseg_ros.datasets import open_dataset

        open_dataset(args.data, "val")
    output = OutputFile(args.json, overwrite=True) if args.json else None
    if args.sweep:
        require("matplotlib", "plots", "--sweep")
        OutputFile(args.sweep, overwrite=True)

    from instaseg_ros.benchmarks.frame import bench, machine, table
    from instaseg_ros.contract import written

    about = {**written("bench"), "size": args.size, **machine(config.runtime.threads)}
    if args.methods:
        rows = _methods(args, size)
        numbers = {**about, "data": args.data, "frames": args.frames, "methods": rows}
    elif args.runtimes:
        numbers = {**about, "frames": args.runtimes}
        numbers["runtimes"] = _runtimes(config, size, args.runtimes)
    else:
        numbers = bench(config, size, args.objects, args.rounds, args.classes)
        numbers |= written("bench")
        print(table(numbers))
        if args.sweep:
            from instaseg_ros.benchmarks.sweep import draw, sweep

            numbers["sweep"] = sweep(config, size, args.objects, max(3, args.rounds // 2))
            draw(numbers, args.sweep)
    if output:
        output.part.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
        output.commit()
    return 0


def _methods(args: argparse.Namespace, size: tuple[int, int]) -> dict[str, object]:
    from instaseg_ros.benchmarks.methods import compare, table

    each = {w: _config(argparse.Namespace(**{**vars(args), "weights": w})) for w in args.methods}
    rows = compare(each, args.data, size, args.frames)
    print(table(rows))
    return {name: row._asdict() for name, row in rows.items()}


def _config(args: argparse.Namespace) -> Config:
    overrides = {"runtime.name": args.runtime, "runtime.precision": args.precision}
    return merge(config_from(args), {name: word for name, word in overrides.items() if word})


def _runtimes(config: Config, size: tuple[int, int], frames: int) -> dict[str, object]:
    from instaseg_ros.checkpoint import load_checkpoint
    from instaseg_ros.evaluation.by_runtime import available, compare, table

    checkpoint = load_checkpoint(config.weights)
    runtimes, refused = available(config, checkpoint)
    rows = compare(runtimes, checkpoint, config.decode, size, frames)
    print(table(rows))
    for name, why in refused.items():
        print(f"{name}: {why}")
    return {name: row._asdict() for name, row in rows.items()}
