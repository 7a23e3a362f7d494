"""Tells what is installed here: versions, processor, GPU, ROS distribution."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from instaseg_ros import __version__
from instaseg_ros.processor import processor_name

PACKAGES = ("torch", "openvino", "onnx", "onnxruntime", "tensorrt", "torch2trt")


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Versions of this package, of Python, of the packages, the processor, and the ROS
    distribution. Imports none of them if pip knows it."""
    return {
        "instaseg_ros": __version__,
        "python": platform.python_version(),
        "cpu": f"{processor_name()}, {os.cpu_count()} threads",
        **{package: _version(package) for package in packages},
        "ros": _ros(),
    }


def gpu() -> str:
    """The first GPU that torch sees; imports torch."""
    import torch

    if not torch.cuda.is_available():
        return "none that torch sees"
    found = torch.cuda.get_device_properties(0)
    return f"{found.name}, compute capability {found.major}.{found.minor}"


def _ros() -> str:
    """The distribution on which a node would run here, or why there is none."""
    sourced = os.environ.get("ROS_DISTRO")
    if importlib.util.find_spec("rclpy"):
        wheels = (d.metadata["Name"] or "" for d in importlib.metadata.distributions())
        names = [re.fullmatch("ros-([a-z]+)-rclpy", name) for name in wheels]
        from_pip = [f"{name[1]}, from pip" for name in names if name]
        return (from_pip or [sourced or "rclpy of an unnamed distribution"])[0]
    if sourced:
        return f"{sourced} is sourced, but this Python finds no rclpy"
    installed = ", ".join(sorted(path.name for path in Path("/opt/ros").glob("*")))
    return f"not sourced; installed: {installed}" if installed else "none"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        pass
    if importlib.util.find_spec(package) is None:
        return "not installed"
    try:  # JetPack's packages have no pip metadata
        return str(getattr(import_module(package), "__version__", "of unknown version"))
    except Exception as error:
        return f"installed, but cannot be imported ({error})"
