"""`instaseg replay IN -o OUT`: label a recording, video or folder of images with the pipeline; or,
with --live, play a recording to the real node and compare what it says with the pipeline."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instaseg_ros.cli import add_config_options, check_number, config_from, import_ros, refuse_input
from instaseg_ros.errors import ConfigError
from instaseg_ros.files import OutputFile

if TYPE_CHECKING:
    from instaseg_ros.config import Config
    from instaseg_ros.recordings.replay import Summary
    from instaseg_ros.recordings.sinks import Sink
    from instaseg_ros.ros.live_replay import Outcome

LISTED = 20  # frames that a live replay names one by one
UNANSWERED = ("dropped", "lost", "refused", "failed", "unaccounted", "ambiguous")

EXAMPLES = """
instaseg replay drive.mcap -o overlay.mp4                     # to look at
instaseg replay drive_bag/ -o labelled.mcap --topic /camera   # the node's topics
instaseg replay frames/ -o frames.json --weights street       # COCO, to correct
instaseg replay drive.mcap --live --rate 2                    # through the real node
"""


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
        default=[],
        help=".mcap (the node's topics), .mp4 or .webm (overlay), .json (COCO dataset), "
        ".txt (KITTI MOTS), or a folder (PNGs); repeatable",
    )
    parser.add_argument("--topic", help="image topic, for a recording that has several")
    parser.add_argument(
        "--depth", metavar="TOPIC", help="depth images of a recording, to locate objects in space"
    )
    parser.add_argument("--limit", type=_count, metavar="N", help="stop after N frames")
    parser.add_argument("--overwrite", action="store_true", help="replace existing outputs")
    live = parser.add_argument_group("a live replay, over ROS")
    live.add_argument(
        "--live",
        action="store_true",
        help="play the recording's images to the node, and compare its labels with those of the "
        "pipeline; -o keeps what the node said (.mcap)",
    )
    live.add_argument("--rate", type=float, help="times as fast as it was recorded (default: 1)")
    live.add_argument("--json", type=Path, metavar="FILE", help="also write the outcome as JSON")
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Replay; 0 if every frame was read and at least one labelled, and with --live if the node and
    the pipeline agree, else 1."""
    _check(args)
    config = config_from(args)  # needs no torch, so mistakes are reported at once
    if args.live:
        return _live(args, config)

    from tqdm import tqdm

    from instaseg_ros.pipeline import Pipeline
    from instaseg_ros.recordings.replay import replay
    from instaseg_ros.recordings.sources import open_source

    slop_ms = config.depth.slop_ms
    source = open_source(args.input, args.topic, config.input, args.depth, slop_ms)
    refuse_input(args.input, args.output)
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


def _check(args: argparse.Namespace) -> None:
    if not args.live:
        for name in ("rate", "json"):
            if getattr(args, name) is not None:
                raise ConfigError(f"--{name}: expected together with --live")
        if not args.output:
            raise ConfigError("expected an output: -o OUT")
        return
    check_number("rate", args.rate, positive=True)
    if args.depth:
        raise ConfigError("--depth: labels do not depend on it; leave it out with --live")
    if len(args.output) > 1 or not all(one.endswith(".mcap") for one in args.output):
        raise ConfigError("--live: expected at most one output, whose name ends in .mcap")


def _live(args: argparse.Namespace, config: Config) -> int:
    """Play, compare, print, and write what was asked for."""
    refuse_input(args.input, args.output)
    report = OutputFile(args.json, overwrite=True) if args.json else None
    live = import_ros("instaseg_ros.ros.live_replay", "--live")

    from instaseg_ros.contract import plain_json

    rate = args.rate or 1.0
    output = Path(args.output[0]) if args.output else None
    options = live.Options(args.topic, rate, args.limit, output, args.overwrite)
    outcome: Outcome = live.replay_live(args.input, config, options)
    facts = live.facts(outcome, args.input, config, rate)
    if report:
        report.part.write_text(plain_json(facts), encoding="utf-8")
        report.commit()
    _print_outcome(facts)
    if outcome.broken is not None:
        print(f"instaseg replay: {outcome.broken}", file=sys.stderr)
    if outcome.node_exit_code:
        print(f"instaseg replay: the node ended with {outcome.node_exit_code}", file=sys.stderr)
    return 0 if outcome.agrees and not outcome.node_exit_code and outcome.broken is None else 1


def _print_outcome(facts: Mapping[str, Any]) -> None:
    from instaseg_ros.tables import text_table

    frames, latency = facts["frames"], facts["latency_ms"]
    begin_ns = facts["first_stamp_ns"]
    rest = ", ".join(f"{frames[name]} {name}" for name in UNANSWERED if frames[name])
    print(
        f"{frames['published']} frames at {facts['rate']:g} x speed: {frames['answered']} answered"
        f"{f', {rest}' if rest else ''}; "
        f"latency {latency['p50']:.1f} ms (p99 {latency['p99']:.1f} ms)"
    )
    if stamps := facts["unanswered_stamps_ns"]:
        print(f"not answered: {_seconds(stamps, begin_ns)}")
    print(f"{frames['equal']} of {frames['compared']} equal to the offline replay, pixel for pixel")
    if differences := facts["differences"]:
        rows = [
            (_second(one["stamp_ns"], begin_ns), one["pixels"], len(one["ids"]))
            for one in differences[:LISTED]
        ]
        print(text_table(("differ at s", "pixels", "ids"), rows, ("", "d", "d")))
        if len(differences) > LISTED:
            print(f"and {len(differences) - LISTED} more")


def _seconds(stamps_ns: Sequence[int], begin_ns: int) -> str:
    more = len(stamps_ns) - LISTED
    named = ", ".join(_second(stamp_ns, begin_ns) for stamp_ns in stamps_ns[:LISTED])
    return f"{named}{f' and {more} more' if more > 0 else ''} s"


def _second(stamp_ns: int, begin_ns: int) -> str:
    return f"{(stamp_ns - begin_ns) / 1e9:.3f}"


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
