"""What package.xml, setup.py and the pins say, and that they say it together."""

from __future__ import annotations

import ast
import os
import sys
from pathlib import Path

import pytest
from catkin_pkg.package import Package, parse_package_string
from packaging.requirements import Requirement
from packaging.version import Version
from setup_file import setup_arguments

import instaseg_ros

ROOT = Path(__file__).parents[2]
PINS = ROOT / "tools" / "constraints"
SOURCES = sorted((ROOT / "instaseg_ros").rglob("*.py"))
PYTHONS = ("3.10", "3.11", "3.12", "3.13")

# What is imported under another name than pip's.
DISTRIBUTIONS = {
    "cv2": "opencv-python-headless",
    "pynvml": "nvidia-ml-py",
    "yaml": "pyyaml",
    "rerun": "rerun-sdk",
}
# What is imported under another name than its ROS package's.
ROS_PACKAGES = {"tf2_ros": "tf2_ros_py"}
# What torch brings itself.
BROUGHT_BY_TORCH = {"triton"}
# What is on no package index.
FROM_ITS_MAKER = {"torch2trt"}
# Extras that are not in the environment, since they need a GPU.
ELSEWHERE = {"tensorrt"}
# What `make lowest` leaves out: nncf wants a newer tabulate than Humble has, rerun-sdk a newer
# NumPy; the tests that start Ray are slow ones, and the server of the one that uses s3fs is not
# there.
NOT_AT_ITS_LOWEST = {"nncf", "ray", "rerun-sdk", "s3fs"}
# What rosdep calls the Python packages; safetensors has no key.
ROSDEP_KEYS = {
    "lz4": "mcap-ros2-support",
    "mcap": "mcap-ros2-support",
    "numba": "python3-numba",
    "numpy": "python3-numpy",
    "opencv-python-headless": "python3-opencv",
    "pyyaml": "python3-yaml",
    "rosbags": "python3-rosbags-pip",
    "scipy": "python3-scipy",
    "tabulate": "python3-tabulate",
    "torch": "python3-torch",
    "tqdm": "python3-tqdm",
    "zstandard": "mcap-ros2-support",
}


def manifest() -> Package:
    """package.xml, refused unless it is valid; warnings are errors."""
    warnings: list[str] = []
    text = (ROOT / "package.xml").read_text(encoding="utf-8")
    package = parse_package_string(text, str(ROOT / "package.xml"), warnings)
    package.validate(warnings)
    assert not warnings
    return package


def required(*extras: str) -> list[Requirement]:
    lines = list(setup_arguments()["install_requires"])
    lines += [line for extra in extras for line in setup_arguments()["extras_require"][extra]]
    return [Requirement(line) for line in lines]


def pins(name: str) -> list[Requirement]:
    lines = (PINS / name).read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def key(name: str) -> str:
    return name.lower().replace("_", "-")


def test_the_version_stands_in_package_xml_only() -> None:
    version = manifest().version
    assert setup_arguments()["version"] == version == instaseg_ros.__version__
    for path in (ROOT / "setup.py", ROOT / "setup.cfg", ROOT / "pyproject.toml", *SOURCES):
        assert version not in path.read_text(encoding="utf-8"), path


def test_manifest_and_setup_agree() -> None:
    package = manifest()
    assert package.package_format == 3
    assert package.get_build_type() == "ament_python"
    assert setup_arguments()["name"] == package.name
    assert (ROOT / "resource" / package.name).is_file()
    said = setup_arguments()
    expression = said.get("license_expression") or said["license"]
    assert expression == " AND ".join(str(licence) for licence in package.licenses)
    assert said["license_files"] == [licence.file for licence in package.licenses]
    assert "non-commercial" in expression
    licence = (ROOT / package.licenses[0].file).read_text(encoding="utf-8")
    assert "Apache License" in licence
    assert "END OF TERMS AND CONDITIONS" in licence


def test_what_is_imported_is_declared() -> None:
    """To pip in setup.py, to rosdep in package.xml."""
    imported = {name: path for path in SOURCES for name in third_party(path)}
    to_pip = {
        key(r.name) for r in required(*set(setup_arguments()["extras_require"]) - {"docs", "test"})
    }
    to_rosdep = {dependency.name for dependency in manifest().exec_depends}
    without_extras = {key(r.name) for r in required("pip")}
    for name, path in imported.items():
        distribution = DISTRIBUTIONS.get(name, key(name))
        in_ros = ROS_PACKAGES.get(name, name) in to_rosdep
        if "ros" in path.relative_to(ROOT).parts and in_ros:
            continue
        assert distribution in to_pip | BROUGHT_BY_TORCH | FROM_ITS_MAKER, f"{path} imports {name}"
        if distribution in without_extras - {"safetensors"}:
            assert ROSDEP_KEYS[distribution] in to_rosdep


def third_party(path: Path) -> set[str]:
    """Top names of what the file imports from outside the standard library and the package."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names - sys.stdlib_module_names - {"instaseg_ros"}


def test_pip_brings_nothing_that_a_robot_has_from_elsewhere() -> None:
    names = {key(requirement.name) for requirement in required()}
    assert names == {"numpy", "pyyaml", "safetensors", "tabulate", "tqdm"}


@pytest.mark.parametrize("python", PYTHONS)
def test_every_requirement_is_pinned_once_and_in_bounds(python: str) -> None:
    versions = {"python_version": python, "python_full_version": f"{python}.0"}
    pinned: dict[str, Requirement] = {}
    for pin in pins("python.txt"):
        assert [part.operator for part in pin.specifier] == ["=="], pin
        if pin.marker is None or pin.marker.evaluate(versions):
            assert key(pin.name) not in pinned, pin
            pinned[key(pin.name)] = pin
    in_environment = set(setup_arguments()["extras_require"]) - ELSEWHERE
    for requirement in required(*in_environment):
        version = next(iter(pinned[key(requirement.name)].specifier)).version
        assert requirement.specifier.contains(version), requirement


def test_the_lowest_promise_is_what_make_lowest_installs() -> None:
    """lowest.txt has the first version, or a later one of the same series, for each bound."""
    lowest = {key(pin.name): pin for pin in pins("lowest.txt")}
    tools = {key(r.name) for r in required("docs", "test")} - {
        "pytest",
        "pytest-xdist",
        "hypothesis",
    }
    for requirement in required(*set(setup_arguments()["extras_require"]) - ELSEWHERE):
        if key(requirement.name) in NOT_AT_ITS_LOWEST | tools:
            continue
        version = Version(next(iter(lowest[key(requirement.name)].specifier)).version)
        bounds = [Version(s.version) for s in requirement.specifier if s.operator == ">="]
        assert requirement.specifier.contains(version), requirement
        for bound in bounds:
            assert version.release[: len(bound.release)] == bound.release, (requirement, version)


@pytest.mark.parametrize("distro", ["jazzy", "kilted"])
def test_ros_pins_are_of_one_distribution(distro: str) -> None:
    names = [pin.name for pin in pins(f"{distro}.txt")]
    assert len(names) == len(set(names))
    assert f"ros-{distro}-rclpy" in names
    other = {"jazzy": "kilted", "kilted": "jazzy"}[distro]
    assert not [name for name in names if name.startswith(f"ros-{other}-")]
    assert all(name.startswith("ros-") for name in names)


def test_nothing_that_python_3_10_cannot_define() -> None:
    """A named tuple with a further base: an error at import there, which mypy does not see."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                bases = [ast.unparse(base).rpartition(".")[2] for base in node.bases]
                assert "NamedTuple" not in bases or len(bases) == 1, f"{path}: {node.name}"


def test_every_folder_of_code_is_a_package() -> None:
    packages = {package.replace(".", "/") for package in setup_arguments()["packages"]}
    folders = {path.parent.relative_to(ROOT).as_posix() for path in SOURCES}
    assert folders == packages


def test_executables_are_declared_and_there() -> None:
    for line in setup_arguments()["entry_points"]["console_scripts"]:
        module, function = line.split(" = ")[1].split(":")
        path = ROOT / module.replace(".", "/")
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_only_pip_gets_the_launcher() -> None:
    """colcon puts the executable itself into lib/instaseg_ros."""
    launcher = ("lib/instaseg_ros", ["resource/instaseg_node"])
    assert launcher in setup_arguments("bdist_wheel")["data_files"]
    assert launcher not in setup_arguments("install")["data_files"]
    assert os.access(ROOT / "resource" / "instaseg_node", os.X_OK)


def test_ci_runs_what_developers_run() -> None:
    program = ROOT / ".ci" / "run"
    assert os.access(program, os.X_OK)
    assert "make test slow --no-print-directory" in program.read_text(encoding="utf-8")
