"""`instaseg mine RECORDING -o FOLDER`: hard frames of a recording, as a dataset to label."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from instaseg_ros.cli import add_config_options, config_from
from instaseg_ros.cli.parser import completes, weights_names
from instaseg_ros.errors import ConfigError, require

if TYPE_CHECKING:
    from instaseg_ros.evaluation.disagreement import Doubt, Doubts
    from instaseg_ros.recordings.replay import Processor, Summary
    from instaseg_ros.recordings.sinks import Sink
    from instaseg_ros.recordings.sources import Source

TABLE = "frames.csv"
DATASET = "frames.json"
FRAMES = 50
MEASURES = ("disagreement", "mirror", "time", "weights")  # of a `Doubt`

EXAMPLES = """
instaseg mine drive.mcap -o to_label/ --frames 30
instaseg mine drive.mcap -o to_label/ --by weights --against street-synthetic-lite
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "input",
        metavar="RECORDING",
        help="bag directory, .mcap, .db3, video or folder of images",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FOLDER",
        help=f"{DATASET} (COCO, with what the network proposes), the images, and {TABLE} with the "
        "disagreement of every frame (extra `coco`)",
    )
    parser.add_argument(
        "--frames",
        type=int,
        default=FRAMES,
        metavar="N",
        help="write at most this many (default: %(default)s)",
    )
    parser.add_argument(
        "--by",
        nargs="+",
        choices=("mirror", "time", "weights"),
        help="what the network's result is compared with: that of the mirror image, of its "
        "neighbours in time, of other weights (default: the first two, and --against if given)",
    )
    others = parser.add_argument("--against", metavar="WEIGHTS", help="the other weights")
    completes(others, weights_names)
    parser.add_argument(
        "--apart",
        type=int,
        metavar="N",
        help="chosen frames are at least this many apart (default: half of an even spacing)",
    )
    parser.add_argument("--topic", help="image topic, for a recording that has several")
    parser.add_argument("--overwrite", action="store_true", help="replace a folder of this command")
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Mine; 0 if every frame was read and at least one written, else 1."""
    by = _check(args)
    config = config_from(args)
    from instaseg_ros.config import merge
    from instaseg_ros.configure import load_config
    from instaseg_ros.evaluation.disagreement import Doubts, pick
    from instaseg_ros.files import OutputFile
    from instaseg_ros.pipeline import Pipeline
    from instaseg_ros.recordings.sinks import CallbackSink
    from instaseg_ros.recordings.sources import open_source

    require("pycocotools.mask", "coco", "writing masks as runs")
    config = merge(config, {"tracking.enabled": False})
    other = load_config(weights=args.against) if args.against else None
    source = open_source(args.input, args.topic, config.input)
    output = OutputFile(args.output, args.overwrite, marker=TABLE)
    against = Pipeline(replace(other, runtime=config.runtime)) if other else None
    doubts = Doubts(Pipeline(config), by, against)
    compared = _replay(source, doubts, CallbackSink(lambda *_: None), "compared")
    chosen = pick(doubts.rows, args.frames, args.apart)
    if chosen:
        try:
            output.part.mkdir()
            _write(output.part, source, doubts, chosen)
            output.commit()
        finally:
            output.discard()
    _print_summary(compared, doubts.rows, chosen, args.output)
    if compared.broken is not None:
        print(f"instaseg mine: {compared.broken}", file=sys.stderr)
    return 0 if chosen and compared.broken is None else 1


def _check(args: argparse.Namespace) -> Collection[str]:
    """What to compare by. Raises ConfigError for options that cannot be used."""
    for option, value in (("--frames", args.frames), ("--apart", args.apart)):
        if value is not None and value < 1:
            raise ConfigError(f"{option}: expected at least 1, got {value}")
    if args.by and ("weights" in args.by) != bool(args.against):
        raise ConfigError("--by weights and --against WEIGHTS: expected both or neither")
    return args.by or ("mirror", "time", *(["weights"] if args.against else []))


def _write(folder: Path, source: Source, doubts: Doubts, chosen: Sequence[Doubt]) -> None:
    """Read the recording again, and write the dataset and the table."""
    from instaseg_ros.evaluation.disagreement import Picked
    from instaseg_ros.recordings.annotation_files import CocoSink

    pipeline, topic = doubts.pipeline, getattr(source, "topic", "")
    pipeline.reset()
    dataset = CocoSink(folder / DATASET, pipeline.class_names, pipeline.config, False, topic)
    picked = Picked(pipeline, {row.number for row in chosen}, dataset)
    _replay(source, picked, picked, "written")
    files = dict(zip((row.number for row in chosen), dataset.files, strict=True))
    with (folder / TABLE).open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("frame", "stamp_ns", "frame_id", "topic", *MEASURES, "file"))
        for row in doubts.rows:
            values = [getattr(row, name) for name in MEASURES]
            rounded = ["" if value is None else f"{value:.6f}" for value in values]
            known = row.number, row.stamp_ns, row.frame_id, topic
            table.writerow((*known, *rounded, files.get(row.number, "")))


def _replay(source: Source, processor: Processor, sink: Sink, done: str) -> Summary:
    from tqdm import tqdm

    from instaseg_ros.recordings.replay import replay

    with tqdm(total=source.total, unit=f" frames {done}", disable=None) as bar:
        return replay(source, processor, [sink], bar.update)


def _print_summary(
    compared: Summary, rows: Sequence[Doubt], chosen: Sequence[Doubt], output: Path
) -> None:
    from instaseg_ros.tables import text_table

    print(
        f"{compared.labelled} frames compared, {compared.skipped} skipped; {len(chosen)} written"
        f"{f' -> {output}' if chosen else ', as nothing disagrees: compare by others (--against)'}"
    )
    lines = []
    for name in MEASURES:
        of_all, of_chosen = (
            [value for row in side if (value := getattr(row, name)) is not None]
            for side in (rows, chosen)
        )
        if of_chosen:
            lines.append((name, sum(of_all) / len(of_all), sum(of_chosen) / len(of_chosen)))
    if lines:
        print(text_table(("mean disagreement", "all", "written"), lines, ("", ".3f", ".3f")))
