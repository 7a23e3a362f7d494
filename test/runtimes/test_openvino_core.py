"""OpenVINO leaves the process as it was."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("openvino")

ENDED_IN_ORDER = """
import gc, os, signal
import numpy as np
from small_networks import untrained_checkpoint
from instaseg_ros.config import RuntimeConfig
from instaseg_ros.runtimes.openvino_runtime import OpenVinoRuntime

signal.signal(signal.SIGINT, lambda *_: print("survived"))
runtimes = []
for _ in range(2):
    runtimes.append(OpenVinoRuntime(RuntimeConfig(threads=1), untrained_checkpoint()))
    runtimes[-1](np.zeros((1, 32, 64, 3), np.uint8))
while runtimes:
    del runtimes[0]
    gc.collect()
os.kill(os.getpid(), signal.SIGINT)
"""


def test_signals_are_survived_after_two_runtimes_ended() -> None:
    """In the order in which they were made, in which two Cores take the thread's stack away."""
    command = [sys.executable, "-c", ENDED_IN_ORDER]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert (done.returncode, done.stdout) == (0, "survived\n"), done.stderr
