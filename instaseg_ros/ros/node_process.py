"""Starts the node in a process of its own, for commands that talk to it over DDS."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

START_PATIENCE_S = 180.0  # first start on a machine: kernels are compiled


def stay_alone() -> None:
    """Choose a ROS domain on this machine alone, unless the environment names one."""
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.setdefault("ROS_DOMAIN_ID", str(random.randint(1, 100)))


@contextmanager
def node_process(*ros_arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """The node in its own process, started active; ended as by Ctrl-C.

    ros_arguments: what follows --ros-args, such as "-p", "decode.min_pixels:=64".
    """
    start = [sys.executable, "-m", "instaseg_ros.ros.node", "--ros-args"]
    process = subprocess.Popen([*start, *ros_arguments, "-p", "node.autostart:=true"])
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
