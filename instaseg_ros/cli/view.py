"""`instaseg view IN -o OUT`: each step from the network's outputs to its objects, side by side."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from instaseg_ros.cli import add_config_options, config_from, refuse_input
from instaseg_ros.errors import ConfigError, ImageError, InputError, InstasegError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from instaseg_ros.frames import Frame, Result
    from instaseg_ros.pipeline import Pipeline
    from instaseg_ros.recordings.sinks import Sink
    from instaseg_ros.recordings.sources import Source

PICTURES, SEQUENCES = (".png", ".jpg"), (".mp4", ".webm", ".rrd")
RERUN = ".rrd"

EXAMPLES = """
instaseg view drive.mcap --frame 40 -o view.png
instaseg view drive.mcap --frame 40 --region 230 180 160 100 -o pieces.png
instaseg view drive.mcap -o view.mp4
instaseg view drive.mcap -o view.rrd --limit 100    # for Rerun, to look into
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument(
        "input", metavar="IN", help="bag directory, .mcap, .db3, video, image or folder of images"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="OUT",
        default=Path("view.png"),
        help=".png or .jpg (one frame, with a table of its objects), .mp4 or .webm (all frames), "
        ".rrd (all frames, for Rerun) (default: %(default)s)",
    )
    parser.add_argument("--frame", type=int, metavar="N", help="of a picture, from 0 (default: 0)")
    parser.add_argument(
        "--region",
        type=int,
        nargs=4,
        metavar=("LEFT", "TOP", "WIDTH", "HEIGHT"),
        help="magnify this part of the image (pixels); not with .rrd",
    )
    parser.add_argument("--topic", help="image topic, for a recording that has several")
    parser.add_argument("--limit", type=int, metavar="N", help="end a video or .rrd after N frames")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """View; 0 if every frame was read and at least one drawn, else 1."""
    _check(args)
    refuse_input(args.input, [args.output])
    config = config_from(args)
    from instaseg_ros.config import merge
    from instaseg_ros.files import OutputFile
    from instaseg_ros.pipeline import Pipeline
    from instaseg_ros.recordings.sources import open_source

    config = merge(config, {"tracking.enabled": False})  # ids are those of the clusters
    source = open_source(args.input, args.topic, config.input)
    OutputFile(args.output, args.overwrite)  # refuses before the network is made
    pipeline = Pipeline(config)
    if "seed" not in {head.name for head in pipeline.method.heads}:
        print(
            f"instaseg view: {pipeline.method.name} has no seed map and learns no bandwidth; "
            "shown is what it has",
            file=sys.stderr,
        )
    if args.output.suffix in SEQUENCES:
        return _sequence(args, source, pipeline)
    return _picture(args, source, pipeline)


def _check(args: argparse.Namespace) -> None:
    suffix = args.output.suffix
    if suffix not in PICTURES + SEQUENCES:
        raise ConfigError(
            f"output {args.output}: expected a name that ends in {', '.join(PICTURES + SEQUENCES)}"
        )
    for name, least, wanted in (("frame", 0, PICTURES), ("limit", 1, SEQUENCES)):
        value = getattr(args, name)
        if value is not None and (value < least or suffix not in wanted):
            raise ConfigError(
                f"--{name}: expected at least {least}, and an output in {' or '.join(wanted)}, "
                f"got {value} and {args.output}"
            )

    if args.region and suffix == RERUN:
        raise ConfigError("--region: Rerun magnifies by itself; leave it out with .rrd")


def _drawing(
    args: argparse.Namespace, pipeline: Pipeline
) -> Callable[[Frame, Result], NDArray[np.uint8]]:
    from instaseg_ros.view.panels import view

    threshold = getattr(pipeline.config.decode, "foreground_threshold", 0.0)
    return partial(
        view,
        class_names=pipeline.class_names,
        foreground_threshold=threshold,
        region=args.region,
    )


def _sequence(args: argparse.Namespace, source: Source, pipeline: Pipeline) -> int:
    from tqdm import tqdm

    from instaseg_ros.recordings.replay import replay
    from instaseg_ros.view.viewer import Viewer

    sink = _sink(args, pipeline)
    total = min((n for n in (source.total, args.limit) if n is not None), default=None)
    with tqdm(total=total, unit=" frames", disable=None) as bar:
        summary = replay(source, Viewer(pipeline), [sink], bar.update, args.limit)
    print(f"{summary.labelled} frames -> {args.output}, {summary.skipped} skipped")
    if summary.broken is not None:
        print(f"instaseg view: {summary.broken}", file=sys.stderr)
    return 0 if summary.labelled and summary.broken is None else 1


def _sink(args: argparse.Namespace, pipeline: Pipeline) -> Sink:
    named = args.output, pipeline.class_names, pipeline.config, args.overwrite
    if args.output.suffix == RERUN:
        from instaseg_ros.view.rerun_file import RerunSink

        return RerunSink(*named)
    from instaseg_ros.recordings.sinks import VideoSink

    return VideoSink(*named, _drawing(args, pipeline))


def _picture(args: argparse.Namespace, source: Source, pipeline: Pipeline) -> int:
    import cv2

    from instaseg_ros.files import OutputFile
    from instaseg_ros.view.clusters import described
    from instaseg_ros.view.viewer import Viewer

    frame = _frame(args, source, pipeline)
    (result,) = Viewer(pipeline).process([frame])
    picture = _drawing(args, pipeline)(frame, result)
    output = OutputFile(args.output, args.overwrite)
    try:
        if not cv2.imwrite(str(output.part), picture[..., ::-1]):
            raise InstasegError(f"{args.output} cannot be written: is the disk full?")
        output.commit()
    finally:
        output.discard()
    print(described(result.clusters, pipeline.class_names))
    print(f"-> {args.output}")
    return 0


def _frame(args: argparse.Namespace, source: Source, pipeline: Pipeline) -> Frame:
    """The wanted frame; a method with a memory sees those before it."""
    wanted = args.frame or 0
    frames = iter(source)
    for number in range(wanted + 1):
        try:
            frame = next(frames, None)
            if frame is None:
                raise InputError(f"--frame {wanted}: {args.input} has only {number} frames")
            if number == wanted:
                return frame
            if pipeline.method.temporal:
                pipeline.process([frame])
        except ImageError:
            if number == wanted:
                raise
    raise AssertionError
