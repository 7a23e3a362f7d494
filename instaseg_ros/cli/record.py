"""`instaseg record -o FILE.mcap TOPIC...`: record topics, as rosbag2 does."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from instaseg_ros.cli import check_number, import_ros
from instaseg_ros.errors import ConfigError

if TYPE_CHECKING:
    from instaseg_ros.ros.record import Recorded

EXAMPLES = """
instaseg record -o drive.mcap /camera/image_raw /instaseg_node/labels
instaseg record -o all.mcap --all --duration 60
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("topics", nargs="*", metavar="TOPIC", help="topics to record")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE.mcap", help="the recording"
    )
    parser.add_argument(
        "--all", action="store_true", help="record every topic, also those that appear later"
    )
    parser.add_argument(
        "--duration", type=float, metavar="S", help="end after S seconds (default: at Ctrl-C)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing recording")


def run(args: argparse.Namespace) -> int:
    """0 if every topic that was named, or any at all, gave a message, else 1."""
    if args.all == bool(args.topics):
        raise ConfigError("expected names of topics, or --all")
    if args.output.suffix != ".mcap":
        raise ConfigError(f"output {args.output}: expected a name that ends in .mcap")
    check_number("duration", args.duration, positive=True)
    recorder = import_ros("instaseg_ros.ros.record", "record")
    recorded: Recorded = recorder.record(args.output, args.topics, args.duration, args.overwrite)
    _print_summary(recorded, args.output)
    if recorded.silent:
        print(
            f"instaseg record: nothing came on {', '.join(recorded.silent)}",
            file=sys.stderr,
        )
    return 0 if recorded.messages and not recorded.silent else 1


def _print_summary(recorded: Recorded, output: Path) -> None:
    from instaseg_ros.tables import text_table

    rows = [
        (topic, kind, recorded.messages[topic], recorded.lost[topic])
        for topic, kind in sorted(recorded.types.items())
    ]
    print(text_table(("topic", "type", "messages", "lost"), rows, ("", "", "d", "d")))
    count = recorded.messages.total()
    written = f"{output}, {output.stat().st_size / 1e6:.1f} MB" if count else "nothing written"
    print(f"{count} messages -> {written}")
    if recorded.skipped:
        print(f"not recorded: {', '.join(sorted(recorded.skipped))}")
