"""`instaseg export WEIGHTS --to FORMAT`: write the network for another runtime, compared with
torch; or with `--to safetensors` the weights themselves, for instance from a published .pth."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from instaseg_ros.cli import WEIGHTS, check_frames, check_weights_output, size_from
from instaseg_ros.cli.parser import completes, weights_names
from instaseg_ros.config import Config, merge
from instaseg_ros.errors import ConfigError

PRECISIONS = {
    "onnx": "fp32",
    "openvino": "fp32",
    "tensorrt": "fp16",
    "torch2trt": "fp16",
    WEIGHTS: "fp32",
}

EXAMPLES = """
instaseg export street --to onnx --size 512x1024
instaseg export street-synthetic --to tensorrt       # into the cache, for the node
instaseg export published.pth --to safetensors -o mine.safetensors
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    weights = parser.add_argument(
        "weights", metavar="WEIGHTS", help="a shipped name or a file of weights"
    )
    completes(weights, weights_names)
    parser.add_argument("--to", required=True, choices=PRECISIONS, help="format to write")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        help="file to write; default: NAME-SIZE-PRECISION here, and for tensorrt the cache folder, "
        "where the node finds the engine",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    parser.add_argument(
        "--size", metavar="HxW", default="512x1024", help="height x width of the network's input"
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16", "int8"),
        help="default: fp32, for engines fp16; int8: engines quantised by `instaseg quantize`",
    )
    parser.add_argument(
        "--images",
        metavar="DIR",
        help="recording, video or images for comparing with torch; default: a synthetic street",
    )
    engines = parser.add_argument_group("engines (tensorrt, torch2trt)")
    engines.add_argument(
        "--batch",
        nargs=2,
        type=int,
        metavar=("BEST", "MAX"),
        help="batch sizes: tuned for BEST, at most MAX",
    )
    engines.add_argument("--workspace-mb", type=int, metavar="N", help="GPU memory while building")
    engines.add_argument("--device", help="cuda or cuda:N")


def run(args: argparse.Namespace) -> int:
    size_from(args.size)
    given: dict[str, Any] = {"runtime.precision": args.precision or PRECISIONS[args.to]}
    if args.batch:
        given["runtime.engine.best_batch"], given["runtime.engine.max_batch"] = args.batch
    if args.workspace_mb is not None:
        given["runtime.engine.workspace_mb"] = args.workspace_mb
    if args.device:
        given["runtime.device"] = args.device
    runtime = merge(Config(), given).runtime
    if args.to == WEIGHTS:
        return _weights(args, runtime.precision)
    from instaseg_ros.checkpoint import describe, load_checkpoint

    size = size_from(args.size, describe(args.weights).stride)
    check_frames(args.images)

    from instaseg_ros.deploy.export import TARGETS, Order, export, prepare_engine

    order = Order(load_checkpoint(args.weights), size, runtime, args.images)
    if args.to == "tensorrt" and args.output is None:
        print(prepare_engine(order))
        return 0
    name = f"{Path(args.weights).stem}-{args.size}-{runtime.precision}{TARGETS[args.to][0]}"
    path = args.output or Path(name)
    print(
        f"{path}: difference from torch in float32: {export(order, args.to, path, args.overwrite)}"
    )
    return 0


def _weights(args: argparse.Namespace, precision: str) -> int:
    path = args.output or Path(f"{Path(args.weights).stem}.{WEIGHTS}")
    check_weights_output(path, args.overwrite)
    if precision == "int8":
        raise ConfigError(f"precision of {WEIGHTS}: expected fp32 or fp16, got {precision}")

    import torch

    from instaseg_ros.checkpoint import load_checkpoint, save_checkpoint

    checkpoint = load_checkpoint(args.weights)
    save_checkpoint(checkpoint, path, torch.float16 if precision == "fp16" else None)
    print(path)
    return 0
