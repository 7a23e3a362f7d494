"""Instance segmentation by learned clustering, on ROS 2 and without."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from instaseg_ros.telemetry import switch_off

__all__ = ["__version__"]


def _version() -> str:
    """The version of package.xml: from the installed metadata, or from the source tree."""
    try:
        return version("instaseg_ros")
    except PackageNotFoundError:
        from xml.etree import ElementTree

        manifest = ElementTree.parse(Path(__file__).parents[1] / "package.xml")
        return manifest.findtext("version", default="unknown")


__version__ = _version()
switch_off()
