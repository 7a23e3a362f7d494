"""Imports point one way, ROS stays in its room, and files stay short."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "instaseg_ros").rglob("*.py"))

# A module or folder of instaseg_ros imports from its own floor and from those below it.
FLOORS = (
    {"errors", "frames", "tables", "threads", "telemetry", "__version__"},
    {"config", "files", "model", "samples", "visualization"},
    {"numba_cache", "recordings", "tracking"},
    {"cameras", "clustering", "preprocess", "synthetic_street"},
    {"datasets", "methods"},
    {"checkpoint"},
    {"configure", "runtimes"},
    {"pipeline"},
    {"evaluation"},
    {"training", "ros"},
    {"deploy"},
    {"benchmarks"},
    {"cli"},
)
ROS_PACKAGES = {
    "builtin_interfaces",
    "cv_bridge",
    "launch",
    "launch_ros",
    "lifecycle_msgs",
    "rcl_interfaces",
    "rclpy",
    "rosgraph_msgs",
    "sensor_msgs",
    "std_msgs",
    "diagnostic_msgs",
    "geometry_msgs",
    "vision_msgs",
    "visualization_msgs",
}


def room(path: Path) -> str:
    return path.relative_to(ROOT / "instaseg_ros").parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Dotted names of everything the file imports, at its top or inside a function."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += node.module.split(".") if node.module else []
            yield from (".".join([*base, alias.name]) for alias in node.names)


def test_imports_point_one_way() -> None:
    floor_of = {name: floor for floor, names in enumerate(FLOORS) for name in names}
    wrong = []
    for path in SOURCES:
        own = room(path)
        if own == "__init__":
            continue
        assert own in floor_of, f"{own} is new: say in FLOORS what it may import"
        for name in imports(path):
            package, *rest = name.split(".")
            if package == "instaseg_ros" and rest and floor_of[rest[0]] > floor_of[own]:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_metrics_stand_on_frames_alone() -> None:
    for path in SOURCES:
        if path.parent.name != "metrics":
            continue
        used = {name.split(".")[1] for name in imports(path) if name.startswith("instaseg_ros.")}
        assert used <= {"frames", "errors", "evaluation"}, path


def test_only_the_ros_room_imports_ros() -> None:
    found = {
        (room(path), name)
        for path in SOURCES
        for name in imports(path)
        if name.split(".")[0] in ROS_PACKAGES
    }
    assert {own for own, _ in found} == {"ros"}, sorted(found)


@pytest.mark.parametrize("module", ["pipeline", "recordings.replay", "cli"])
def test_it_imports_where_no_ros_is_installed(module: str) -> None:
    """With ROS at hand, importing does not load it, so it works without."""
    code = (
        f"import sys, instaseg_ros.{module}; "
        f"print(*set({sorted(ROS_PACKAGES)}).intersection(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_what_needs_ros_stands_in_its_folder() -> None:
    """`make test` looks for it there alone, on each distribution."""
    others = set((ROOT / "test").rglob("test_*.py")) - {Path(__file__)}
    marked = [path for path in others if "mark.ros" in path.read_text(encoding="utf-8")]
    assert marked
    assert {path.parent.name for path in marked} == {"ros"}


def test_files_are_short() -> None:
    folders = ("instaseg_ros", "launch", "test", "tools")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    long = {str(path.relative_to(ROOT)): n for path in paths if (n := line_count(path)) > 400}
    assert not long


def line_count(path: Path) -> int:
    return path.read_bytes().count(b"\n")
