#!/usr/bin/env python3
"""Writes tools/constraints/hashes/: the SHA-256 of every file of every pinned package, for
`make HASHES=1 ros`. Run it after a pin was raised, half a minute:

    python3 tools/hash_pins.py

uv, which it installs for itself, reads them off the package index for every platform and Python.
torch is left out: its builds for CPUs, of vendors and of mirrors are other files of the same
version.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

PINS = Path(__file__).resolve().parent / "constraints"
NAMES = ("python", "jazzy", "kilted")
LEFT_OUT = "torch=="
OPTIONS = ("--no-deps", "--universal", "--python-version=3.10", "--generate-hashes", "--no-header")


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run([sys.executable, "-m", "venv", scratch], check=True)
        python = Path(scratch, "bin", "python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", "uv"], check=True)
        for name in NAMES:
            write(name, Path(scratch))


def write(name: str, scratch: Path) -> None:
    lines = (PINS / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    wanted = scratch / f"{name}.in"
    wanted.write_text("\n".join(line for line in lines if not line.startswith(LEFT_OUT)) + "\n")
    found = scratch / f"{name}.txt"
    words = ("pip", "compile", "--quiet", "--no-annotate", *OPTIONS, wanted, "--output-file", found)
    subprocess.run([scratch / "bin" / "uv", *map(str, words)], check=True)
    text = re.sub(r" \\\n *", " ", found.read_text(encoding="utf-8"))  # a package, a line
    (PINS / "hashes" / f"{name}.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
