"""Instance segmentation by learned clustering, with or without ROS 2.

One image, an (H, W, 3) uint8 array in RGB:

>>> from instaseg_ros import Frame, Pipeline, load_config
>>> pipeline = Pipeline(load_config(weights="street-synthetic"))
>>> (result,) = pipeline.process([Frame(image)])
>>> result.instances.labels.shape == image.shape[:2]
True

A recording, a video or a folder of images, as `instaseg replay` labels it:

>>> from instaseg_ros import open_sink, open_source, replay
>>> sink = open_sink("labels.mcap", pipeline.class_names, pipeline.config)
>>> replay(open_source("drive.mcap"), pipeline, [sink]).labelled
2

A dataset, for the numbers of `instaseg evaluate`:

>>> from instaseg_ros import evaluate, open_dataset, summary_of
>>> numbers = summary_of(evaluate(pipeline, open_dataset("synthetic", "val"), indices=[0, 1]))
>>> 0 <= numbers["ap"] <= 1
True
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from instaseg_ros.config import Config
    from instaseg_ros.configure import load_config
    from instaseg_ros.datasets import open_dataset
    from instaseg_ros.evaluation.run import evaluate, summary_of
    from instaseg_ros.frames import Frame, Instances, Result
    from instaseg_ros.pipeline import Pipeline
    from instaseg_ros.recordings.replay import replay
    from instaseg_ros.recordings.sinks import open_sink
    from instaseg_ros.recordings.sources import open_source

__all__ = [
    "Config",
    "Frame",
    "Instances",
    "Pipeline",
    "Result",
    "__version__",
    "evaluate",
    "load_config",
    "open_dataset",
    "open_sink",
    "open_source",
    "replay",
    "summary_of",
]

_HOME = {
    "Config": "config",
    "Frame": "frames",
    "Instances": "frames",
    "Pipeline": "pipeline",
    "Result": "frames",
    "evaluate": "evaluation.run",
    "load_config": "configure",
    "open_dataset": "datasets",
    "open_sink": "recordings.sinks",
    "open_source": "recordings.sources",
    "replay": "recordings.replay",
    "summary_of": "evaluation.run",
}

__version__: str


def __getattr__(name: str) -> Any:
    """Import a public name on first use: torch takes seconds."""
    if name == "__version__":
        return _version()
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def _version() -> str:
    """The version in package.xml: from the installed metadata, or from the source tree."""
    from importlib.metadata import PackageNotFoundError, version
    from pathlib import Path

    try:
        return version("instaseg_ros")
    except PackageNotFoundError:
        from xml.etree import ElementTree

        manifest = ElementTree.parse(Path(__file__).parents[1] / "package.xml")
        return manifest.findtext("version", default="unknown")


def _report_nothing() -> None:
    """Stop other packages from reporting about their users over the network.

    Their telemetry is on by default: OpenVINO's at `import openvino` (in a process of its own, with
    a client ID kept in the home folder), NNCF's when quantising, ONNX Runtime's in every session,
    Ray's of every cluster that it starts.
    """
    modules: dict[str, Any] = sys.modules
    # None makes the import fail, and OpenVINO and NNCF do without it.
    modules.setdefault("openvino_telemetry", None)
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


_report_nothing()
