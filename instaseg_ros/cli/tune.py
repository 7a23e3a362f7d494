"""`instaseg tune DATA`: find thresholds of each class, and write them into weights."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from instaseg_ros.cli import add_config_options, check_weights_output, config_from
from instaseg_ros.cli.evaluate import add_data_options, check_data, dataset_from
from instaseg_ros.errors import ConfigError
from instaseg_ros.samples import SYNTHETIC

if TYPE_CHECKING:
    from instaseg_ros.datasets import Dataset
    from instaseg_ros.evaluation.tuning import Found
    from instaseg_ros.pipeline import Pipeline

EXAMPLES = """
instaseg tune cityscapes/ --weights mine.safetensors -o tuned.safetensors
instaseg tune drive.json --split train --precision 0.9
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_options(parser)
    parser.add_argument(
        "--precision",
        type=float,
        metavar="P",
        help="find the best F of what reaches this precision (0 to 1) for each class; default: the "
        "best panoptic quality",
    )
    parser.add_argument(
        "--report",
        metavar="SPLIT",
        help="also say what the thresholds do to this split, on which they are not chosen; "
        "default: one that is neither --split nor train, if there is one",
    )
    parser.add_argument(
        "-o", "--output", type=Path, help="write a copy of the weights to this .safetensors"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an output that exists")
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    report = _check(args)
    from instaseg_ros.checkpoint import save_checkpoint
    from instaseg_ros.config import merge
    from instaseg_ros.evaluation import tuning
    from instaseg_ros.pipeline import Pipeline

    config = merge(config_from(args), {"tracking.enabled": False})
    if args.output:
        _check_output(args.output, args.overwrite, config.weights)
    dataset = _dataset(args, args.split)
    other = _dataset(args, report) if report else None
    pipeline = Pipeline(config)
    pipeline.reconfigure(merge(config, {"decode": tuning.lowest(config.decode)}))
    limits = tuning.usual_limits(config.decode, pipeline.class_names)
    frames, classes = _label(args, pipeline, dataset)
    tuned, steps = tuning.tune(frames, classes, limits, tuning.Aim(args.precision))
    print(tuning.table(steps))
    data = SYNTHETIC if args.data == SYNTHETIC else Path(args.data).resolve().name
    said = tuning.effect(frames, classes, limits, tuned, f"{data}, {args.split}")
    print(f"chosen on {said}")
    if other:
        found, classes = _label(args, pipeline, other)
        apart = tuning.effect(found, classes, limits, tuned, f"{data}, {report}")
        print(f"not chosen on {apart}")
        said += f"; {apart}"
    if not any(step.taken for step in steps):
        print(f"no threshold gains more than noise: {config.weights} keeps all of its own")
    if args.output:
        made = tuning.tuned_checkpoint(pipeline.checkpoint, config.decode, tuned, said)
        save_checkpoint(made, args.output)
        print(args.output)
    return 0


def _check(args: argparse.Namespace) -> str | None:
    """The split to report on. Raises ConfigError for options that cannot be used."""
    from instaseg_ros.datasets import splits_of

    check_data(args)
    if args.precision is not None and not 0 < args.precision <= 1:
        raise ConfigError(f"--precision: expected above 0, to 1, got {args.precision}")
    if args.report == args.split:
        raise ConfigError(
            f"--report {args.report}: expected another split than --split, on which the thresholds "
            "are chosen"
        )
    if args.report or args.data == SYNTHETIC:
        return args.report
    others = [split for split in splits_of(args.data) if split not in ("train", args.split)]
    return others[0] if others else None


def _check_output(output: Path, overwrite: bool, weights: str) -> None:
    from instaseg_ros.checkpoint import shipped_weights

    source = shipped_weights().get(weights, Path(weights).expanduser())
    if output.exists() and output.samefile(source):
        raise ConfigError(f"output {output}: these are the weights themselves; choose another name")
    check_weights_output(output, overwrite)


def _dataset(args: argparse.Namespace, split: str) -> Dataset:
    from instaseg_ros.evaluation.tuning import FOLDS

    dataset = dataset_from(argparse.Namespace(**{**vars(args), "split": split}))
    count = min(len(dataset), args.frames or len(dataset))
    if count < FOLDS:
        raise ConfigError(f"{args.data}, {split}: expected at least {FOLDS} frames, got {count}")
    return dataset


def _label(
    args: argparse.Namespace, pipeline: Pipeline, dataset: Dataset
) -> tuple[list[Found], list[str]]:
    from tqdm import tqdm

    from instaseg_ros.datasets import spread
    from instaseg_ros.evaluation.tuning import label

    indices = spread(len(dataset), args.frames or len(dataset))
    return label(pipeline, dataset, tqdm(indices, unit="frame", disable=None), args.min_pixels)
