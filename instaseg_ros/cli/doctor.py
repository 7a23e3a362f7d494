"""`instaseg doctor`: compare every runtime on this machine with torch, in one command."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from instaseg_ros.cli import add_config_options, check_frames, config_from, size_from
from instaseg_ros.errors import ConfigError
from instaseg_ros.files import OutputFile


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", default="512x1024", help="height x width of the network's input")
    parser.add_argument("--rounds", type=int, default=10, help="calls per median time")
    parser.add_argument(
        "--images",
        metavar="DIR",
        help="recording, video or images for comparing with torch; default: a synthetic street",
    )
    parser.add_argument("--json", type=Path, help="also write the report to this file")
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """0 if the runtime chosen by `auto` agrees with torch, else 1."""
    size_from(args.size)
    config = config_from(args)
    if args.rounds < 1:
        raise ConfigError(f"--rounds: expected at least 1, got {args.rounds}")
    check_frames(args.images)
    output = OutputFile(args.json, overwrite=True) if args.json else None

    from instaseg_ros.checkpoint import load_checkpoint
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
