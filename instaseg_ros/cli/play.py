"""`instaseg play RECORDING`: publish a recording's topics over ROS, at the speed they came at."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from instaseg_ros.cli import check_number, import_ros

if TYPE_CHECKING:
    from instaseg_ros.ros.play import Played

CLOCK_HZ = 100.0

EXAMPLES = """
instaseg play drive.mcap                            # as fast as it was recorded
instaseg play drive_bag/ --rate 0.5 --loop --clock
instaseg play drive.mcap --topics /camera/image_raw --start 10 --duration 5
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("recording", metavar="RECORDING", help="bag directory, .mcap or .db3")
    parser.add_argument("--rate", type=float, default=1.0, help="times as fast as it was recorded")
    parser.add_argument("--loop", action="store_true", help="begin again at the end, until Ctrl-C")
    parser.add_argument(
        "--clock",
        type=float,
        nargs="?",
        const=CLOCK_HZ,
        metavar="HZ",
        help="publish the recorded time on /clock, for nodes with use_sim_time "
        f"(default: {CLOCK_HZ:g} times per second)",
    )
    parser.add_argument(
        "--topics", nargs="+", default=[], metavar="TOPIC", help="only these (default: all)"
    )
    parser.add_argument(
        "--start", type=float, default=0.0, metavar="S", help="leave out the first S seconds"
    )
    parser.add_argument("--duration", type=float, metavar="S", help="play only S recorded seconds")
    parser.add_argument(
        "--delay",
        type=float,
        default=1.0,
        metavar="S",
        help="wait S seconds before the first message, for subscribers to find the topics "
        "(default: 1)",
    )


def run(args: argparse.Namespace) -> int:
    """0 if everything that was asked for and has a type was published, else 1; 130 after
    Ctrl-C."""
    for name in ("rate", "clock", "duration"):
        check_number(name, getattr(args, name), positive=True)
    for name in ("start", "delay"):
        check_number(name, getattr(args, name), positive=False)
    player = import_ros("instaseg_ros.ros.play", "play")
    options = player.Options(
        args.rate, args.loop, args.topics, args.start, args.duration, args.delay, args.clock
    )
    played: Played = player.play(args.recording, options)
    _print_summary(played)
    if played.broken is not None:
        print(f"instaseg play: {played.broken}", file=sys.stderr)
    if played.interrupted:
        return 130
    named = played.skipped.keys() & set(args.topics)
    return 1 if played.broken is not None or played.refused or named else 0


def _print_summary(played: Played) -> None:
    from instaseg_ros.tables import text_table

    rows = [(topic, count) for topic, count in sorted(played.published.items())]
    print(text_table(("topic", "messages"), rows, ("", "d")))
    print(f"{played.published.total()} messages, at most {played.latest_s * 1e3:.0f} ms late")
    if refused := played.refused.total():
        print(f"{refused} messages could not be published")
    if played.skipped:
        print(f"not played: {', '.join(sorted(played.skipped))}")
