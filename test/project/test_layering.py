"""Only `ros` imports ROS. The direction of imports is checked by import-linter (pyproject.toml)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "instaseg_ros").rglob("*.py"))

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
