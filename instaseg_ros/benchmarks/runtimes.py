"""Every runtime and precision of this machine."""

from __future__ import annotations

import dataclasses

from instaseg_ros.checkpoint import Checkpoint
from instaseg_ros.config import Config, parameters
from instaseg_ros.errors import InstasegError
from instaseg_ros.runtimes import RUNTIMES, Runtime, open_runtime


def available(config: Config, checkpoint: Checkpoint) -> tuple[dict[str, Runtime], dict[str, str]]:
    """Runtimes that open here by `name precision`, and why the others do not."""
    choices = next(p.choices for p in parameters(config) if p.name == "runtime.precision")
    runtimes, refused = {}, {}
    for name in RUNTIMES:
        for precision in [choice for choice in choices or () if choice != "auto"]:
            wanted = dataclasses.replace(config.runtime, name=name, precision=precision)
            try:
                runtimes[f"{name} {precision}"] = open_runtime(wanted, checkpoint)
            except InstasegError as error:
                refused[f"{name} {precision}"] = str(error)
    return runtimes, refused
