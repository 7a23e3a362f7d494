"""`instaseg pack DATA FOLDER`: pack a dataset into a few files, for transport."""

from __future__ import annotations

import argparse
from pathlib import Path

from instaseg_ros.errors import ConfigError

EXAMPLES = """
instaseg pack cityscapes/ packed/
instaseg pack cityscapes/ small/ --frames 200 --val-frames 50 --quality 90
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", metavar="DATA", help="a folder or file of a known layout")
    parser.add_argument(
        "output",
        metavar="FOLDER",
        type=Path,
        help="a new or empty folder, which is then usable as DATA",
    )
    parser.add_argument(
        "--frames", type=int, help="frames of the training split, spread over it (default: all)"
    )
    parser.add_argument(
        "--val-frames", type=int, help="frames of the validation split, likewise (default: all)"
    )
    parser.add_argument(
        "--quality",
        type=int,
        default=0,
        help="re-encode images as WebP of this quality, 1 to 100 (default: copy the files)",
    )
    parser.add_argument("--shard-mb", type=float, default=40, help="largest file, in MiB")


def run(args: argparse.Namespace) -> int:
    if not 0 <= args.quality <= 100:
        raise ConfigError(f"--quality: expected 1 to 100, got {args.quality}")
    if not 1 <= args.shard_mb <= 2048:
        raise ConfigError(f"--shard-mb: expected 1 to 2048, got {args.shard_mb}")
    from instaseg_ros.datasets import open_dataset
    from instaseg_ros.datasets.packing import Packing, pack
    from instaseg_ros.samples import spread

    parts = []
    for split, frames in (("train", args.frames), ("val", args.val_frames)):
        dataset = open_dataset(args.dataset, split)
        if frames is not None and frames < 1:
            raise ConfigError(f"--frames and --val-frames: expected at least 1, got {frames}")
        parts.append((split, dataset, spread(len(dataset), frames or len(dataset))))
    shards = pack(parts, args.output, Packing(int(args.shard_mb * (1 << 20)), args.quality))
    for shard in shards:
        print(f"{shard}: {shard.stat().st_size / (1 << 20):.1f} MiB")
    counted = ", ".join(f"{len(list(indices))} {split}" for split, _, indices in parts)
    print(f"packed {counted}: {args.output}")
    return 0
