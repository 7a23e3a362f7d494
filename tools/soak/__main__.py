"""Command line of a soak; see docs/soak.md."""

from __future__ import annotations

import argparse
import math
import os
import platform
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import rclpy
from rclpy.signals import SignalHandlerOptions

from soak.conductor import Conductor
from soak.faults import GOOD
from soak.images import MAX_PIXELS
from soak.journal import BROKEN, Journal
from soak.rig import BrokenPromiseError, Rig, environment

WRITTEN = ("about.json", "samples.jsonl", "events.jsonl", "published.bin", "soak.html", "soak.json")
LOGS = ("node.log", "cameras.log")

CAMERAS = ("front", "left", "right")
OVERLOADING = tuple(f"camera_{n}" for n in range(8))
PAGE_EVERY_S = 60.0
HASTE = 0.3  # of the time of faults, where each comes once


def main() -> None:
    options = parse()
    environment()
    clear(options.out)
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    names = OVERLOADING if options.overload else CAMERAS
    rig = Rig(names, options.size, options.rate, options.out)
    journal = Journal(options.out, about(options, names))
    try:
        conduct(rig, journal, options)
    except BrokenPromiseError as broken:
        rig.found.append(str(broken))
    except KeyboardInterrupt:
        journal.event("interrupted")
    finally:
        rig.close()
        for said in rig.found:
            journal.event(BROKEN, said)
        rclpy.try_shutdown()
    sys.exit(subprocess.run(page(options)).returncode)


def clear(folder: Path) -> None:
    """Make the folder, and remove what an earlier soak has written there, and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*WRITTEN, *LOGS):
        (folder / name).unlink(missing_ok=True)


def conduct(rig: Rig, journal: Journal, options: argparse.Namespace) -> None:
    dice, pace = random.Random(options.seed), HASTE if options.each_once else 1.0
    conductor = Conductor(rig, journal, dice, pace)
    conductor.start(parameters(options))
    if not options.overload:
        conductor.warm_up()
    end_s, drawing = time.monotonic() + options.seconds, None
    while True:
        until_s = min(end_s, time.monotonic() + PAGE_EVERY_S)
        if options.each_once:
            conductor.each_once()
        elif options.overload:
            conductor.watch(until_s)
        else:
            conductor.soak(until_s)
        if options.each_once or time.monotonic() >= end_s:
            break
        if drawing is None or drawing.poll() is not None:
            gently = ["nice", "-n", "10", *page(options)]
            drawing = subprocess.Popen(gently, stdout=subprocess.DEVNULL)
    conductor.finish()
    if drawing is not None:
        drawing.wait()
    journal.about["complete"] = True
    journal.write_about()


def parameters(options: argparse.Namespace) -> list[str]:
    """The node's, as name:=value."""
    usual = {name: value for name, (_, value) in GOOD.items()}
    values: dict[str, Any] = {
        "node.autostart": True,
        "weights": options.weights,
        "input.max_pixels": round(MAX_PIXELS * math.prod(options.size)),
        "input.min_height": 0,  # the network sees the images as they are
        **usual,
    }
    given = [f"{k}:={str(v).lower() if isinstance(v, bool) else v}" for k, v in values.items()]
    return [*given, *options.parameter]


def about(options: argparse.Namespace, names: tuple[str, ...]) -> dict[str, Any]:
    return {
        "kind": "overload" if options.overload else "soak",
        "distribution": os.environ.get("ROS_DISTRO", ""),
        "began": time.strftime("%Y-%m-%d %H:%M:%S"),
        "machine": f"{platform.machine()}, {os.cpu_count()} processors",
        "cameras": len(names),
        "size": "{} x {}".format(*options.size),
        "rate_hz": options.rate,
        "seconds": options.seconds,
        "seed": options.seed,
        "weights": options.weights,
        "parameters": options.parameter,
        "complete": False,
    }


def page(options: argparse.Namespace) -> list[str]:
    """The command that makes the page, and fails if a promise was broken. It is a process of its
    own, as it may need another Python."""
    return [options.page_python, "-m", "soak.page", str(options.out)]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=7200.0)
    parser.add_argument("--overload", action="store_true", help="eight cameras, no faults")
    parser.add_argument("--each-once", action="store_true", help="every fault once, then end")
    parser.add_argument("--seed", type=int, default=None, help="of the faults; default: another")
    parser.add_argument("--rate", type=float, default=10.0, help="images per second and camera")
    parser.add_argument("--size", default="128x256", help="height x width of the images")
    parser.add_argument("--weights", default="street-synthetic-lite")
    parser.add_argument("-p", "--parameter", action="append", default=[], help="name:=value")
    parser.add_argument("--out", type=Path, default=Path("runs/soak"), help="folder of the page")
    parser.add_argument(
        "--page-python", default=sys.executable, help="a Python that has jinja2 and matplotlib"
    )
    options = parser.parse_args()
    options.size = tuple(map(int, options.size.split("x")))
    if options.seed is None:
        options.seed = random.randrange(2**31)
    return options


if __name__ == "__main__":
    main()
