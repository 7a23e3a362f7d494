"""The tree as colcon builds it and as pip installs it: everything is there, and the node starts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.ros

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120.0  # only bounds a test on a busy machine
DOMAIN = 101

# What the wheels' start-up leaves for children of the same Python; ours start afresh.
INHERITED = ("PYTHONPATH", "AMENT_PREFIX_PATH", "LD_LIBRARY_PATH", "_ROS_WHEELS_BOOTSTRAP_COMPLETE")


def clean_environment(**changes: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in INHERITED}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    return {**kept, "PATH": path, "PYTHONDONTWRITEBYTECODE": "1", **changes}


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=clean_environment(**environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of everything that git does not ignore."""
    copy = tmp_path_factory.mktemp("ws") / "src" / "instaseg_ros"
    listing = run("git", "ls-files", "-z", "-co", "--exclude-standard", cwd=ROOT)
    for name in filter(None, listing.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module", params=["colcon", "colcon --symlink-install", "pip"])
def prefix(
    request: pytest.FixtureRequest, source: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Where the package was installed, by one of the three ways."""
    place = tmp_path_factory.mktemp("place")
    tool, *options = request.param.split()
    if tool == "pip":
        pip = (sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation")
        # A build leaves files in its source tree.
        tree = shutil.copytree(source, place / "tree")
        run(*pip, "--ignore-installed", "--prefix", place / "prefix", tree, cwd=place)
        return place / "prefix"
    run(
        *("colcon", "--log-base", place / "log", "build", *options),
        *("--base-paths", source, "--build-base", place / "build"),
        *("--install-base", place / "install"),
        cwd=place,
        COLCON_HOME=str(place),
        AMENT_PREFIX_PATH=sys.prefix,
    )
    return place / "install" / "instaseg_ros"


@pytest.fixture(scope="module")
def python_path(prefix: Path) -> str:
    """What a sourced workspace adds to PYTHONPATH."""
    setup = prefix.parent / "setup.sh"
    if setup.exists():
        return run("sh", "-c", f". {setup} && printf %s $PYTHONPATH", cwd=prefix)
    [site] = prefix.glob("lib/python*/site-packages")
    return str(site)


def test_share_is_complete(prefix: Path) -> None:
    share = prefix / "share" / "instaseg_ros"
    assert (prefix / "share/ament_index/resource_index/packages/instaseg_ros").exists()
    assert (share / "package.xml").read_bytes() == (ROOT / "package.xml").read_bytes()
    for folder, pattern in (("launch", "*.py"), ("config", "*.*"), ("config/train", "*.yaml")):
        for path in (ROOT / folder).glob(pattern):
            assert (share / folder / path.name).read_bytes() == path.read_bytes(), path


def test_code_and_data_are_complete(prefix: Path, python_path: str, source: Path) -> None:
    """The installed package is imported, not the checkout's, and it lacks no file."""
    script = "import instaseg_ros as i; print(i.__path__[0])"
    output = run(sys.executable, "-c", script, cwd=prefix, PYTHONPATH=python_path)
    installed = Path(output.strip())
    assert not installed.is_relative_to(ROOT)
    for path in (source / "instaseg_ros").rglob("*"):
        assert (installed / path.relative_to(source / "instaseg_ros")).exists(), path


def ros2_run(prefix: Path) -> Path:
    """What `ros2 run` starts: an executable in lib/<package> of the prefix that the index names."""
    from ament_index_python.packages import get_package_prefix

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AMENT_PREFIX_PATH", str(prefix))
        executable = Path(get_package_prefix("instaseg_ros"), "lib/instaseg_ros/instaseg_node")
    assert os.access(executable, os.X_OK)
    return executable


def test_ros2_run_finds_the_node_in_the_environment() -> None:
    ros2_run(Path(sys.prefix))
    share = Path(sys.prefix, "share/instaseg_ros")
    assert (share / "package.xml").samefile(ROOT / "package.xml")
    assert (share / "launch").samefile(ROOT / "launch")


def test_ros2_run_finds_the_node_and_it_starts(prefix: Path, python_path: str) -> None:
    executable = ros2_run(prefix)
    name = f"built_{os.getpid()}"
    environment = clean_environment(PYTHONPATH=python_path, ROS_DOMAIN_ID=str(DOMAIN))
    options = ("--ros-args", "-r", f"__node:={name}", "-p", "node.autostart:=false")
    with subprocess.Popen([executable, *options], cwd=prefix, env=environment) as node:
        try:
            wait_for_node(name, node)
            node.send_signal(signal.SIGINT)
            assert node.wait(PATIENCE_S) == 0
        finally:
            node.kill()


def wait_for_node(name: str, process: subprocess.Popen[bytes]) -> None:
    import rclpy

    context = rclpy.Context()
    rclpy.init(context=context, domain_id=DOMAIN)
    observer = rclpy.create_node(f"{name}_observer", context=context)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while name not in observer.get_node_names():
            assert process.poll() is None, f"the node ended with {process.returncode}"
            assert time.monotonic() < deadline, "the node never came up"
            time.sleep(0.1)
    finally:
        observer.destroy_node()
        rclpy.shutdown(context=context)
