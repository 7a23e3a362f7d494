"""The executable `instaseg_node`: runs the node from its start to SIGINT or SIGTERM.

Imports are where they are used: signals work before the imports, which take a second, and errors in
them are reported in a sentence.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from instaseg_ros import __version__
from instaseg_ros.errors import ConfigError, InstasegError
from instaseg_ros.ros.memory import share_arenas

if TYPE_CHECKING:
    from instaseg_ros.ros.managed_node import InstasegNode

SIGNAL_POLL_S = 0.2
IMAGE_PATIENCE_S = 0.8  # for the image in work when the process is asked to end
EXIT_DEADLINE_S = 2.0  # when it is told to end while it imports or compiles
# Whole numbers in the environment, at which a library would end the process in its own words.
NUMBERS = {"ROS_DOMAIN_ID": (0, 232), "NUMBA_NUM_THREADS": (1, 65536)}
SOURCE_LINE = re.compile(r",? at /\S+\.c(pp)?:\d+")  # in the middleware's error messages


def main(args: list[str] | None = None) -> None:
    """Run the node until SIGINT or SIGTERM, then end the process."""
    try:
        exit_code = run(args)
    except Exception:  # a fault of ours
        traceback.print_exc()
        exit_code = 1
    # Everything is released. The interpreter's own shutdown takes seconds with torch and OpenVINO
    # loaded, and aborts if a network, which cannot be interrupted, is still running in its thread.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def run(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; returns the exit code: 1 if it cannot start."""
    _answer_questions(sys.argv[1:] if args is None else args)
    stopping = _stop_on_signals()
    share_arenas()
    try:
        _check_environment()
        _start_ros(args)
        return 0 if _serve(stopping) else 1
    except InstasegError as error:
        print(f"instaseg_node: {error}", file=sys.stderr)
        return 1


def _answer_questions(args: Sequence[str]) -> None:
    """Print help or the version, and end, if that is asked for; ROS reads what is after
    --ros-args."""
    parser = argparse.ArgumentParser(
        prog="instaseg_node",
        usage="%(prog)s [-h] [--version] [--ros-args ...]",
        description="A lifecycle node that labels camera images; inactive until it is configured "
        "and activated, as instaseg.launch.py does.",
        epilog="example: ros2 launch instaseg_ros instaseg.launch.py image:=/camera/image_raw",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"instaseg_ros {__version__}")
    parser.parse_known_args(list(takewhile(lambda word: word != "--ros-args", args)))


def _check_environment() -> None:
    for name, (low, high) in NUMBERS.items():
        text = os.environ.get(name, "")
        if text and not (text.isdecimal() and low <= int(text) <= high):
            raise ConfigError(
                f"{name}: expected a whole number from {low} to {high}, got '{text}'; "
                "correct it, or unset it in the environment"
            )


def _start_ros(args: list[str] | None) -> None:
    """Initialise ROS with the command line. Raises ConfigError with ROS's reason."""
    try:
        import rclpy
        from rclpy.signals import SignalHandlerOptions

        from instaseg_ros.ros import managed_node  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"ROS 2 cannot be imported: {error}; source its set-up first, such as "
            "/opt/ros/jazzy/setup.bash, and install what package.xml names (rosdep install)"
        ) from error
    try:
        # rclpy's own handlers would invalidate the context while the worker uses it.
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except Exception as error:  # of many kinds, each about something given from outside
        reason = _reason(error)
        if "params file" in reason:
            reason += (
                ". Expected the form of config/instaseg.yaml: '/**:' or the node's name, below it "
                "'ros__parameters:', below that at least one parameter"
            )
        elif reason.startswith("["):
            reason = f"unknown arguments {reason}"
        raise ConfigError(f"ROS cannot start: {reason}") from error


def _reason(error: Exception) -> str:
    """The middleware's message without its source lines; where security is on, with a hint."""
    reason = " ".join(SOURCE_LINE.sub("", str(error)).split())
    if os.environ.get("ROS_SECURITY_ENABLE", "").lower() == "true":
        reason += ". ROS_SECURITY_ENABLE is set: see docs/security.md, or unset it"
    return reason


def _make_node() -> InstasegNode:
    """Raises ConfigError with the middleware's reason, such as keys that it misses."""
    from rclpy.impl.implementation_singleton import rclpy_implementation

    from instaseg_ros.ros.managed_node import InstasegNode

    try:
        return InstasegNode()
    except rclpy_implementation.RCLError as error:
        raise ConfigError(f"ROS cannot create the node: {_reason(error)}") from error


def _serve(stopping: threading.Event) -> bool:
    """Work until `stopping` is set; False if autostart fails."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    node = None
    try:
        node = _make_node()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        starts = node.config.node.autostart and not stopping.is_set()
        starting = executor.create_task(node.start) if starts else None
        while not stopping.is_set() and rclpy.ok():
            executor.spin_once(timeout_sec=SIGNAL_POLL_S)
            if starting is not None and starting.done() and not starting.result():
                return False
        return True
    finally:
        if node is not None:
            node.release(IMAGE_PATIENCE_S)
            node.destroy_node()
        rclpy.try_shutdown()


def _stop_on_signals() -> threading.Event:
    """An event that SIGINT or SIGTERM sets; the process then ends within EXIT_DEADLINE_S, whatever
    it is doing."""
    stopping = threading.Event()

    def stop(number: int, frame: Any) -> None:
        if not stopping.is_set():
            stopping.set()
            deadline = threading.Timer(EXIT_DEADLINE_S, os._exit, (0,))
            deadline.daemon = True
            deadline.start()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    return stopping


if __name__ == "__main__":
    main()
