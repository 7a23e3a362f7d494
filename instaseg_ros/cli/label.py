"""`instaseg label SOURCE -o DATASET`: label frames by clicking, on a page in the browser."""

from __future__ import annotations

import argparse
import contextlib
import signal
import webbrowser
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from instaseg_ros.cli import add_config_options, config_from
from instaseg_ros.errors import ConfigError, require

if TYPE_CHECKING:
    from instaseg_ros.pipeline import Pipeline

EXAMPLES = """
instaseg label frames/ -o mine/                     # a folder, a video or a recording
instaseg label drive.mcap -o mine/ --every 10       # each tenth frame of it
instaseg label drive.json                           # label images or COCO, in place
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="recording, video or folder of images; a dataset, whose masks are then corrected",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="DATASET",
        type=Path,
        help="folder for the labelled frames, as label images and COCO; without it, SOURCE is "
        "label images or COCO and corrected in place",
    )
    parser.add_argument("--topic", help="image topic, for a recording that has several")
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="only each N-th frame of a recording"
    )
    parser.add_argument(
        "--classes",
        metavar="NAME,NAME",
        help="classes of a new dataset (default: those of the weights); more can be added while "
        "labelling",
    )
    parser.add_argument("--port", type=int, default=0, help="of the page (default: a free one)")
    parser.add_argument("--no-browser", action="store_true", help="only print the page's address")
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C; 0 if everything is saved."""
    if args.every < 1:
        raise ConfigError(f"--every: expected at least 1, got {args.every}")
    if not 0 <= args.port < 1 << 16:
        raise ConfigError(f"--port: expected 0 to 65535, got {args.port}")
    for package in ("starlette", "uvicorn", "pycocotools"):
        require(package, "label", "instaseg label")
    config = config_from(args)
    config = replace(config, tracking=replace(config.tracking, enabled=False))

    from instaseg_ros.checkpoint import describe
    from instaseg_ros.labelling.frames import open_frames
    from instaseg_ros.labelling.network import Network
    from instaseg_ros.labelling.server import Server
    from instaseg_ros.labelling.session import Session
    from instaseg_ros.labelling.store import open_store

    in_place = args.output is None or _same(args.output, args.source)
    frames = open_frames(args.source, args.topic, args.every)
    if in_place and frames.class_names is None:
        raise ConfigError(
            f"-o: expected a folder for the labelled frames, as {args.source} is no dataset that "
            "could be corrected in place"
        )
    of_weights = describe(config.weights).class_names
    names = _classes(args.classes) or frames.class_names or of_weights
    store = open_store(args.source if in_place else args.output, names, in_place)
    session = Session(frames, store, of_weights)

    def open_pipeline() -> Pipeline:
        from instaseg_ros.pipeline import Pipeline  # takes seconds

        return Pipeline(config)

    read, count = session.frame, len(frames)
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
    try:
        server = Server(session, args.port)
        session.network = Network(open_pipeline, read, count, session.ready)
        server.start()
        print(f"{count} frames of {args.source}: {server.address}\nCtrl-C ends it", flush=True)
        if not args.no_browser:
            webbrowser.open(server.address)
        with contextlib.suppress(KeyboardInterrupt):
            server.wait()
        server.stop()
    finally:
        session.close()
    print(f"saved: {args.source if in_place else args.output}")
    return 0


def _same(one: Path, other: str) -> bool:
    return one.exists() and Path(other).exists() and one.samefile(other)


def _classes(given: str | None) -> tuple[str, ...]:
    if given is None:
        return ()
    names = tuple(dict.fromkeys(name.strip() for name in given.split(",") if name.strip()))
    if not names:
        raise ConfigError(f"--classes: expected names such as cone,pallet, got {given!r}")
    return names
