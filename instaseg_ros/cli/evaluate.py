"""`instaseg evaluate synthetic`: average precision on held-out synthetic sequences."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from instaseg_ros.cli import add_config_options, config_from, size_from
from instaseg_ros.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", choices=["synthetic"], help="what to evaluate on")
    parser.add_argument("--size", default="512x1024", help="height x width of the frames")
    parser.add_argument("--frames", type=int, default=200, help="frames, four of each sequence")
    parser.add_argument(
        "--min-pixels", type=int, default=100, help="smaller true objects are left out"
    )
    parser.add_argument("--json", type=Path, help="write the numbers to this file too")
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from instaseg_ros.evaluation.average_precision import average_precision, frame_counts
    from instaseg_ros.pipeline import Pipeline
    from instaseg_ros.training.data import held_out_street

    if args.frames < 1:
        raise ConfigError(f"--frames: expected at least 1, got {args.frames}")
    size = size_from(args.size)
    config = config_from(args)
    pipeline = Pipeline(config)
    data = held_out_street(args.frames, size)
    counts, spent_ms = [], 0.0
    for index in tqdm(range(args.frames), unit="frame"):
        sample = data[index]
        result = pipeline.process([sample.frame])[0]
        spent_ms += sum(result.stage_ms.values())
        counts.append(
            frame_counts(
                sample.labels, sample.ids, sample.class_ids, result.instances, sample.ignore
            )
        )
    table = average_precision(counts, pipeline.class_names, args.min_pixels)
    print(f"{'class':<10}{'AP':>8}{'AP50':>8}{'objects':>10}")
    for name, row in table.items():
        print(f"{name:<10}{row.ap:8.3f}{row.ap50:8.3f}{row.objects:10d}")
    numbers = {
        "ap": table["mean"].ap,
        "ap50": table["mean"].ap50,
        "per_class": {name: row._asdict() for name, row in table.items() if name != "mean"},
        "images": args.frames,
        "objects": table["mean"].objects,
        "ms_per_frame": spent_ms / args.frames,
    }
    print(f"{numbers['ms_per_frame']:.1f} ms per frame of {args.size}")
    if args.json:
        args.json.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    return 0
