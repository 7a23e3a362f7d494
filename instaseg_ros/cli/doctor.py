"""`instaseg doctor`: compare every runtime on this machine with torch, in one command; or, with
--live, watch a running robot and say whether it may go."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from instaseg_ros.cli import (
    add_config_options,
    check_frames,
    config_from,
    import_ros,
    size_from,
)
from instaseg_ros.errors import ConfigError
from instaseg_ros.files import OutputFile

LIVE_S = 60.0
LONGEST_S = 3600.0
# Of which a live report tells the version; none is imported.
PACKAGES = ("numpy", "opencv-python-headless", "torch", "openvino", "onnxruntime", "tensorrt")

EXAMPLES = """
instaseg doctor
instaseg doctor --weights street --images drive.mcap
instaseg doctor --live 30 --bundle robot.zip         # beside a running robot
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--size", metavar="HxW", default="512x1024", help="height x width of the network's input"
    )
    parser.add_argument("--rounds", type=int, default=10, help="calls per median time")
    parser.add_argument(
        "--images",
        metavar="DIR",
        help="recording, video or images for comparing with torch; default: a synthetic street",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the report to this file"
    )
    live = parser.add_argument_group(
        "beside a running robot",
        "Needs ROS 2. Exit code 0: go; 1: no-go; 2: it could not be examined. Limits are the "
        "parameters node.stale_after_s, node.min_rate_hz and node.max_latency_s (--config, --set).",
    )
    live.add_argument(
        "--live",
        metavar="SECONDS",
        type=float,
        nargs="?",
        const=LIVE_S,
        help=f"only listen to the robot's topics, for so long (default: {LIVE_S:g}), and judge",
    )
    live.add_argument(
        "--image",
        metavar="TOPIC",
        action="append",
        default=[],
        help="a camera topic, with the suffix of its transport; may be repeated; default: those "
        "that the node subscribes to, else all",
    )
    live.add_argument(
        "--bundle", metavar="FILE.zip", type=Path, help="write what a maintainer asks for"
    )
    live.add_argument(
        "--with-pictures",
        action="store_true",
        help="the bundle also has the newest picture of each camera",
    )
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """0 if the runtime chosen by `auto` agrees with torch, or with --live if the robot may go,
    else 1."""
    _check(args)
    return _examine_runtimes(args) if args.live is None else _watch(args)


def _check(args: argparse.Namespace) -> None:
    if args.live is None:
        for name in ("image", "bundle", "with_pictures"):
            if getattr(args, name):
                raise ConfigError(f"--{name.replace('_', '-')}: expected together with --live")
    elif not 1 <= args.live <= LONGEST_S:
        raise ConfigError(f"--live: expected 1 to {LONGEST_S:g} seconds, got {args.live:g}")
    if args.with_pictures and not args.bundle:
        raise ConfigError("--with-pictures: name the file that they go into with --bundle FILE.zip")
    if args.bundle and args.bundle.suffix != ".zip":
        raise ConfigError(f"--bundle: expected a name that ends in .zip, got {args.bundle}")


def _examine_runtimes(args: argparse.Namespace) -> int:
    size_from(args.size)
    config = config_from(args)
    if args.rounds < 1:
        raise ConfigError(f"--rounds: expected at least 1, got {args.rounds}")
    check_frames(args.images)
    output = OutputFile(args.json, overwrite=True) if args.json else None

    from instaseg_ros.checkpoint import load_checkpoint
    from instaseg_ros.contract import written
    from instaseg_ros.deploy.doctor import examine, table

    checkpoint = load_checkpoint(config.weights)
    size = size_from(args.size, checkpoint.stride)
    runtimes = logging.getLogger("instaseg_ros.runtimes")
    level = runtimes.level
    runtimes.setLevel(logging.WARNING)  # the table tells everything
    try:
        report = examine(config.runtime, checkpoint, size, args.images, args.rounds)
    finally:
        runtimes.setLevel(level)
    print(table(report))
    if output:
        facts = {
            **written("doctor"),
            "size": args.size,
            "versions": report.versions,
            "findings": [_plain(finding) for finding in report.findings],
            "auto": {**_plain(report.auto), "why": report.why},
        }
        output.part.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        output.commit()
    return 1 if report.auto.trouble else 0


def _plain(finding: object) -> dict[str, object]:
    facts = dict(finding._asdict())  # type: ignore[attr-defined]
    difference = facts["difference"]
    facts["difference"] = difference and difference._asdict()
    facts["p50_ms"] = None if difference is None else facts["p50_ms"]  # JSON has no NaN
    return facts


def _watch(args: argparse.Namespace) -> int:
    """Listen, judge, print, and write what was asked for."""
    config = config_from(args)
    bundle = OutputFile(args.bundle, overwrite=True) if args.bundle else None
    output = OutputFile(args.json, overwrite=True) if args.json else None
    listener = import_ros("instaseg_ros.ros.live.listener", "--live")
    from instaseg_ros.deploy.versions import versions
    from instaseg_ros.ros.live.bundle import report, to_json, write_bundle
    from instaseg_ros.ros.live.machine import environment
    from instaseg_ros.ros.live.verdict import judge, table

    observed, pictures = listener.listen(args.live, args.image, config.input)
    verdict = judge(observed, config.node)
    text = "\n".join((table(observed), "", *map(str, verdict.findings), verdict.line))
    print(text)
    about = {"versions": versions(PACKAGES), "environment": environment()}
    facts = report(observed, verdict, about)
    if output:
        output.part.write_text(to_json(facts), encoding="utf-8")
        output.commit()
    if bundle:
        shown = pictures if args.with_pictures else {}
        write_bundle(bundle, observed, facts, text + "\n", shown)
        print(f"bundle: {args.bundle}")
    return 0 if verdict.go else 1
