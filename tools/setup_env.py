#!/usr/bin/env python3
"""Makes the project's environment: Python packages, ROS 2 wheels, vision_msgs and this package.

    python3 tools/setup_env.py                      .venv         ROS 2 Jazzy
    ROS_DISTRO=kilted python3 tools/setup_env.py    .venv-kilted  ROS 2 Kilted
    HASHES=1 python3 tools/setup_env.py             refuses files other than those that were pinned

Nothing is done twice: each step leaves a stamp that names its inputs. Running it again repairs an
interrupted run. Needs Linux on x86-64 (the ROS wheels are made for nothing else), Python 3.10 or
newer with venv and headers, a C and a C++ compiler.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / "tools"
VENVS = {"jazzy": ROOT / ".venv", "kilted": ROOT / ".venv-kilted"}
# In python.txt; packages below it are installed for Jazzy, where that suite runs (1.6 GB).
UNIT_SUITE = "# unit suite and lint"

# Variables that another ROS, another environment or the wheels' start-up may have set.
FOREIGN_VARIABLES = (
    "PYTHONPATH",
    "PYTHONHOME",
    "LD_LIBRARY_PATH",
    "AMENT_PREFIX_PATH",
    "CMAKE_PREFIX_PATH",
    "COLCON_PREFIX_PATH",
    "_ROS_WHEELS_BOOTSTRAP_COMPLETE",
)


def main() -> None:
    for name in FOREIGN_VARIABLES:
        os.environ.pop(name, None)
    distro = os.environ.get("ROS_DISTRO", "jazzy")
    if distro not in VENVS:
        sys.exit(
            f"ROS_DISTRO is {distro!r}, but the environment is made of {' or '.join(VENVS)} "
            "wheels: put ROS_DISTRO=jazzy before the command."
        )
    check_machine()
    try:
        with lock():
            set_up(VENVS[distro], distro)
    except KeyboardInterrupt:
        sys.exit("\nset-up: interrupted; run it again to finish it.")


def set_up(venv: Path, distro: str) -> None:
    """Run the steps whose inputs have changed since they last completed."""
    ros_pins = TOOLS / "constraints" / f"{distro}.txt"
    python_pins = TOOLS / "constraints" / "python.txt"
    references = TOOLS / "constraints" / "references.txt"
    messages = sorted(path for path in (TOOLS / "vision_msgs").rglob("*") if path.is_file())
    manifests = [ROOT / name for name in ("package.xml", "setup.py", "setup.cfg")]
    python = f"{sys.version} {sys.base_prefix} {venv}"

    stamps = venv / ".setup"
    # An interrupted pip leaves packages that only look installed.
    torn = (stamps / "packages").exists() and not (stamps / "packages").read_text()
    if torn:
        shutil.rmtree(stamps)

    def changed(name: str, what: str, action: Callable[[], None], *inputs: Path) -> None:
        step(stamps / name, fingerprint(python, inputs), what, action)

    changed("python", f"a new environment in {venv.name}", lambda: make_venv(venv))
    requirements = [f"--requirement={ros_pins}", *wanted(python_pins, distro)]
    hashed = os.environ.get("HASHES", "0") not in ("", "0")
    hashes = [ros_pins.parent / "hashes" / pins.name for pins in (python_pins, ros_pins) if hashed]

    def install() -> None:
        if hashes:
            install_verified(venv, hashes)
        install_packages(venv, python_pins, requirements)

    changed(
        "packages",
        "pinned packages, gigabytes, a minute or more",
        install,
        python_pins,
        ros_pins,
        *hashes,
    )
    if distro == "jazzy":
        what = "what tests compare with"
        changed("references", what, lambda: install_references(venv, references), references)
    what = "vision_msgs, compiled in half a minute"
    changed("vision_msgs", what, lambda: build_vision_msgs(venv), ros_pins, *messages)
    changed("instaseg_ros", "this package, editable", lambda: install_project(venv), *manifests)


def step(stamp: Path, key: str, what: str, action: Callable[[], None]) -> None:
    """Run `action` unless the stamp says that it was done with the same inputs."""
    if stamp.exists() and stamp.read_text() == key:
        return
    print(f"set-up: {what} ...", end="", flush=True)
    start = time.monotonic()
    if stamp.parent.exists():
        stamp.write_text("")  # begun
    action()
    stamp.parent.mkdir(exist_ok=True)
    stamp.write_text(key)
    print(f" {time.monotonic() - start:.0f} s", flush=True)


def fingerprint(text: str, files: Iterable[Path] = ()) -> str:
    digest = hashlib.sha256(text.encode())
    for path in files:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


@contextmanager
def lock() -> Iterator[None]:
    """Lock the checkout for one set-up. Children inherit the lock, so that a new run waits for the
    children of a killed one."""
    handle = os.open(ROOT, os.O_RDONLY)
    os.set_inheritable(handle, True)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("set-up: waiting for another set-up in this folder", flush=True)
        fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(handle)


def check_machine() -> None:
    """If something is missing that pip cannot install, stop, or as root on Debian and Ubuntu
    install it."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        sys.exit(
            f"The ROS 2 wheels are made for Linux on x86-64, this is {sys.platform} on "
            f"{platform.machine()}: install ROS 2 itself here and build with colcon (README)."
        )
    if sys.version_info < (3, 10):  # noqa: UP036 (this file runs before anything is checked)
        sys.exit(
            f"Expected Python 3.10 or newer, found {platform.python_version()}: name one, "
            "as in PYTHON=python3.12 make demo"
        )
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    missing = []
    if find_spec("ensurepip") is None or find_spec("venv") is None:
        missing.append(f"{version}-venv")
    if not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        missing.append(f"{version}-dev")
    compilers = (os.environ.get("CC", "cc"), os.environ.get("CXX", "c++"))
    if not all(shutil.which(compiler.split()[0]) for compiler in compilers):
        missing.append("build-essential")
    if not missing:
        return
    line = f"apt-get install -y {' '.join(missing)}"
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"set-up: {line}", flush=True)
        os.environ["DEBIAN_FRONTEND"] = "noninteractive"
        subprocess.run(["apt-get", "update", "-qq"], check=False)
        if subprocess.run(line.split(), check=False).returncode == 0:
            return
    sys.exit(f"Missing here, and not available from pip: {', '.join(missing)}. Run\n  sudo {line}")


def make_venv(venv: Path) -> None:
    if venv.is_symlink():  # what it leads to would be emptied, be it another checkout's
        sys.exit(f"\nset-up: {venv} is a link to {venv.resolve()}: remove the link first")
    base = Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
    run([base if base.exists() else sys.executable, "-m", "venv", "--clear", venv])


def wanted(pins: Path, distro: str) -> list[str]:
    """The Python packages for pip to install: all pins, or those above UNIT_SUITE."""
    above, heading, below = pins.read_text(encoding="utf-8").partition(f"\n{UNIT_SUITE}\n")
    lines = (above + heading + below if distro == "jazzy" else above).splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def install_packages(venv: Path, pins: Path, requirements: list[str]) -> None:
    """Install the requirements; the pins also constrain their dependencies."""
    run([*pip(venv), f"--constraint={pins}", *requirements])


def install_verified(venv: Path, hashes: Sequence[Path]) -> None:
    """Install all packages with known hashes, and none whose file is another; what is there already
    is installed anew. torch is not among them."""
    files = [f"--requirement={path}" for path in hashes]
    run([*pip(venv), "--no-deps", "--require-hashes", "--force-reinstall", *files])


def install_references(venv: Path, pins: Path) -> None:
    run([*pip(venv), "--no-deps", f"--requirement={pins}"])


def build_vision_msgs(venv: Path) -> None:
    """Compile our copy of the interface into the environment, where rclpy looks for it."""
    probe = (
        "import json, numpy, os, sysconfig; print(json.dumps([sysconfig.get_paths()['include'], "
        "numpy.get_include(), os.environ['LD_LIBRARY_PATH']]))"
    )
    python = venv / "bin" / "python"
    answer = subprocess.run([python, "-c", probe], check=True, capture_output=True, text=True)
    python_include, numpy_include, library_path = json.loads(answer.stdout)

    # The wheels' cmake files name the include directories of the machine that built them.
    for path in venv.glob("share/*/cmake/*Export.cmake"):
        old = path.read_text()
        new = re.sub(r"/opt/python/[^/;\"]+/lib/[^;\"]+/numpy/[^;\"]*include", numpy_include, old)
        new = re.sub(r"/opt/python/[^/;\"]+/include/[^;\"]+", python_include, new)
        if new != old:
            path.write_text(new)

    build = venv / ".setup" / "build"
    shutil.rmtree(build, ignore_errors=True)
    environment = {
        "PATH": f"{venv / 'bin'}:{os.environ['PATH']}",
        "AMENT_PREFIX_PATH": str(venv),
        "CMAKE_PREFIX_PATH": str(venv),
        "LD_LIBRARY_PATH": library_path,
    }
    cmake = venv / "bin" / "cmake"
    options = ("-G", "Ninja", "-DBUILD_TESTING=OFF", f"-DCMAKE_INSTALL_PREFIX={venv}")
    source = TOOLS / "vision_msgs"
    configure: list[str | Path] = [
        cmake,
        "-S",
        source,
        "-B",
        build,
        *options,
        f"-DPython3_EXECUTABLE={python}",
    ]
    run(configure, environment)
    run([cmake, "--build", build, "--target", "install"], environment)
    shutil.rmtree(build)


def install_project(venv: Path) -> None:
    """Install the package editable, and link the files that this leaves out to the source tree."""
    run([*pip(venv), "--no-deps", "--no-build-isolation", "--editable", ROOT])
    share = venv / "share" / "instaseg_ros"
    links = {
        venv / "lib" / "instaseg_ros" / "instaseg_node": venv / "bin" / "instaseg_node",
        venv / "share/ament_index/resource_index/packages/instaseg_ros": ROOT
        / "resource/instaseg_ros",
        share / "package.xml": ROOT / "package.xml",
        share / "launch": ROOT / "launch",
        share / "config": ROOT / "config",
    }
    for link, target in links.items():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(target)


def pip(venv: Path) -> list[str]:
    return [str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install"]


def run(command: Sequence[str | Path], environment: dict[str, str] | None = None) -> None:
    """Run a command; show its output only if it fails."""
    done = subprocess.run(
        command,
        env=os.environ | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        close_fds=False,
    )
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-40:])
        sys.exit(f"\n{tail}\nset-up: failed: {' '.join(map(str, command))}")


if __name__ == "__main__":
    main()
