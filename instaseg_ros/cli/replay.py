"""`instaseg replay IN -o OUT`: label a recording, video or folder of images with the pipeline."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from instaseg_ros.cli import add_config_options, config_from
from instaseg_ros.errors import ConfigError

if TYPE_CHECKING:
    from instaseg_ros.config import Config
    from instaseg_ros.recordings.replay import Summary
    from instaseg_ros.recordings.sinks import Sink


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument(
        "input", metavar="IN", help="bag directory, .mcap, .db3, video, image or folder of images"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        action="append",
        required=True,
        help=".mcap (the node's topics), .mp4 or .webm (overlay), .json (COCO dataset), "
        ".txt (KITTI MOTS), or a folder (PNGs); repeatable",
    )
    parser.add_argument("--topic", help="image topic, for a recording that has several")
    parser.add_argument(
        "--depth", metavar="TOPIC", help="depth images of a recording, to locate objects in space"
    )
    parser.add_argument("--limit", type=_count, metavar="N", help="stop after N frames")
    parser.add_argument("--overwrite", action="store_true", help="replace existing outputs")
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Replay; 0 if every frame was read and at least one labelled, else 1."""
    config = config_from(args)  # needs no torch, so mistakes are reported at once

    from tqdm import tqdm

    from instaseg_ros.pipeline import Pipeline
    from instaseg_ros.recordings.replay import replay
    from instaseg_ros.recordings.sources import open_source

    slop_ms = config.depth.slop_ms
    source = open_source(args.input, args.topic, config.input, args.depth, slop_ms)
    for output in map(Path, args.output):
        if output.exists() and output.samefile(args.input):
            raise ConfigError(f"output {output} is the input; choose another name")
    with contextlib.ExitStack() as unused:
        sinks = _open_sinks(args.output, config, args.overwrite, unused)
        pipeline = Pipeline(config)
        unused.pop_all()  # replay ends them
    known = [count for count in (source.total, args.limit) if count is not None]
    total = min(known, default=None)
    with _log_above_bars(), tqdm(total=total, unit=" frames", disable=None) as bar:
        summary = replay(source, pipeline, sinks, bar.update, args.limit)
    _print_summary(summary, args.output)
    if summary.broken is not None:
        print(f"instaseg replay: {summary.broken}", file=sys.stderr)
    elif not summary.labelled:
        print(f"instaseg replay: no frame of {args.input} could be labelled", file=sys.stderr)
    return 0 if summary.labelled and summary.broken is None else 1


@contextlib.contextmanager
def _log_above_bars() -> Iterator[None]:
    """Let messages go above a progress bar instead of through it. tqdm has the same since 4.58;
    Ubuntu 22.04, and so Humble, has 4.57."""
    from tqdm import tqdm

    class Above(logging.StreamHandler):
        def emit(self, record: logging.LogRecord) -> None:
            tqdm.write(self.format(record), file=sys.stderr)

    root = logging.getLogger()
    above = Above()
    replaced = [one for one in root.handlers if type(one) is logging.StreamHandler]
    for one in replaced:
        above.setFormatter(one.formatter)
        root.removeHandler(one)
    root.addHandler(above)
    try:
        yield
    finally:
        root.removeHandler(above)
        for one in replaced:
            root.addHandler(one)


def _open_sinks(
    paths: Sequence[str], config: Config, overwrite: bool, unused: contextlib.ExitStack
) -> list[Sink]:
    """Open sinks before the network, which takes longer. `unused` will discard them."""
    from instaseg_ros.checkpoint import describe, load_checkpoint
    from instaseg_ros.recordings.sinks import open_sink

    described = describe(config.weights)
    names = described.class_names or load_checkpoint(config.weights).class_names
    sinks: list[Sink] = []
    for path in paths:
        sinks.append(open_sink(path, names, config, overwrite))
        unused.callback(sinks[-1].discard)
    return sinks


def _print_summary(summary: Summary, outputs: Sequence[str]) -> None:
    from instaseg_ros.tables import text_table

    print(
        f"{summary.frames} frames: {summary.labelled} labelled, {summary.skipped} skipped, "
        f"{summary.seconds:.1f} s, {summary.frames / summary.seconds:.1f} frames/s"
        f"{' -> ' + ', '.join(outputs) if summary.labelled else '; nothing written'}"
    )
    rows = [(stage, *ms) for stage, ms in summary.stage_ms.items()]
    print(text_table(("stage", "p50 ms", "p99 ms"), rows, ("", ".1f", ".1f")))


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {number}")
    return number
