#!/usr/bin/env python3
"""Runs the unit suite with the lowest versions that setup.py promises, in .venv-lowest.

    make lowest                                 all of it
    python3 tools/lowest.py test/config         arguments for pytest

tools/constraints/lowest.txt has the versions: mostly those of Ubuntu 22.04, which Humble runs on.
They exist for Python 3.10, which has to be installed; LOWEST_PYTHON names it if it is not on the
PATH.
The x86 wheel of torch is the CUDA build: 5 GB with what it needs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setup_env import FOREIGN_VARIABLES, ROOT, fingerprint, lock, pip, run, step

VENV = ROOT / ".venv-lowest"
PINS = ROOT / "tools" / "constraints" / "lowest.txt"
# Of these versions PyPI has no wheel for Python 3.10; they are built, by what they could be built
# with then.
BUILT = ("PyYAML", "pycocotools")
BUILD_WITH = ("setuptools==59.6.0", "wheel==0.37.1", "Cython==0.29.37")
SUITE = ("-m", "not ros and not gpu and not slow and not newest", "-n", "2", "--dist", "loadgroup")


def main() -> None:
    for name in FOREIGN_VARIABLES:
        os.environ.pop(name, None)
    with lock():
        set_up(find_python())
    os.environ |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [str(VENV / "bin" / "python"), "-m", "pytest", *SUITE, *sys.argv[1:]]
    sys.exit(subprocess.run(command, cwd=ROOT, check=False).returncode)


def find_python() -> Path:
    """Python 3.10. Raises SystemExit if there is none."""
    # Those of pyenv first: what it puts on the PATH runs only where it is told which to run.
    installed = sorted(map(str, Path.home().glob(".pyenv/versions/3.10.*/bin/python")))
    named = os.environ.get("LOWEST_PYTHON") or max(installed, default="")
    if not (found := named or shutil.which("python3.10")):
        sys.exit("Expected Python 3.10, found none: install it, or name it in LOWEST_PYTHON")
    return Path(found)


def set_up(python: Path) -> None:
    what = f"the lowest versions, in {VENV.name}, gigabytes"
    step(VENV / ".setup", fingerprint(str(python), [PINS]), what, lambda: install(python))


def install(python: Path) -> None:
    run([python, "-m", "venv", "--clear", VENV])
    pins = [line for line in PINS.read_text().splitlines() if line and not line.startswith("#")]
    numpy = next(pin for pin in pins if pin.startswith("numpy=="))
    built = [pin for pin in pins if pin.startswith(BUILT)]
    run([*pip(VENV), *BUILD_WITH, numpy])
    run([*pip(VENV), "--no-build-isolation", "--no-deps", *built])
    run([*pip(VENV), f"--constraint={PINS}", *pins])


if __name__ == "__main__":
    main()
