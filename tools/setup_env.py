#!/usr/bin/env python3
"""Makes the project's environment: Python packages, ROS 2 wheels, vision_msgs and this package.

    python3 tools/setup_env.py                      .venv         ROS 2 Jazzy
    python3 tools/setup_env.py demo                 only what `instaseg demo` needs
    ROS_DISTRO=kilted python3 tools/setup_env.py    .venv-kilted  ROS 2 Kilted
    HASHES=1 python3 tools/setup_env.py             refuses files other than those that were pinned

Nothing is done twice: each step leaves a stamp that names its inputs. Running it again repairs an
interrupted run. uv installs, many times as fast as pip, which does it where uv cannot be had. Needs
Linux on x86-64 (the ROS wheels are made for nothing else), Python 3.10 or newer with venv and
headers, a C and a C++ compiler.
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
# Headings in python.txt. The demo needs what stands above the first, and Kilted's environment has
# what stands above the second. Jazzy's, where all other suites run, has everything.
ROS_SUITE, UNIT_SUITE = "# ROS suite", "# unit suite and lint"
# Settings of pip that uv has under another name; it reads none of pip's.
UV_SETTINGS = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "no-index": "UV_NO_INDEX",
    "find-links": "UV_FIND_LINKS",
    "constraint": "UV_CONSTRAINT",
    "trusted-host": "UV_INSECURE_HOST",
    "default-timeout": "UV_HTTP_TIMEOUT",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
}

INSTALLS = ("packages", "suites", "references")  # steps

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
    if sys.argv[1:] not in ([], ["demo"]):
        sys.exit(f"expected no argument, or demo; got {' '.join(sys.argv[1:])}")
    distro = os.environ.get("ROS_DISTRO", "jazzy")
    if distro not in VENVS:
        sys.exit(
            f"ROS_DISTRO is {distro!r}, but the environment is made of {' or '.join(VENVS)} "
            "wheels: put ROS_DISTRO=jazzy before the command."
        )
    check_machine()
    try:
        with lock():
            set_up(VENVS[distro], distro, demo="demo" in sys.argv)
    except KeyboardInterrupt:
        sys.exit("\nset-up: interrupted; run it again to finish it.")


def set_up(venv: Path, distro: str, demo: bool = False) -> None:
    """Run the steps whose inputs have changed since they last completed."""
    ros_pins = TOOLS / "constraints" / f"{distro}.txt"
    python_pins = TOOLS / "constraints" / "python.txt"
    references = TOOLS / "constraints" / "references.txt"
    messages = sorted(path for path in (TOOLS / "vision_msgs").rglob("*") if path.is_file())
    manifests = [ROOT / name for name in ("package.xml", "setup.py", "setup.cfg")]
    python = f"{sys.version} {sys.base_prefix} {venv}"

    stamps = venv / ".setup"
    # An interrupted installer leaves packages that only look installed.
    if any(path.exists() and not path.read_text() for path in map(stamps.joinpath, INSTALLS)):
        shutil.rmtree(stamps)

    def changed(name: str, what: str, action: Callable[[], None], *inputs: Path) -> None:
        step(stamps / name, fingerprint(python, inputs), what, action)

    hashed = os.environ.get("HASHES", "0") not in ("", "0")
    hashes = [ros_pins.parent / "hashes" / pins.name for pins in (python_pins, ros_pins) if hashed]

    def install_demo() -> None:
        if hashes:
            install_verified(venv, hashes)
        requirements = [f"--requirement={ros_pins}", *wanted(python_pins, ROS_SUITE)]
        install_packages(venv, python_pins, requirements)

    def install_suites() -> None:
        below = UNIT_SUITE if distro == "kilted" else None
        install_packages(venv, python_pins, wanted(python_pins, below))

    changed("python", f"a new environment in {venv.name}", lambda: make_venv(venv, not hashed))
    what = "ROS and the packages of the demo, 2 GB"
    changed("packages", what, install_demo, python_pins, ros_pins, *hashes)
    what = "vision_msgs, compiled"
    changed("vision_msgs", what, lambda: build_vision_msgs(venv), ros_pins, *messages)
    changed("instaseg_ros", "this package, editable", lambda: install_project(venv), *manifests)
    if demo:
        return
    what = "packages of the suites, 2 GB"
    changed("suites", what, install_suites, python_pins, ros_pins, *hashes)
    if distro == "jazzy":
        what = "what tests compare with"
        changed("references", what, lambda: install_references(venv, references), references)


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


def make_venv(venv: Path, with_uv: bool) -> None:
    if venv.is_symlink():  # what it leads to would be emptied, be it another checkout's
        sys.exit(f"\nset-up: {venv} is a link to {venv.resolve()}: remove the link first")
    base = Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
    run([base if base.exists() else sys.executable, "-m", "venv", "--clear", venv])
    if with_uv:
        pins = TOOLS / "constraints" / "python.txt"
        got = subprocess.run([*pip(venv), f"--constraint={pins}", "uv"], capture_output=True)
        if got.returncode:
            print(" without uv, by pip alone ...", end="", flush=True)


def wanted(pins: Path, below: str | None) -> list[str]:
    """The Python packages to install: those above the heading `below`, or all. uv, which installs
    them, is not needed."""
    lines = pins.read_text(encoding="utf-8").splitlines()
    kept = lines[: lines.index(below)] if below else lines
    return [line for line in kept if line and not line.startswith(("#", "uv=="))]


def install_packages(venv: Path, pins: Path, requirements: list[str]) -> None:
    """Install the requirements; the pins also constrain their dependencies."""
    install(venv, f"--constraint={pins}", *requirements)


def install_verified(venv: Path, hashes: Sequence[Path]) -> None:
    """Install all packages with known hashes, and none whose file is another; what is there already
    is installed anew. torch is not among them."""
    files = [f"--requirement={path}" for path in hashes]
    run([*pip(venv), "--no-deps", "--require-hashes", "--force-reinstall", *files])


def install_references(venv: Path, pins: Path) -> None:
    install(venv, "--no-deps", f"--requirement={pins}")


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
            path.unlink()  # uv links files to its cache, where they must stay as they are
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
    options = ("--no-deps", "--no-build-isolation", "--force-reinstall")
    install(venv, *options, f"--editable={ROOT}")
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


def install(venv: Path, *words: str) -> None:
    """`pip install` with these words, by uv where it is there and can."""
    uv = venv / "bin" / "uv"
    if uv.exists():
        command = [str(uv), "pip", "install", f"--python={venv / 'bin' / 'python'}", *words]
        environment = uv_settings(venv) | dict(os.environ)
        if subprocess.run(command, env=environment, capture_output=True).returncode == 0:
            return
        print(" uv could not, pip tries ...", end="", flush=True)
        words = ("--force-reinstall", *words)  # what uv may have left half done
    run([*pip(venv), *words])


def uv_settings(venv: Path) -> dict[str, str]:
    """Variables that tell uv where pip is told to look for packages."""
    listed = subprocess.run(
        [venv / "bin" / "python", "-m", "pip", "config", "list"], capture_output=True, text=True
    )
    settings: dict[str, str] = {}  # of all commands, of `install`, in the environment
    for section in ("global", "install", ":env:"):
        found = re.findall(rf"^{section}\.([\w-]+)='(.*)'$", listed.stdout, re.MULTILINE)
        settings |= {UV_SETTINGS[name]: value for name, value in found if name in UV_SETTINGS}
    joined = {}
    for name, value in settings.items():
        separator = "," if name == "UV_FIND_LINKS" else " "
        joined[name] = separator.join(value.replace("\\n", " ").split())
    return {"UV_INDEX_STRATEGY": "unsafe-best-match", **joined}  # of all indexes, as pip does


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
