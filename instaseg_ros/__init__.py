"""Instance segmentation by learned clustering, on ROS 2 and without."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from instaseg_ros.telemetry import switch_off

if TYPE_CHECKING:
    from instaseg_ros.config import Config
    from instaseg_ros.configure import load_config
    from instaseg_ros.frames import Frame
    from instaseg_ros.pipeline import Pipeline

__all__ = ["Config", "Frame", "Pipeline", "__version__", "load_config"]

_HOME = {"Config": "config", "Frame": "frames", "Pipeline": "pipeline", "load_config": "configure"}

__version__: str


def __getattr__(name: str) -> Any:
    """What the package offers, imported when it is asked for: torch takes seconds."""
    if name == "__version__":
        return _version()
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def _version() -> str:
    """The version of package.xml: from the installed metadata, or from the source tree."""
    from importlib.metadata import PackageNotFoundError, version
    from pathlib import Path

    try:
        return version("instaseg_ros")
    except PackageNotFoundError:
        from xml.etree import ElementTree

        manifest = ElementTree.parse(Path(__file__).parents[1] / "package.xml")
        return manifest.findtext("version", default="unknown")


switch_off()
