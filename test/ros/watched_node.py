"""The node with a way to hold up its configuring, to see its network's end, and to make batches
fail, as a program.

    python watched_node.py [--hold FILE] [--freed FILE] [--most N] --ros-args ...

hold: the network warms up when this file is there. freed: made when there was a session and no
other refers to it any more; Python does not look for unreachable objects on its own. most: once it
is configured, the network fails for more images than this at once, as it would without memory.
"""

from __future__ import annotations

import argparse
import gc
import threading
import time
import weakref
from pathlib import Path
from typing import Any

from instaseg_ros.ros.node import main

POLL_S = 0.05


def wait_for(file: Path) -> None:
    from instaseg_ros.pipeline import Pipeline

    warm_up = Pipeline.warm_up

    def held_up(pipeline: Pipeline, *batches: Any) -> bool:
        while not file.exists():
            time.sleep(POLL_S)
        return warm_up(pipeline, *batches)

    Pipeline.warm_up = held_up  # type: ignore[method-assign]


def report_freed(file: Path) -> None:
    from instaseg_ros.ros.session import Session

    gc.disable()
    made: list[weakref.ref[Session]] = []
    build = Session.__init__

    def watched(session: Session, *args: Any) -> None:
        made.append(weakref.ref(session))
        build(session, *args)

    def watch() -> None:
        while not made or any(session() is not None for session in made):
            time.sleep(POLL_S)
        file.touch()

    Session.__init__ = watched  # type: ignore[method-assign]
    threading.Thread(target=watch, daemon=True).start()


def refuse_more_than(most: int) -> None:
    from instaseg_ros.pipeline import Pipeline
    from instaseg_ros.ros.session import Session

    infer, start = Pipeline.infer, Session.start

    def refusing(pipeline: Pipeline, frames: Any) -> Any:
        if len(frames) > most:
            raise RuntimeError(f"no memory for {len(frames)} images")
        return infer(pipeline, frames)

    def started(session: Session) -> None:
        Pipeline.infer = refusing  # type: ignore[method-assign]
        start(session)

    Session.start = started  # type: ignore[method-assign]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--hold", type=Path)
    parser.add_argument("--freed", type=Path)
    parser.add_argument("--most", type=int)
    options, ros_arguments = parser.parse_known_args()
    if options.hold:
        wait_for(options.hold)
    if options.freed:
        report_freed(options.freed)
    if options.most:
        refuse_more_than(options.most)
    main(["node", *ros_arguments])
