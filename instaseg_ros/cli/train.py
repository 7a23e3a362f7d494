"""`instaseg train CONFIG`: train, or resume a stopped run.

In several processes: `torchrun --nproc-per-node N -m instaseg_ros.cli train CONFIG`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from instaseg_ros.checkpoint import describe
from instaseg_ros.cli.parser import completes, weights_names
from instaseg_ros.config import load, merge, parse_assignments, read
from instaseg_ros.config.recipes import recipe

EXAMPLES = """
instaseg train config/train/synthetic.yaml
instaseg train finetune --data drive.json --from street-synthetic-lite
instaseg train config/train/street.yaml --data cityscapes/ --set train.steps=5000
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config",
        metavar="CONFIG",
        type=Path,
        help="YAML of overrides, or the name of a shipped one, such as finetune",
    )
    parser.add_argument(
        "-o", "--output", type=Path, help="run directory (default: runs/NAME of the config)"
    )
    parser.add_argument("--data", help="dataset to train on, instead of the config's")
    weights = parser.add_argument(
        "--from",
        dest="init",
        metavar="WEIGHTS",
        help="weights to start from, whose profile is taken unless one is given",
    )
    completes(weights, weights_names)
    parser.add_argument(
        "--check", action="store_true", help="read every file of the dataset, without training"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="override a parameter"
    )


def run(args: argparse.Namespace) -> int:
    if args.config.name == str(args.config) and not (args.config.suffix or args.config.is_file()):
        args.config = recipe(args.config.name)
    overrides = parse_assignments(args.set)
    if args.data:
        overrides["train.dataset"] = args.data
    config = load(args.config, overrides)
    if args.init and "method.profile" not in read(args.config) | overrides:
        config = merge(config, {"method.profile": describe(args.init).profile})
    if args.check:
        from instaseg_ros.cli.info import check

        return max([check(config.train.dataset, split) for split in ("train", "val")])
    from instaseg_ros.training.trainer import train  # torch is slow to import

    run_dir = args.output or Path("runs") / args.config.stem
    weights = train(config, run_dir, args.init)
    if os.environ.get("RANK", "0") == "0":  # torchrun's: the first process speaks for all
        print(f"weights: {weights}; best on validation: {weights.with_name('best.safetensors')}")
    return 0
