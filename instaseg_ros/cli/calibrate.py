"""`instaseg calibrate DATA`: the `decode.min_score` of weights, and weights that bring it."""

from __future__ import annotations

import argparse
from pathlib import Path

from instaseg_ros.cli import add_config_options, check_weights_output, config_from
from instaseg_ros.cli.evaluate import add_data_options, check_data, dataset_from
from instaseg_ros.errors import ConfigError

MOST_FALSE, MAX_LOSS = 3.0, 0.002


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_options(parser)
    parser.add_argument(
        "--most-false",
        type=float,
        default=MOST_FALSE,
        metavar="N",
        help="false objects that a frame may have on average (default: %(default)s)",
    )
    parser.add_argument(
        "--max-loss",
        type=float,
        default=MAX_LOSS,
        metavar="AP",
        help="AP that may be lost (default: %(default)s); of what both limits allow, the threshold "
        "of the largest PQ is taken; where they cannot both be met, the highest that loses no more",
    )
    parser.add_argument(
        "-o", "--output", type=Path, help="write the weights, which bring it, to this .safetensors"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an output that exists")
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    check_data(args)
    for option, limit in (("--most-false", args.most_false), ("--max-loss", args.max_loss)):
        if not limit >= 0:
            raise ConfigError(f"{option}: expected at least 0, got {limit}")
    from tqdm import tqdm

    from instaseg_ros.checkpoint import save_checkpoint
    from instaseg_ros.config import merge
    from instaseg_ros.datasets import spread
    from instaseg_ros.evaluation import calibration
    from instaseg_ros.evaluation.run import evaluate
    from instaseg_ros.pipeline import Pipeline

    if args.output:
        check_weights_output(args.output, args.overwrite)
    dataset = dataset_from(args)
    pipeline = Pipeline(merge(config_from(args), {"decode.min_score": 0.0}))
    shown = tqdm(spread(len(dataset), args.frames or len(dataset)), unit="frame", disable=None)
    found = evaluate(pipeline, dataset, shown, args.min_pixels)
    tried = calibration.thresholds(found.counts, found.classes.names)
    chosen = calibration.best(tried, args.most_false, args.max_loss)
    print(calibration.table([one for one in tried if one == chosen or one in tried[::5]]))
    data = f"{Path(args.data).resolve().name}, {args.split}, {len(found.counts)} frames"
    said = calibration.sentence(chosen, tried[0], data)
    print(said)
    if args.output:
        decode = pipeline.config.decode
        made = calibration.calibrated(pipeline.checkpoint, decode, chosen, said)
        save_checkpoint(made, args.output)
        print(args.output)
    return 0
