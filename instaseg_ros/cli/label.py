"""`instaseg label SOURCE -o DATASET`: label frames by clicking, on a page in the browser."""

from __future__ import annotations

import argparse
import contextlib
import signal
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

from instaseg_ros.cli import add_config_options, check_number, config_from
from instaseg_ros.config import parse_assignments
from instaseg_ros.errors import ConfigError, require

if TYPE_CHECKING:
    from instaseg_ros.labelling.learning import Learner
    from instaseg_ros.labelling.session import Session
    from instaseg_ros.labelling.trial import Settings
    from instaseg_ros.pipeline import Pipeline

EXAMPLES = """
instaseg label frames/ -o mine/                     # a folder, a video or a recording
instaseg label drive.mcap -o mine/ --every 10       # each tenth frame of it
instaseg label drive.json                           # label images or COCO, in place
instaseg label frames/ -o mine/ --learn             # proposals become better on the way
"""
LEARN_MINUTES = 4.0


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
    parser.add_argument(
        "--learn",
        action="store_true",
        help="train after every five labelled frames, in the background, and use the new weights "
        "if they are better on the newest frames, which are held out",
    )
    parser.add_argument(
        "--learn-minutes",
        type=float,
        metavar="MIN",
        help=f"time of each training, on this machine (default: {LEARN_MINUTES})",
    )
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C; 0 if everything is saved."""
    if args.every < 1:
        raise ConfigError(f"--every: expected at least 1, got {args.every}")
    if not 0 <= args.port < 1 << 16:
        raise ConfigError(f"--port: expected 0 to 65535, got {args.port}")
    check_number("learn-minutes", args.learn_minutes, positive=True)
    if args.learn_minutes and not args.learn:
        raise ConfigError("--learn-minutes: expected --learn too")
    for package in ("starlette", "uvicorn", "pycocotools"):
        require(package, "label", "instaseg label")
    given = config_from(args).weights
    if args.learn:
        _check_method(given)

    from instaseg_ros.checkpoint import describe
    from instaseg_ros.labelling.frames import open_frames
    from instaseg_ros.labelling.network import Network
    from instaseg_ros.labelling.server import Server
    from instaseg_ros.labelling.session import Session
    from instaseg_ros.labelling.store import open_store
    from instaseg_ros.labelling.trial import Settings

    in_place = args.output is None or _same(args.output, args.source)
    frames = open_frames(args.source, args.topic, args.every)
    if in_place and frames.class_names is None:
        raise ConfigError(
            f"-o: expected a folder for the labelled frames, as {args.source} is no dataset that "
            "could be corrected in place"
        )
    names = _classes(args.classes) or frames.class_names or describe(given).class_names
    settings = Settings(
        str(Path(given).resolve()) if Path(given).suffix else given,
        60 * (args.learn_minutes or LEARN_MINUTES),
        config_file=args.config and str(Path(args.config).resolve()),
        overrides=parse_assignments(args.set),
    )
    store = open_store(args.source if in_place else args.output, names, in_place)
    session = Session(frames, store)

    def opened(weights: str) -> Pipeline:
        from instaseg_ros.pipeline import Pipeline  # takes seconds

        return Pipeline(settings.config(weights))

    read, count = session.frame, len(frames)
    # Not as SIGINT: that is ignored where a script has put the command into the background.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        learner = _learner(settings, session) if args.learn else None
        weights = learner.weights if learner else given
        server = Server(session, args.port)
        network = Network(lambda: opened(weights), read, count, session.ready)
        session.network, session.learning = network, learner
        if learner:
            learner.start(lambda weights: network.renew(opened(weights)))
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
    if learner and learner.weights != settings.start:
        print(f"learned: {learner.weights}")
    return 0


def _check_method(weights: str) -> None:
    """Raises ConfigError for weights of a method that is not trained here."""
    from instaseg_ros.checkpoint import describe
    from instaseg_ros.config import load
    from instaseg_ros.config.recipes import recipe
    from instaseg_ros.labelling.trial import RECIPE

    trained, method = load(recipe(RECIPE)).method.name, describe(weights).method_name
    if method != trained:
        raise ConfigError(
            f"--learn: expected weights for {trained}, got {weights} for {method}: choose others "
            "(--weights), or leave --learn out"
        )


def _learner(settings: Settings, session: Session) -> Learner:
    """Raises ConfigError for a dataset that it cannot learn from."""
    from instaseg_ros.labelling.label_image_store import LabelImageStore
    from instaseg_ros.labelling.learning import Learner

    if not isinstance(session.store, LabelImageStore):
        raise ConfigError(
            "--learn: expected label images, got COCO that is corrected in place: give -o with a "
            "new folder"
        )
    return Learner(session.store, settings, session.unfinished)


def _same(one: Path, other: str) -> bool:
    return one.exists() and Path(other).exists() and one.samefile(other)


def _classes(given: str | None) -> tuple[str, ...]:
    if given is None:
        return ()
    names = tuple(dict.fromkeys(name.strip() for name in given.split(",") if name.strip()))
    if not names:
        raise ConfigError(f"--classes: expected names such as cone,pallet, got {given!r}")
    return names
