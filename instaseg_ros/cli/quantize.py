"""`instaseg quantize`: make an int8 model of weights for OpenVINO or TensorRT, and measure it
before keeping it."""

from __future__ import annotations

import argparse

from instaseg_ros.cli import add_config_options, check_frames, config_from, size_from
from instaseg_ros.errors import ConfigError

EXAMPLES = """
instaseg quantize --images drive.mcap
instaseg quantize --to tensorrt --size 512x1024 --weights street
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--to",
        choices=("openvino", "tensorrt"),
        default="openvino",
        help="runtime for the model; for tensorrt, --size must be that of the network's input",
    )
    parser.add_argument(
        "--images",
        metavar="PATH",
        help="images for calibration: a folder, a video or a recording from your camera; default: "
        "the synthetic street",
    )
    parser.add_argument(
        "--size", metavar="HxW", default="512x1024", help="height x width for calibration"
    )
    parser.add_argument("--frames", type=int, default=32, help="images for calibration")
    parser.add_argument(
        "--check-frames",
        type=int,
        default=100,
        help="held-out synthetic frames on which to measure AP",
    )
    parser.add_argument(
        "--max-loss",
        type=float,
        default=0.005,
        help="largest acceptable loss of AP; a worse model is not kept",
    )
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    if min(args.frames, args.check_frames) < 1:
        raise ConfigError(
            f"--frames and --check-frames: expected at least 1, got {args.frames}, "
            f"{args.check_frames}"
        )
    size, config = size_from(args.size), config_from(args)
    check_frames(args.images)

    from instaseg_ros.checkpoint import load_checkpoint
    from instaseg_ros.deploy.quantize import Order, keep_quantised, quantize
    from instaseg_ros.evaluation.by_runtime import table

    checkpoint = load_checkpoint(config.weights)
    if args.to == "tensorrt":  # its files are for one size
        size_from(args.size, checkpoint.stride)
    order = Order(args.images, size, args.frames, args.check_frames, args.to)
    quantised = quantize(checkpoint, config.decode, order)
    print(table(quantised.rows))
    keep_quantised(quantised, checkpoint, args.max_loss)
    print(f"{quantised.measured}\nrun it with runtime.name: {args.to}, runtime.precision: int8")
    return 0
